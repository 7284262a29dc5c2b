"""No encryption: msgpack integers. The baseline for the cost of privacy."""

from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

__all__ = ["NAME", "UnencryptedPeer", "make"]

NAME = "unencrypted"


class UnencryptedPeer:
    """Numbers without encryption."""

    NAME = NAME
    share = 1

    def encrypt(self, numbers: NDArray[np.int64]) -> Any:
        """As they are."""
        return numbers.tolist()

    def serialize(self, batch: Any) -> bytes:
        """msgpack."""
        packed: bytes = msgpack.packb(batch)
        return packed

    def add(self, total: Any, data: bytes) -> Any:
        """Load and add."""
        loaded = np.array(msgpack.unpackb(data), np.int64)
        return loaded if total is None else total + loaded

    def decrypt(self, total: Any) -> NDArray[np.int64]:
        """They are the sums."""
        sums: NDArray[np.int64] = total
        return sums


def make(seed: int) -> UnencryptedPeer:
    """Ready."""
    return UnencryptedPeer()
