"""DESILO FHE: a CKKS library with fixed rings; a ciphertext of the smallest has 4,096 slots."""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.bench.peers.protocol import SLOTS, PeerAbsent

__all__ = ["NAME", "DesiloPeer", "make"]

NAME = "desilofhe"


class DesiloPeer:
    """The smallest engine, at the level where only additions are left."""

    NAME = NAME
    share = 1

    def __init__(self, desilofhe: Any) -> None:
        self._engine = desilofhe.Engine(max_level=0, mode="cpu")
        self._secret = self._engine.create_secret_key()
        self._public = self._engine.create_public_key(self._secret)

    def encrypt(self, numbers: NDArray[np.int64]) -> Any:
        """A Ciphertext; half of its slots stay empty."""
        return self._engine.encrypt(numbers.astype(np.float64), self._public)

    def serialize(self, batch: Any) -> bytes:
        """Its bytes."""
        return bytes(self._engine.serialize_ciphertext(batch))

    def add(self, total: Any, data: bytes) -> Any:
        """Load and add."""
        loaded = self._engine.deserialize_ciphertext(data)
        return loaded if total is None else self._engine.add(total, loaded)

    def decrypt(self, total: Any) -> NDArray[np.int64]:
        """Rounded."""
        sums: NDArray[np.int64] = np.rint(self._engine.decrypt(total, self._secret)[:SLOTS]).astype(np.int64)
        return sums


def make(seed: int) -> DesiloPeer:
    """Ready to encrypt. Raises PeerAbsent."""
    try:
        desilofhe = importlib.import_module("desilofhe")
    except ImportError as error:
        raise PeerAbsent(f"desilofhe does not import: {error}") from None
    return DesiloPeer(desilofhe)
