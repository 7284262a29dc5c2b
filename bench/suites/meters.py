"""2 to 1,000 meters through the whole pipeline in real time: rates, latency, resources."""

from gridhe.bench.pipeline import STEPS, Load, Passed, run_pipeline
from gridhe.bench.recorder import Setup
from gridhe.bench.steps import add_steps

__all__ = ["ABOUT", "NAME", "record_passed", "run"]

NAME = "meters"
ABOUT = "2 to 1,000 meters through the whole pipeline: rates, latency, processor time and memory"

# (meters, seconds of a window): one fleet process seals all batches, about 100 to 200 per second.
_QUICK = ((20, 4),)
_FULL = ((2, 4), (5, 4), (10, 4), (20, 4), (50, 4), (100, 8), (500, 20), (1_000, 40))
_WINDOWS = 3


def run(setup: Setup) -> None:
    """Measure every number of meters."""
    cases = _QUICK if setup.quick else _FULL
    setup.progress.suite(NAME, len(cases))
    for meters, window_s in cases:
        load = Load(
            meters=meters,
            groups=max(1, min(10, meters // 5)),
            window_s=window_s,
            interval_s=1,
            windows=2 if setup.quick else _WINDOWS,
            speed="1",
        )
        with setup.progress.case(f"{meters} meters"):
            folder = setup.subfolder(NAME)
            passed = run_pipeline(folder, load, setup.seed)
        record_passed(setup, NAME, f"{meters} meters", load, passed)
        add_steps(setup.recorder, folder / STEPS, suite=NAME, case=f"{meters} meters")


def record_passed(setup: Setup, suite: str, case: str, load: Load, passed: Passed) -> None:
    """Record the results of a pipeline run.

    In real time, rates are divided by the time from the start of the first window to the last released total,
    so they show a pipeline that falls behind. "Sent by a meter" is divided by the duration of the windows.
    """
    add = setup.recorder.add
    live = load.speed == "1"
    readings = passed.batches * load.window_s / load.interval_s
    add(suite, case, "readings", readings / passed.whole_s * 60, "readings/min", better="higher")
    add(suite, case, "batches", passed.batches / passed.whole_s, "batches/s", better="higher")
    add(
        suite,
        case,
        "sent by a meter",
        passed.bytes_sent / load.meters / (load.windows * load.window_s if live else passed.whole_s),
        "B/s",
        better="lower" if live else "neither",
    )
    if live:
        add(suite, case, "latency", passed.latency_s, "s")
    add(suite, case, "backlog", float(passed.backlog), "batches", better="neither")
    started = "" if live else "including the start of the process"
    for name in passed.cpu_s:
        cpu = passed.cpu_s[name] / max(1, passed.batches) * 1e3
        add(suite, case, f"processor time, {name}", cpu, "ms/batch", better="neither", note=started)
        add(suite, case, f"memory, {name}", passed.memory_mb[name], "MB", better="neither")
