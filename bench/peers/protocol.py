"""What every peer can do: the same verbs, on the same numbers."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["SLOTS", "Peer", "PeerAbsent"]

SLOTS = 2_048  # numbers in a full batch: what one ciphertext of ring degree 4096 holds


class PeerAbsent(Exception):
    """A peer that cannot run here; the message says why."""


class Peer(Protocol):
    """One way to add up batches of SLOTS small integers that somebody else may not read (or may)."""

    NAME: str
    share: int  # each call works on SLOTS / share numbers; 1 for all but the very slow

    def encrypt(self, numbers: NDArray[np.int64]) -> Any:
        """A batch, encrypted; `numbers` is int64[SLOTS / share]."""

    def serialize(self, batch: Any) -> bytes:
        """The bytes that go on the wire."""

    def add(self, total: Any, data: bytes) -> Any:
        """Load a batch and add it to `total` (None: it begins one); returns the total."""

    def decrypt(self, total: Any) -> NDArray[np.int64]:
        """The sums."""
