"""gridhe itself: sealed envelopes, opened, checked and folded."""

from dataclasses import replace
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
        self._credential = self._grid.credential_of(self._grid.meter(0), self._grid.group(0))
        self._key = self._grid.envelope_key(0)
        self._header = self._grid.header(0, FIRST_WINDOW)
        self._limit = OVERHEAD_BYTES + self._grid.planes.size
        self._decryptor = Decryptor(self._grid.plan, self._grid.key.secret_context, bytes(32), bytes(32))

    def encrypt(self, numbers: NDArray[np.int64]) -> tuple[bytes, bytes]:
        """The ciphertext's planes, and the proof. Raises ValueError if the slots would be other numbers."""
        readings = {QUANTITY: np.where(numbers[READINGS:] == 1, numbers[:READINGS], MISSING)}
        # This check takes some microseconds of a millisecond, counted in gridhe's time.
        used = self._grid.plan.layout.encode(readings)
        if not np.array_equal(used, numbers):
            raise ValueError("the numbers are not those of a batch of readings in this plan")
        credential, encryptor = self._credential, self._grid.encryptor
        slots, proof = encryptor.guards.fill(
            FIRST_WINDOW, used, guard_key=credential.guard_key, home_key=credential.home_key
        )
        return encryptor.encrypt(slots), proof

    def serialize(self, batch: tuple[bytes, bytes]) -> bytes:
        """The envelope, encrypted to the aggregator."""
        ciphertext, proof = batch
        return seal_envelope(replace(self._header, proof=proof), ciphertext, self._key)

    def add(self, total: Any, data: bytes) -> Accumulator:
        """Open, check everything, fold."""
        planes = self._grid.planes
        running = Accumulator(planes) if total is None else total
        envelope = open_envelope(data, self._limit)
        views = planes.views(envelope.open(self._key))
        planes.check(views)
        running.fold(views)
        assert isinstance(running, Accumulator)  # noqa: S101 - for the type checker
        return running

    def decrypt(self, total: Accumulator) -> NDArray[np.int64]:
        """The sums of the readings, and the number of meters in each sum."""
        packed = total.pack()
        return self._decryptor.flood(self._decryptor.decode(packed), packed)


def make(seed: int) -> GridhePeer:
    """Ready to encrypt."""
    return GridhePeer(seed)
