"""The cost per reading for batches of 1, 5, 10 ... readings; a ciphertext has always the same size."""

from collections.abc import Callable
from functools import partial

from gridhe.bench.grid import FIRST_WINDOW, RINGS, BenchGrid
from gridhe.bench.measure import side_by_side
from gridhe.bench.recorder import Setup

__all__ = ["ABOUT", "NAME", "run"]

NAME = "batch-size"
ABOUT = "milliseconds and bytes per reading, for 1 reading in a batch up to half of the slots"

_SIZES = (1, 5, 10, 20, 60, 96)


def run(setup: Setup) -> None:
    """Measure the default ring; without --quick the smallest one too."""
    kilobytes = (96,) if setup.quick else (24, 96)
    setup.progress.suite(NAME, len(kilobytes))
    for size in kilobytes:
        ring = RINGS[size]
        # Each reading takes two slots: its value and whether it is present. Half of the slots hold guards.
        full = ring.slots // 4
        with setup.progress.case(f"{ring}"):
            _measure(setup, size, (*_SIZES, full))


def _measure(setup: Setup, kilobytes: int, sizes: tuple[int, ...]) -> None:
    calls: dict[str, Callable[[], object]] = {}
    for readings in sizes:
        grid = BenchGrid(RINGS[kilobytes], groups=1, meters=16, seed=setup.seed, intervals=readings)
        sealer, values = grid.sealer(0), {"import_wh": grid.readings(0)}
        envelope = len(sealer.seal(FIRST_WINDOW, values))
        calls[str(readings)] = partial(sealer.seal, FIRST_WINDOW, values)
        setup.recorder.add(
            NAME, f"{readings} readings", "size", envelope / readings, "B/reading", preset=grid.preset
        )
    samples = side_by_side(calls, budget_s=6.0 if setup.quick else 20.0, seed=setup.seed)
    for readings in sizes:
        per_reading = [seconds * 1e3 / readings for seconds in samples[str(readings)].seconds]
        setup.recorder.add(
            NAME, f"{readings} readings", "time", per_reading, "ms/reading", preset=grid.preset
        )
