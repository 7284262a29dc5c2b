"""Decrypting a total: the only module that uses the secret key on a ciphertext.

All slots are decoded in full, real and imaginary parts, and checked before anything is made of them:

    off_grid   a slot is further from a whole number, or from the real axis, than any honest total's
               (`gridhe.plan.exactness.grid_tolerance`)
    guards     a guard slot, tags aside, is not the sum of the members' guards
    tags       a tag slot does not fit the used slots (`gridhe.plan.guards`)
    presence   a `present` slot is not the number of members that sealed a reading for this interval
    range      a used slot is below 0, or above the number of members times its block's largest number

A total that fails raises `Unsound`. A sound one gives integers for the plan's used slots and nothing else.
The decrypted floats contain CKKS's error.
From enough of these errors the secret key can be computed (Li, Micciancio, EUROCRYPT 2021). So the floats
never leave `decrypt`, are not logged, and get flooding noise before they are rounded: even if the plan's
bound on the error is wrong, the noise and not the error decides how a value rounds.

The noise equals adding a polynomial e of N independent Gaussian coefficients of standard deviation sigma_f
to the plaintext polynomial: slot j gains Re e(zeta^(3^j)) / scale, zeta = exp(i pi / N), of standard
deviation sqrt(N/2) sigma_f / scale (`gridhe.custody.ring.embed`).

The noise of one total is always the same: ChaCha20 expands it from HMAC-SHA256(noise key, label), where the
noise key is in the vault and the label is the digest of plan, key and ciphertext. So a crash between
decrypting and storing the answer is harmless: decrypting again repeats the noise, an attacker cannot average
the noise out by causing crashes, and the query budget counts the total once. Other ciphertexts get
independent noise, as far as HMAC and ChaCha20 are pseudorandom. The noise key comes from the OS's CSPRNG.
"""

import hashlib
import hmac
import math
from collections.abc import Iterator

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from gridhe.custody.ring import embed, ring_of
from gridhe.custody.secret import secret_of
from gridhe.plan.exactness import grid_tolerance
from gridhe.plan.guards import Guards, GuardSums
from gridhe.plan.plan import TAGS, Plan
from gridhe.wire.planes import Planes

__all__ = ["Decryptor", "Unsound", "gaussian", "noise_label"]

_DOMAIN = b"gridhe/v1/noise\0"


def noise_label(plan: Plan, ciphertext: bytes) -> bytes:
    """32 bytes that identify this ciphertext under this plan and key."""
    digest = hashlib.sha256(ciphertext).digest()
    return hashlib.sha256(f"{plan.plan_id}/{plan.key_id}/".encode() + digest).digest()


def gaussian(noise_key: bytes, label: bytes, count: int) -> NDArray[np.float64]:
    """float64[count] of standard normal numbers: equal for equal key and label, otherwise independent.

    Box-Muller on pairs of 53-bit uniforms; the radius' uniform lies in (0, 1], so it reaches
    sqrt(2 * 53 ln 2) = 8.6 standard deviations.
    """
    seed = hmac.digest(noise_key, _DOMAIN + label, "sha256")
    pairs = (count + 1) // 2
    # A fresh key per label, so the nonce may be zero; 2 * 8 bytes a pair.
    stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor().update(bytes(16 * pairs))
    words = np.frombuffer(stream, "<u8").reshape(2, pairs) >> np.uint64(11)
    uniform = (words + np.array([[1], [0]], np.uint64)) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(uniform[0]))
    angle = 2.0 * math.pi * uniform[1]
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]


class Unsound(Exception):
    """A total that fails a check, `check`. Its text has no number of the total.

    `errors` is int64[guards - 8], what is wrong in each guard slot, tags aside; `present_errors` is
    int64[quantities][intervals], what is wrong in the present counts. They serve to name the meter that
    caused it (gridhe.keyring.release.suspects), and must not be stored or shown.
    """

    def __init__(self, check: str, errors: NDArray[np.int64], present_errors: NDArray[np.int64]) -> None:
        super().__init__(f"the decrypted slots fail the check {check!r}")
        self.check, self.errors, self.present_errors = check, errors, present_errors


