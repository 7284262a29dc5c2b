"""Readings every 1, 5, 10 and 30 seconds through the whole pipeline: in real time and at full speed."""

from gridhe.bench.pipeline import STEPS, Load, run_pipeline
from gridhe.bench.recorder import Setup
from gridhe.bench.steps import add_steps
from gridhe.bench.suites.meters import record_passed

__all__ = ["ABOUT", "NAME", "run"]

NAME = "intervals"
ABOUT = "a reading every 1 to 30 s, in real time and at full speed: batches, bytes, latency, backlog"

_METERS, _GROUPS = 20, 4
# (seconds between readings, readings in a window, windows in real time)
_QUICK = ((1, 4, 2),)
_FULL = ((1, 4, 4), (5, 4, 2), (10, 3, 2), (30, 2, 1))
_FAST_WINDOWS = 40


def run(setup: Setup) -> None:
    """Measure every interval at both speeds."""
    cases = _QUICK if setup.quick else _FULL
    setup.progress.suite(NAME, 2 * len(cases))
    for interval_s, readings, windows in cases:
        for label, speed, many in (("real time", "1", windows), ("accelerated", "max", _FAST_WINDOWS)):
            load = Load(
                meters=_METERS,
                groups=_GROUPS,
                window_s=interval_s * readings,
                interval_s=interval_s,
                windows=many // 4 if setup.quick and speed == "max" else many,
                speed=speed,
            )
            with setup.progress.case(f"{interval_s} s, {label}"):
                folder = setup.subfolder(NAME)
                passed = run_pipeline(folder, load, setup.seed)
            case = f"{interval_s} s, {label}"
            record_passed(setup, NAME, case, load, passed)
            add_steps(setup.recorder, folder / STEPS, suite=NAME, case=case)
