"""Turns a suite's figures into records with run, host, machine and version, and shows progress."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from gridhe import __version__
from gridhe.base.output import echo, printable
from gridhe.bench.machine import describe_machine, host_name
from gridhe.bench.measure import Samples
from gridhe.bench.record import Better, Figures, Record
from gridhe.bench.store import TimingsStore

__all__ = ["Recorder", "Setup", "Suite", "SuiteProgress"]


class SuiteProgress:
    """Shows the suite and case being measured: a bar on a terminal with rich, otherwise lines."""

    def __init__(self, to: TextIO | None = None) -> None:
        self._stream = sys.stderr if to is None else to
        self._bars: Any = None
        self._task: Any = None
        self._suite = ""

    def __enter__(self) -> Self:
        if self._stream.isatty():
            try:
                from rich import progress
                from rich.console import Console
            except ImportError:
                return self
            self._bars = progress.Progress(
                progress.TextColumn("{task.description:44}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                console=Console(file=self._stream),
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def suite(self, name: str, cases: int) -> None:
        """Show the start of a suite with this many cases."""
        self._suite = name
        if self._bars is not None:
            self._task = self._bars.add_task(name, total=cases)
        else:
            self.say(f"{name}: {cases} cases")

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Show a case of the suite while it is measured."""
        if self._bars is not None:
            self._bars.update(self._task, description=f"{self._suite}: {name}")
        else:
            self.say(f"{self._suite}: {name}")
        yield
        if self._bars is not None:
            self._bars.advance(self._task)

    def say(self, text: str) -> None:
        """Print a line."""
        if self._bars is not None:
            self._bars.console.print(printable(text), highlight=False)
        else:
            echo(f"gridhe-bench: {text}", to=self._stream)


class Recorder:
    """Turns measurements into records of one run."""

    def __init__(self, store: TimingsStore, run: str, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.run = run
        self._store = store
        self._clock_ns = clock_ns
        self._last_ns = 0
        self._host, self._machine = host_name(), describe_machine()

    def add(
        self,
        suite: str,
        case: str,
        metric: str,
        values: Sequence[float] | float,
        unit: str,
        *,
        preset: str = "",
        better: Better = "lower",
        note: str = "",
    ) -> None:
        """Store a metric; `values` are the repeats. Raises StoreError."""
        # Strictly increasing, so that a store that sorts by time returns the records in this order.
        self._last_ns = max(self._clock_ns(), self._last_ns + 1)
        self._store.write(
            Record(
                run=self.run,
                at_ns=self._last_ns,
                suite=suite,
                case=case,
                preset=preset,
                metric=metric,
                unit=unit,
                better=better,
                figures=Figures.of([values] if isinstance(values, int | float) else values),
                host=self._host,
                machine=self._machine,
                version=__version__,
                note=note,
            )
        )

    def add_times(
        self,
        suite: str,
        case: str,
        samples: dict[str, Samples],
        *,
        preset: str = "",
        ratios: Sequence[tuple[str, str]] = (),
        unit: str = "us",
    ) -> None:
        """Store the results of `side_by_side`; `ratios` names pairs to divide."""
        per_second = {"us": 1e6, "ms": 1e3, "s": 1.0}[unit]
        prefix = f"{case} " if case else ""
        for name, taken in samples.items():
            self.add(
                suite, f"{prefix}{name}", "time", [s * per_second for s in taken.seconds], unit, preset=preset
            )
        for mine, theirs in ratios:
            ratio = samples[mine].ratio(samples[theirs])
            self.add(suite, f"{prefix}{mine}", f"time / {theirs}", ratio, "x", preset=preset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The arguments of a suite."""

    recorder: Recorder
    progress: SuiteProgress
    quick: bool  # fewer cases and repeats: the whole bench in under 3 minutes
    seed: int
    folder: Path  # private, deleted after the run
    counter: Iterator[int] = field(default_factory=itertools.count)

    def subfolder(self, name: str) -> Path:
        """A new folder."""
        path = self.folder / f"{name}-{next(self.counter)}"
        path.mkdir(mode=0o700)
        return path


class Suite(Protocol):
    """A module of `gridhe.bench.suites`."""

    NAME: str
    ABOUT: str

    def run(self, setup: Setup) -> None:
        """Measure everything and record it."""
