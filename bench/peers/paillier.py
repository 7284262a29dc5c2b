"""Paillier through `phe`, 2048-bit keys: a ciphertext for each number, as its users do it.

`phe` has no packing. `paillier-packed` does by hand what its users could: 64 numbers of 31 bits, room for
the sums of four million meters, in one plaintext.
"""

import importlib
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from gridhe.bench.peers.protocol import PeerAbsent

__all__ = ["NAME", "PACKED_NAME", "PaillierPeer", "make", "make_packed"]

NAME, PACKED_NAME = "paillier", "paillier-packed"
_KEY_BITS = 2_048
_LANE_BITS, _LANES = 31, 64
# 16 numbers per call: all 1,024 would take half a minute. Packed: 256 numbers in four full ciphertexts.
_SHARE, _PACKED_SHARE = 64, 4


class PaillierPeer:
    """`lanes` numbers in each ciphertext."""

    def __init__(self, phe: Any, *, lanes: int) -> None:
        self.NAME = NAME if lanes == 1 else PACKED_NAME
        self.share = _SHARE if lanes == 1 else _PACKED_SHARE
        self._phe, self._lanes = phe, lanes
        self._public, self._private = phe.generate_paillier_keypair(n_length=_KEY_BITS)

    def encrypt(self, numbers: NDArray[np.int64]) -> Any:
        """The ciphertexts, as integers."""
        return [self._public.encrypt(whole).ciphertext() for whole in self._packed(numbers)]

    def _packed(self, numbers: NDArray[np.int64]) -> list[int]:
        values = [int(number) for number in numbers]
        chunks = [values[i : i + self._lanes] for i in range(0, len(values), self._lanes)]
        return [sum(value << (_LANE_BITS * i) for i, value in enumerate(chunk)) for chunk in chunks]

    def serialize(self, batch: Any) -> bytes:
        """512 bytes for each ciphertext."""
        packed: bytes = msgpack.packb([one.to_bytes(2 * _KEY_BITS // 8, "big") for one in batch])
        return packed

    def add(self, total: Any, data: bytes) -> Any:
        """Load and add."""
        make_number = self._phe.EncryptedNumber
        loaded = [make_number(self._public, int.from_bytes(one, "big"), 0) for one in msgpack.unpackb(data)]
        return loaded if total is None else [old + new for old, new in zip(total, loaded, strict=True)]

    def decrypt(self, total: Any) -> NDArray[np.int64]:
        """The sums, lane by lane."""
        mask = (1 << _LANE_BITS) - 1
        sums = []
        for one in total:
            whole = self._private.decrypt(one)
            sums += [whole >> (_LANE_BITS * i) & mask for i in range(self._lanes)]
        return np.array(sums, np.int64)


def _phe() -> Any:
    try:
        return importlib.import_module("phe")
    except ImportError as error:
        raise PeerAbsent(f"phe does not import: {error}") from None


def make(seed: int) -> PaillierPeer:
    """Ready to encrypt. Raises PeerAbsent."""
    return PaillierPeer(_phe(), lanes=1)


def make_packed(seed: int) -> PaillierPeer:
    """Ready to encrypt. Raises PeerAbsent."""
    return PaillierPeer(_phe(), lanes=_LANES)
