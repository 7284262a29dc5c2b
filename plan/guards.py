"""Guards: the numbers in the slots that a plan leaves free, by which a total shows whose batches are in it.

A meter fills every free slot with pseudo-random numbers that only it and the authority can compute. The
authority compares each guard slot of a total with the sum over the members that the total names. The last
`TAGS` guards are tag slots: they also carry a linear checksum of the used slots, with coefficients that all
meters share. The aggregator has none of these keys and does not import this module.

    guard secret  32 bytes, in the authority's vault only
    k             HKDF-SHA256(guard secret, info = "gridhe/v2/guard/" || meter)     in the meter's credential
    h             HKDF-SHA256(guard secret, info = "gridhe/v2/home")                in every credential
    ctx           plan id (17 bytes of ASCII) || window (8 bytes, big-endian)
    presence      one bit for each quantity and interval in the order of slots, 1 = there is a reading;
                  highest bit first, zero-padded: P = ceil(quantities * intervals / 8) bytes
    siv           HMAC-SHA256(k, "gridhe/v2/siv" || 0 || ctx || used slots as int64, little-endian)[:8]
    sealed        presence xor ChaCha20(HMAC-SHA256(k, "gridhe/v2/presence" || 0 || ctx || siv))[:P]
    proof         siv || sealed, in the envelope's header
    g             ChaCha20(HMAC-SHA256(k, "gridhe/v2/guards" || 0 || ctx || siv || presence)): uint16,
                  little-endian, each modulo 2^guard_bits, one for each free slot
    alpha         ChaCha20(HMAC-SHA256(h, "gridhe/v2/alpha" || 0 || ctx)): uint32, little-endian, [used][8],
                  each modulo the tag slot's prime
    guard slot    g_j; in tag slot i, (g + sum_j alpha_ji x_j) mod p_i, x the used slots

ChaCha20 is RFC 8439's with counter and nonce zero: each of its keys is used once. A batch sealed twice with
other readings has another siv, so other guards. The construction is a linearly homomorphic MAC (Agrawal,
Boneh, ACNS 2009) inside the plaintext; docs/proven-totals.md has the argument.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from gridhe.plan.plan import PROOF_SIV_BYTES, TAGS, Plan

__all__ = ["GUARD_KEY_BYTES", "GuardSums", "Guards", "Proven", "guard_key", "home_key"]

GUARD_KEY_BYTES = 32
# Two primes in turn, so that no plausible shift of a slot is a multiple of both.
_PRIMES = {16: (65521, 65519), 14: (16381, 16369)}


def guard_key(guard_secret: bytes, meter: str) -> bytes:
    """k: the 32-byte guard key of a meter."""
    return _derive(guard_secret, b"gridhe/v2/guard/" + meter.encode())


def home_key(guard_secret: bytes) -> bytes:
    """h: the 32-byte key of the tags' coefficients, the same for all meters of an authority."""
    return _derive(guard_secret, b"gridhe/v2/home")


def _derive(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=GUARD_KEY_BYTES, salt=None, info=info).derive(secret)


def _stream(key: bytes, size: int) -> bytes:
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What a member's proof says: `present` int64[quantities][intervals] of 0 and 1, `guards` int64[free]."""

    present: NDArray[np.int64]
    guards: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSums:
    """Sums of `Proven` over `meters` members: int64[quantities][intervals] and int64[free]."""

    meters: int
    present: NDArray[np.int64]
    guards: NDArray[np.int64]

    def __add__(self, other: "GuardSums") -> "GuardSums":
        return GuardSums(
            meters=self.meters + other.meters,
            present=self.present + other.present,
            guards=self.guards + other.guards,
        )


