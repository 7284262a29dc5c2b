"""Residues as planes: the form of a ciphertext on the wire and in the fold.

A ciphertext consists of residues [component 0..1][prime][coefficient] in NTT form, each below its
prime. On the wire (docs/wire.md):

    low     the low 32 bits of every residue                    uint32   [2][primes][N]
    high16  the next 16 bits, of primes with 33 to 48 bits      uint16   [2][such primes][N]
    high32  the next 28 bits, of primes with 49 to 60 bits      uint32   [2][such primes][N]

all little-endian, one after the other. A fold is one addition per plane.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.errors import EnvelopeError
from gridhe.plan.parameters import CkksParameters

__all__ = ["PlaneViews", "Planes"]

_LOW = np.dtype("<u4")
_HIGH16 = np.dtype("<u2")
_HIGH32 = np.dtype("<u4")
_WORD = np.uint64(32)


@dataclass(frozen=True, slots=True)
class PlaneViews:
    """The planes of one ciphertext, as views into its bytes: each [2][its primes][N]."""

    low: NDArray[np.uint32]
    high16: NDArray[np.uint16]
    high32: NDArray[np.uint32]


class Planes:
    """Packs, unpacks and checks the residues of one ring."""

    def __init__(self, parameters: CkksParameters) -> None:
        self.parameters = parameters
        n, bits = parameters.ring_degree, parameters.prime_bits[:-1]
        self.shape = (2, len(bits), n)
        self.at16 = [i for i, size in enumerate(bits) if 32 < size <= 48]
        self.at32 = [i for i, size in enumerate(bits) if size > 48]
        self._low_bytes = 2 * len(bits) * n * 4
        self._high16_bytes = 2 * len(self.at16) * n * 2
        self.size = self._low_bytes + self._high16_bytes + 2 * len(self.at32) * n * 4
        primes = parameters.primes
        # For the comparison with residues: each prime, split into high and low word above 32 bits.
        self._whole = [(i, primes[i]) for i, size in enumerate(bits) if size <= 32]
        self._split16 = [
            (place, i, primes[i] >> 32, primes[i] & 0xFFFFFFFF) for place, i in enumerate(self.at16)
        ]
        self._split32 = [
            (place, i, primes[i] >> 32, primes[i] & 0xFFFFFFFF) for place, i in enumerate(self.at32)
        ]

    def views(self, ciphertext: Any) -> PlaneViews:
        """The planes of a ciphertext's bytes (any buffer). Raises EnvelopeError `size`."""
        if len(ciphertext) != self.size:
            raise EnvelopeError(
                "size", f"a ciphertext of {self.parameters} has {self.size} bytes, not {len(ciphertext)}"
            )
        n = self.shape[2]
        after16 = self._low_bytes + self._high16_bytes
        return PlaneViews(
            np.frombuffer(ciphertext, _LOW, 2 * self.shape[1] * n).reshape(self.shape),
            np.frombuffer(ciphertext, _HIGH16, 2 * len(self.at16) * n, self._low_bytes).reshape(
                2, len(self.at16), n
            ),
            np.frombuffer(ciphertext, _HIGH32, 2 * len(self.at32) * n, after16).reshape(2, len(self.at32), n),
        )

    def pack(self, residues: NDArray[np.uint64]) -> bytes:
        """The bytes of residues uint64[2][primes][N], each below its prime."""
        residues = np.ascontiguousarray(residues, "<u8")
        words, halves = residues.view(_LOW), residues.view(_HIGH16)  # little-endian: the low part comes first
        return b"".join(
            (
                words[..., ::2].tobytes(),
                halves[:, self.at16, 2::4].tobytes(),
                words[:, self.at32, 1::2].tobytes(),
            )
        )

    def unpack(self, ciphertext: Any) -> NDArray[np.uint64]:
        """The residues uint64[2][primes][N] in these bytes. Raises EnvelopeError `size`."""
        planes = self.views(ciphertext)
        residues = planes.low.astype(np.uint64)
        if self.at16:
            residues[:, self.at16] |= planes.high16.astype(np.uint64) << _WORD
        if self.at32:
            residues[:, self.at32] |= planes.high32.astype(np.uint64) << _WORD
        return residues

    def check(self, planes: PlaneViews) -> None:
        """Raise EnvelopeError `residue` if one is not below its prime, `transparent` if it is not encrypted.

        With an all-zero second component a ciphertext is a bare plaintext that anyone can read.
        A split residue is compared by its high word, and by its low word only if the high words are equal.
        So the maxima of the two planes decide for nearly every batch; else single residues are compared.
        """
        # One residue other than zero is enough, and nearly always the first one is not zero.
        if not planes.low[1, 0, 0] and not any(
            plane[1].any() for plane in (planes.low, planes.high16, planes.high32)
        ):
            raise EnvelopeError("transparent", "the second component is zero: not encrypted")
        for i, prime in self._whole:
            if int(planes.low[:, i].max()) >= prime:
                raise EnvelopeError("residue", f"a residue of prime {i} is not below {prime}")
        for place, i, high_word, low_word in self._split16:
            self._check_split(planes.high16[:, place], planes.low[:, i], high_word, low_word, i)
        for place, i, high_word, low_word in self._split32:
            self._check_split(planes.high32[:, place], planes.low[:, i], high_word, low_word, i)

    def _check_split(
        self, high: NDArray[Any], low: NDArray[np.uint32], high_word: int, low_word: int, prime: int
    ) -> None:
        highest = int(high.max())
        if highest < high_word or (highest == high_word and int(low.max()) < low_word):
            return
        if highest > high_word or bool((low[high == high_word] >= low_word).any()):
            raise EnvelopeError(
                "residue", f"a residue of prime {prime} is not below {self.parameters.primes[prime]}"
            )
