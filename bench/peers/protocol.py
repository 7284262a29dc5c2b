"""The interface of every peer: the same steps on the same numbers.

A batch is 512 readings, each with whether it is present: 1,024 numbers. A mean needs both, since the sum
of the present ones is what the sum of the readings is divided by. They are half of the slots of gridhe's
ciphertext; the other half holds its guards.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gridhe.plan.quantity import Quantity
from gridhe.plan.slots import MISSING, SlotLayout

__all__ = ["LARGEST", "QUANTITY", "READINGS", "SLOTS", "Peer", "PeerAbsent", "make_numbers"]

SLOTS = 1_024  # numbers in a batch: half of the slots of a ciphertext of ring degree 4096
READINGS = SLOTS // 2
QUANTITY = "import_wh"
LARGEST = 500
_MISSING_SHARE = 0.02
_LAYOUT = SlotLayout(
    (Quantity(name=QUANTITY, unit="Wh", largest=LARGEST, statistics=("sum", "mean")),), READINGS
)


def make_numbers(seed: int) -> NDArray[np.int64]:
    """The int64[SLOTS] of a batch, as a plan lays them out; a missing reading's two numbers are 0."""
    rng = np.random.default_rng(seed)
    readings = rng.integers(0, LARGEST + 1, READINGS)
    readings[rng.random(READINGS) < _MISSING_SHARE] = MISSING
    return _LAYOUT.encode({QUANTITY: readings})


class PeerAbsent(Exception):
    """A peer that cannot run here; the message says why."""


class Peer(Protocol):
    """One way to add up batches of SLOTS small integers, encrypted or (for comparison) not."""

    NAME: str
    share: int  # each call works on the first SLOTS / share numbers; more than 1 only for very slow peers

    def encrypt(self, numbers: NDArray[np.int64]) -> Any:
        """A batch, encrypted; `numbers` is int64[SLOTS / share]."""

    def serialize(self, batch: Any) -> bytes:
        """The bytes that go on the wire."""

    def add(self, total: Any, data: bytes) -> Any:
        """Load a batch and add it to `total` (None: start a new total); return the total."""

    def decrypt(self, total: Any) -> NDArray[np.int64]:
        """The sums, int64[SLOTS / share]."""
