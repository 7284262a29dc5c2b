"""Adds ciphertexts as planes: one numpy addition per plane and batch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.wire.planes import Planes, PlaneViews

__all__ = ["Accumulator"]

# The high16 plane adds uint16 into uint32: 2^16 additions of at most 2^16 - 1 fit, so reduce before.
# The other planes add 32-bit numbers into uint64: 2^32 additions fit.
_FOLDS_MAX = 65_535
# Up to this many folds low + high16 * 2^32 is below 2^63 and fits one word, so one division is enough.
_FOLDS_ONE_WORD = 1 << 14


def _mod_shifted(high: NDArray[np.uint64], shift: int, prime: int) -> NDArray[np.uint64]:
    """high * 2^shift mod prime in 64-bit words: shifts by as many bits as fit, reduces, and repeats."""
    step = 64 - prime.bit_length()
    modulus = np.uint64(prime)
    value = high % modulus
    while shift:
        now = min(step, shift)
        value = (value << np.uint64(now)) % modulus
        shift -= now
    return value


class Accumulator:
    """A running encrypted total in wide planes: low and high32 as uint64, high16 as uint32.

    Uses 12 to 16 bytes per residue (`nbytes`).
    """

    __slots__ = ("_folds", "_high16", "_high32", "_low", "_planes")

    def __init__(self, planes: Planes, ciphertext: Any = None) -> None:
        """An empty total, or the one packed in `ciphertext`. Raises EnvelopeError `size`."""
        n = planes.shape[2]
        self._planes = planes
        self._folds = 0
        self._low = np.zeros(planes.shape, np.uint64)
        self._high16 = np.zeros((2, len(planes.at16), n), np.uint32)
        self._high32 = np.zeros((2, len(planes.at32), n), np.uint64)
        if ciphertext is not None:
            self.fold(planes.views(ciphertext))

    @staticmethod
    def bytes_of(planes: Planes) -> int:
        """Bytes in memory of a total with these planes."""
        residues = 2 * planes.shape[2]
        return residues * (8 * planes.shape[1] + 4 * len(planes.at16) + 8 * len(planes.at32))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._low.nbytes + self._high16.nbytes + self._high32.nbytes

    def fold(self, planes: PlaneViews) -> None:
        """Add one ciphertext, whose residues must have been checked (each below its prime)."""
        if self._folds == _FOLDS_MAX:
            residues = self.residues()
            self._set(residues)
        np.add(self._low, planes.low, out=self._low)
        if self._high16.size:
            np.add(self._high16, planes.high16, out=self._high16)
        if self._high32.size:
            np.add(self._high32, planes.high32, out=self._high32)
        self._folds += 1

    def residues(self) -> NDArray[np.uint64]:
        """The total's residues uint64[2][primes][N], each below its prime."""
        out = np.empty(self._planes.shape, np.uint64)
        for i, prime in enumerate(self._planes.parameters.primes):
            modulus = np.uint64(prime)
            if i in self._planes.at16:
                high = self._high16[:, self._planes.at16.index(i)].astype(np.uint64)
                if self._folds <= _FOLDS_ONE_WORD:
                    high <<= np.uint64(32)
                    high += self._low[:, i]
                    # Twice as fast as np.remainder: numpy divides by a constant with multiplications.
                    np.floor_divide(high, modulus, out=out[:, i])
                    out[:, i] *= modulus
                    np.subtract(high, out[:, i], out=out[:, i])
                    continue
            elif i in self._planes.at32:
                high = self._high32[:, self._planes.at32.index(i)]
            else:
                np.remainder(self._low[:, i], modulus, out=out[:, i])
                continue
            out[:, i] = (self._low[:, i] % modulus + _mod_shifted(high, 32, prime)) % modulus
        return out

    def pack(self) -> bytes:
        """The total as a packed ciphertext. Also reduces the stored planes if more than 2^14 were folded."""
        residues = self.residues()
        if self._folds > _FOLDS_ONE_WORD:
            self._set(residues)
        return self._planes.pack(residues)

    def _set(self, residues: NDArray[np.uint64]) -> None:
        high = residues >> np.uint64(32)
        np.bitwise_and(residues, np.uint64(0xFFFFFFFF), out=self._low)
        self._high16[...] = high[:, self._planes.at16]
        self._high32[...] = high[:, self._planes.at32]
        self._folds = 1
