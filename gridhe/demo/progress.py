"""Progress of a demo on stderr: bars on a terminal with rich, else a line every 2 s."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

from gridhe.base.output import echo, printable

__all__ = ["DemoProgress"]

_LINE_EVERY_S = 2.0


class DemoProgress:
    """Prints steps and progress. Use in a `with`."""

    def __init__(
        self,
        batches: int,
        totals: int,
        *,
        to: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if to is None else to
        self._clock = clock
        self._wanted = {"batches receipted": batches, "totals released": totals}
        self._done = dict.fromkeys(self._wanted, 0)
        self._printed: dict[str, int] = {}
        self._next_s = clock()
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def step(self, text: str) -> None:
        """Print the step that begins."""
        if self._bars is not None:
            self._bars.console.print(printable(text), highlight=False)
        else:
            echo(f"gridhe demo: {text}", to=self._stream)

    def _start_bars(self) -> None:
        """Start the bars, if rich is installed.

        Called by the first update: rich draws in a thread, and child processes must be started before it.
        """
        try:
            from rich import progress
            from rich.console import Console
        except ImportError:
            return
        self._bars = progress.Progress(
            progress.TextColumn("{task.description:17}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            console=Console(file=self._stream),
        )
        self._bars.start()
        self._tasks = {what: self._bars.add_task(what, total=wanted) for what, wanted in self._wanted.items()}

    def update(self, *, batches: int, totals: int) -> None:
        """Print the numbers of receipted batches and released totals."""
        self._done = {"batches receipted": batches, "totals released": totals}
        if self._bars is None and self._stream.isatty():
            self._start_bars()
        if self._bars is not None:
            for what, task in self._tasks.items():
                self._bars.update(task, completed=self._done[what])
        elif self._done != self._printed and (
            self._clock() >= self._next_s or all(self._done[what] >= n for what, n in self._wanted.items())
        ):
            self._printed = self._done
            self._next_s = self._clock() + _LINE_EVERY_S
            self.step(", ".join(f"{self._done[what]:,}/{n:,} {what}" for what, n in self._wanted.items()))