class Decryptor:
    """Decrypts and checks totals of one plan."""

    def __init__(self, plan: Plan, secret_context: bytes, noise_key: bytes, home_key: bytes) -> None:
        """`secret_context`: a serialized TenSEAL context with its secret key. Raises VaultError.

        `home_key` is the key of the tags' coefficients (gridhe.plan.guards).
        """
        self.plan = plan
        self._planes, self._ring, self._guards = (
            Planes(plan.parameters),
            ring_of(plan.parameters),
            Guards(plan),
        )
        self._secret = secret_of(secret_context, plan.parameters)
        self._noise_key, self._home_key = noise_key, home_key
        layout, self._largest = plan.layout, np.empty(plan.layout.used, np.int64)
        self._present = [layout.block(quantity.name, "present") for quantity in plan.quantities]
        for quantity in plan.quantities:
            for kind in layout.kinds(quantity):
                largest = {"reading": quantity.largest, "square": quantity.largest_square}.get(kind, 1)
                self._largest[layout.block(quantity.name, kind)] = largest

    def open(self, ciphertext: bytes, *, window: int, sums: GuardSums) -> NDArray[np.int64]:
        """The integers of a total's used slots, int64[used], after the checks, flooding and rounding.

        `sums` are the sums over the members that the total names. Raises Unsound if a check fails, and
        EnvelopeError if the bytes are not a ciphertext of this ring.
        """
        slots = self.decode(ciphertext)
        self.check(slots, window=window, sums=sums)
        return self.flood(slots, ciphertext)

    def decode(self, ciphertext: bytes) -> NDArray[np.complex128]:
        """All slots complex128[N/2] with their errors, which must not be shown. Raises EnvelopeError."""
        self._planes.check(self._planes.views(ciphertext))
        return self._ring.decode(self._planes.unpack(ciphertext), self._secret, self.plan.scale)

    def check(self, slots: NDArray[np.complex128], *, window: int, sums: GuardSums) -> None:
        """Raise Unsound at the first check that these slots complex128[N/2] fail."""
        whole = np.rint(slots.real)
        # 2^62 is an exact double and far above any plan's totals.
        integers = np.clip(whole, -(2.0**62), 2.0**62).astype(np.int64)
        errors = integers[self.plan.layout.used : -TAGS] - sums.guards[:-TAGS]
        present_errors = np.stack([integers[block] for block in self._present]) - sums.present
        for check, failed in self._checks(slots, whole, integers, errors, present_errors, window, sums):
            if failed:
                raise Unsound(check, errors, present_errors)

    def flood(self, slots: NDArray[np.complex128], ciphertext: bytes) -> NDArray[np.int64]:
        """The used slots int64[used] of a total with this ciphertext, with flooding noise, rounded."""
        plan, used = self.plan, self.plan.layout.used
        flooded = slots.real[:used]
        if plan.flooding_bits:
            noise = gaussian(self._noise_key, noise_label(plan, ciphertext), plan.parameters.ring_degree)
            flooded = flooded + embed(noise).real[:used] * (plan.flooding_sigma / plan.scale)
        result: NDArray[np.int64] = np.rint(np.clip(flooded, -(2.0**62), 2.0**62)).astype(np.int64)
        return result

    def _checks(
        self,
        slots: NDArray[np.complex128],
        whole: NDArray[np.float64],
        integers: NDArray[np.int64],
        errors: NDArray[np.int64],
        present_errors: NDArray[np.int64],
        window: int,
        sums: GuardSums,
    ) -> Iterator[tuple[str, bool]]:
        """Each check's name, and whether the total fails it."""
        tolerance = grid_tolerance(self.plan, sums.meters)
        yield (
            "off_grid",
            not (np.abs(slots.real - whole).max() <= tolerance and np.abs(slots.imag).max() <= tolerance),
        )
        yield "guards", bool(errors.any())
        faults = self._guards.tag_faults(window, integers, sums.guards, self._home_key)
        yield "tags", bool(faults.any())
        yield "presence", bool(present_errors.any())
        used = integers[: len(self._largest)]
        yield "range", bool((used < 0).any() or (used > sums.meters * self._largest).any())
