"""gridhe itself: sealed envelopes, opened, checked and folded."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.bench.grid import FIRST_WINDOW, RINGS, BenchGrid
from gridhe.bench.peers.protocol import QUANTITY, READINGS
from gridhe.keyring.release.decrypt import Decryptor
from gridhe.plan.slots import MISSING
from gridhe.wire.envelope import OVERHEAD_BYTES, open_envelope, seal_envelope

__all__ = ["NAME", "GridhePeer", "make"]

NAME = "gridhe"


class GridhePeer:
    """A meter's code: it places readings into slots and encrypts them."""

    NAME = NAME
    share = 1

    def __init__(self, seed: int) -> None:
        self._grid = BenchGrid(RINGS[96], groups=1, meters=64, seed=seed, intervals=READINGS)
        self._key = self._grid.ingest_key(0)
        self._header = self._grid.header(0, FIRST_WINDOW)
        self._limit = OVERHEAD_BYTES + self._grid.planes.size
        secret = self._grid.context.serialize(save_secret_key=True)
        self._decryptor = Decryptor(self._grid.plan, secret, bytes(32))

    def encrypt(self, numbers: NDArray[np.int64]) -> bytes:
        """The ciphertext's planes. Raises ValueError if the slots would not be these numbers."""
        readings = {QUANTITY: np.where(numbers[READINGS:] == 1, numbers[:READINGS], MISSING)}
        # This check takes some microseconds of a millisecond, counted in gridhe's time.
        if not np.array_equal(self._grid.plan.layout.encode(readings), numbers):
            raise ValueError("the numbers are not those of a batch of readings in this plan")
        return self._grid.encryptor.encrypt(readings)

    def serialize(self, batch: bytes) -> bytes:
        """The envelope, with its tag."""
        return seal_envelope(self._header, batch, self._key)

    def add(self, total: Any, data: bytes) -> Accumulator:
        """Open, check everything, fold."""
        planes = self._grid.planes
        running = Accumulator(planes) if total is None else total
        envelope = open_envelope(data, self._limit)
        envelope.check_tag(self._key)
        views = planes.views(envelope.ciphertext)
        planes.check(views)
        running.fold(views)
        assert isinstance(running, Accumulator)  # noqa: S101 - for the type checker
        return running

    def decrypt(self, total: Accumulator) -> NDArray[np.int64]:
        """The sums of the readings, and the number of meters in each sum."""
        return self._decryptor.decrypt(total.pack())


def make(seed: int) -> GridhePeer:
    """Ready to encrypt."""
    return GridhePeer(seed)
