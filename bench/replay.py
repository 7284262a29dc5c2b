"""One replay through the engine: `python -m gridhe.bench.replay STATE KILOBYTES METERS GROUPS SEED`.

Prints one JSON object: batch_us (one value for each stretch of batches, including its share of the
commit), grown_mb, resident_mb, peak_mb, disk_mb, whole_s, preset.
"""

import gc
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil

from gridhe.aggregator.engine import Engine
from gridhe.aggregator.state.database import Database
from gridhe.bench.grid import RINGS, BenchGrid, roster_entries
from gridhe.bench.machine import own_memory_mb
from gridhe.config.settings import AggregatorSettings
from gridhe.wire.roster import Roster
from gridhe.wire.signing import SigningKey

__all__ = ["replay"]

_STRETCH = 2_500  # batches from one commit to the next: about a second's


def _roster(grid: BenchGrid) -> bytes:
    """The signed roster, made in a child so that its memory does not count in this process.

    The child is spawned, not forked, because this process may have threads.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_signed, grid.authority.private_bytes(), grid.meters, grid.groups).result()


def _signed(private_key: bytes, meters: int, groups: int) -> bytes:
    return Roster.of(1, roster_entries(meters, groups)).encode(SigningKey.from_private_bytes(private_key))


def replay(state: Path, kilobytes: int, meters: int, groups: int, seed: int) -> dict[str, object]:
    """Fold one batch of each meter. Raises RuntimeError if a batch is not folded."""
    grid = BenchGrid(RINGS[kilobytes], groups=groups, meters=meters, seed=seed)
    database = Database(state, authority=grid.credential.authority, aggregator="main")
    try:
        engine = Engine(database=database, credential=grid.credential, settings=AggregatorSettings())
        engine.take_bundle(grid.signed_bundle())
        engine.take_roster(_roster(grid), grid.now)
        taken = []
        before = 0
        for start in range(0, meters, _STRETCH):
            stretch = range(start, min(start + _STRETCH, meters))
            seconds = 0.0
            for parcel in grid.parcels(stretch):
                topic, payload = parcel.topic, parcel.payload
                started = time.perf_counter()
                engine.receive(topic, payload, grid.now)
                seconds += time.perf_counter() - started
            started = time.perf_counter()
            engine.commit(grid.now)
            taken.append((seconds + time.perf_counter() - started) / len(stretch))
            if not before:
                # From now on the number of totals in memory does not change.
                gc.collect()
                before = psutil.Process().memory_info().rss
        if engine.counters.folded != meters:
            raise RuntimeError(f"{engine.counters.folded} of {meters} batches were folded")
        gc.collect()
        resident = psutil.Process().memory_info().rss
    finally:
        database.close()
    return {
        "batch_us": [seconds * 1e6 for seconds in taken],
        "grown_mb": max(0, resident - before) / 2**20,
        "resident_mb": resident / 2**20,
        "peak_mb": own_memory_mb("VmHWM"),
        "disk_mb": sum(file.stat().st_size for file in state.iterdir()) / 2**20,
        "whole_s": sum(seconds * _STRETCH for seconds in taken[:-1]) + taken[-1] * len(stretch),
        "preset": grid.preset,
    }


if __name__ == "__main__":
    print(json.dumps(replay(Path(sys.argv[1]), *(int(one) for one in sys.argv[2:6]))))
