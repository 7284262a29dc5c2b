"""Durations of a process's own steps, measured with `--timings FILE`.

A step is wrapped once, when its owner is constructed. Without --timings, `timed` returns the function
itself, at no cost. A bounded sample of each step is written at the end: one JSON object per line with
`at_ns`, `process`, `step`, `count`, `total_s` and `seconds` (the sample). `gridhe-bench import FILE` makes
records of it.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from gridhe.errors import ConfigError

__all__ = ["timed", "timings_to"]

_SAMPLE = 4_096
P = ParamSpec("P")
R = TypeVar("R")


class _Step:
    """All calls of one step: their number, total time, and a uniform random sample of their times."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.count = 0
        self.total_s = 0.0
        self.seconds: list[float] = []

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total_s += seconds
        if len(self.seconds) < _SAMPLE:
            self.seconds.append(seconds)
        elif (at := self._rng.randrange(self.count)) < _SAMPLE:
            self.seconds[at] = seconds


_steps: dict[str, _Step] | None = None  # None: no --timings


def timed(step: str, function: Callable[P, R]) -> Callable[P, R]:
    """`function`, wrapped to measure its duration as `step` if the process runs with --timings."""
    if _steps is None:
        return function
    calls = _steps.setdefault(step, _Step(random.Random(0)))  # noqa: S311 - picks a sample

    def timing(*args: P.args, **kwargs: P.kwargs) -> R:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            calls.add(time.perf_counter() - started)

    return timing


@contextmanager
def timings_to(path: Path | None, process: str) -> Iterator[None]:
    """Measure timings in the `with`, then append them to `path`; None: no timings. Raises ConfigError."""
    global _steps
    if path is None:
        yield
        return
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--timings {path} cannot be written: {error.strerror or error}") from None
    _steps = {}
    try:
        yield
    finally:
        steps, _steps = _steps, None
        with file:
            for name, step in steps.items():
                if step.count:
                    record = {
                        "at_ns": time.time_ns(),
                        "process": process,
                        "step": name,
                        "count": step.count,
                        "total_s": step.total_s,
                        "seconds": sorted(step.seconds),
                    }
                    file.write(json.dumps(record) + "\n")