class Guards:
    """The guards of one plan. No secret is kept beyond the coefficients of the last window."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._plan_id = plan.plan_id.encode()
        self._used, self._free = plan.layout.used, plan.guards
        self._mask = np.uint16((1 << plan.guard_bits) - 1)
        self._primes = np.array([_PRIMES[plan.guard_bits][i & 1] for i in range(TAGS)], np.int64)
        self._alpha: tuple[int, bytes, NDArray[np.int64]] | None = None  # window, home key, coefficients
        layout = plan.layout
        self._present = np.concatenate(
            [np.arange(layout.used)[layout.block(each.name, "present")] for each in plan.quantities]
        )

    def fill(
        self, window: int, used: NDArray[np.int64], *, guard_key: bytes, home_key: bytes
    ) -> tuple[NDArray[np.int64], bytes]:
        """All slots int64[N/2] of a batch, and its proof, from its used slots int64[used].

        Raises ValueError for another shape or dtype.
        """
        if used.shape != (self._used,) or used.dtype != np.int64:
            raise ValueError(f"expected int64[{self._used}], got {used.dtype}{list(used.shape)}")
        context = self._context(window)
        message = b"gridhe/v2/siv\0" + context + used.astype("<i8").tobytes()
        siv = hmac.digest(guard_key, message, "sha256")[:PROOF_SIV_BYTES]
        presence = np.packbits(used[self._present].astype(np.uint8)).tobytes()
        slots = np.empty(self._used + self._free, np.int64)
        slots[: self._used] = used
        slots[self._used :] = self._words(guard_key, context, siv, presence)
        slots[-TAGS:] = (slots[-TAGS:] + self._checksum(window, used, home_key)) % self._primes
        return slots, siv + self._mask_presence(guard_key, context, siv, presence)

    def prove(self, window: int, proof: bytes, guard_key: bytes) -> Proven:
        """The presence and guards of the member with this guard key and proof, which has the plan's size."""
        context, siv = self._context(window), proof[:PROOF_SIV_BYTES]
        presence = self._mask_presence(guard_key, context, siv, proof[PROOF_SIV_BYTES:])
        bits = np.unpackbits(np.frombuffer(presence, np.uint8))[: len(self._present)]
        return Proven(
            present=bits.reshape(len(self.plan.quantities), -1).astype(np.int64),
            guards=self._words(guard_key, context, siv, presence),
        )

    def sums(self, window: int, members: Iterable[tuple[bytes, bytes]]) -> GuardSums:
        """The sums over members, each a (guard key, proof). 14 us a member."""
        shape = (len(self.plan.quantities), self.plan.intervals)
        present, guards = np.zeros(shape, np.int64), np.zeros(self._free, np.int64)
        count = 0
        for key, proof in members:
            member = self.prove(window, proof, key)
            present += member.present
            guards += member.guards
            count += 1
        return GuardSums(meters=count, present=present, guards=guards)

    def tag_faults(
        self, window: int, slots: NDArray[np.int64], expected: NDArray[np.int64], home_key: bytes
    ) -> NDArray[np.int64]:
        """The tag slots' remainders int64[8], all 0 in a sum of batches.

        `slots` is int64[N/2], a total's; `expected` int64[free], the sum of its members' guards.
        """
        tags = slots[-TAGS:] - expected[-TAGS:] - self._checksum(window, slots[: self._used], home_key)
        faults: NDArray[np.int64] = tags % self._primes
        return faults

    def _context(self, window: int) -> bytes:
        return self._plan_id + window.to_bytes(8, "big")

    def _words(self, key: bytes, context: bytes, siv: bytes, presence: bytes) -> NDArray[np.int64]:
        seed = hmac.digest(key, b"gridhe/v2/guards\0" + context + siv + presence, "sha256")
        words = np.frombuffer(_stream(seed, 2 * self._free), "<u2") & self._mask
        return words.astype(np.int64)

    @staticmethod
    def _mask_presence(key: bytes, context: bytes, siv: bytes, presence: bytes) -> bytes:
        seed = hmac.digest(key, b"gridhe/v2/presence\0" + context + siv, "sha256")
        mask = _stream(seed, len(presence))
        return (int.from_bytes(presence, "big") ^ int.from_bytes(mask, "big")).to_bytes(len(presence), "big")

    def _checksum(self, window: int, used: NDArray[np.int64], home_key: bytes) -> NDArray[np.int64]:
        """sum_j alpha_ji x_j mod p_i, int64[8]. Both factors are below 2^16, so the sum fits an int64."""
        reduced = np.tile(used[:, None] % self._primes[:2], TAGS // 2)
        checksum: NDArray[np.int64] = (reduced * self._coefficients(window, home_key)).sum(0) % self._primes
        return checksum

    def _coefficients(self, window: int, home_key: bytes) -> NDArray[np.int64]:
        if self._alpha is None or self._alpha[:2] != (window, home_key):
            seed = hmac.digest(home_key, b"gridhe/v2/alpha\0" + self._context(window), "sha256")
            words = np.frombuffer(_stream(seed, 4 * self._used * TAGS), "<u4").reshape(self._used, TAGS)
            self._alpha = window, home_key, words.astype(np.int64) % self._primes
        return self._alpha[2]
