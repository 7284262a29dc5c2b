"""Gives one meter's closed windows to the sealer, in order, and keeps each until its batch is committed.

`WindowFeeder` reads a repeatable source and needs no journal. `DeviceFeeder` reads a device as time passes
and keeps its samples in a journal. To spare SD cards, the journal is not committed for each sample, but when
a window closes, when an interval ends, and `journal_s` after the first sample that it does not hold. What a
crash leaves:

1. before a commit: the journal of the last one, at most `journal_s` old. A repeatable source gives the
   samples since then again. A real device does not, but its register has counted on: the next sample is
   judged and subtracted from the last committed one. No energy is lost, and an interval that had ended in the
   journal keeps its reading. Boundaries between the two samples are interpolated, or missing after a longer
   silence (`gridhe.meter_agent.windows`).
2. after it: the windows and the device's own state of the same moment.
"""

import logging
import math
from collections.abc import Callable
from typing import Protocol

from gridhe.errors import SourceError
from gridhe.meter_agent.plans import PlanBook
from gridhe.meter_agent.sources.protocol import DeviceSource, WindowSource
from gridhe.meter_agent.windows import ClosedWindow, WindowBuilder, WindowCounts
from gridhe.plan.plan import Plan

__all__ = ["DeviceFeeder", "Feeder", "WindowFeeder"]

_LOG = logging.getLogger(__name__)
_LOOK_S = 5.0


class Feeder(Protocol):
    """One meter's windows."""

    def poll(self, now_s: float) -> bytes | None:
        """Read new samples. Returns the journal, to commit before sealing, if it is due."""
        ...

    def flush(self) -> bytes | None:
        """The journal if it holds samples that no returned one holds, to commit at a clean stop."""
        ...

    def next(self, now_s: float) -> tuple[Plan, ClosedWindow] | None:
        """The oldest closed window and its plan; the same one until `done`. Raises SourceError."""
        ...

    def done(self, window: int) -> bytes | None:
        """Remove a sealed window. Returns the journal without it, to commit together with its envelope."""
        ...

    def ready_s(self) -> float | None:
        """When to call `next` again (simulated UTC epoch seconds); None when the source has ended."""
        ...

    def again(self, plan: Plan, window: int) -> ClosedWindow | None:
        """The readings of a window that was sealed before; None if they are no longer available."""
        ...

    def where(self, plan: Plan, window: int, interval: int) -> str:
        """The place of a reading, for messages."""
        ...

    def counts(self) -> WindowCounts:
        """Counts of samples and their irregularities; all 0 for a source of whole windows."""
        ...


def _shape(plan: Plan) -> tuple[int, int, tuple[str, ...]]:
    return plan.window_s, plan.interval_s, tuple(q.name for q in plan.quantities)


def _builder_shape(window_builder: WindowBuilder) -> tuple[int, int, tuple[str, ...]]:
    return window_builder.window_s, window_builder.interval_s, window_builder.quantities


class WindowFeeder:
    """Windows of a repeatable source."""

    def __init__(
        self,
        meter: str,
        book: PlanBook,
        source: Callable[[Plan], WindowSource],
        *,
        from_s: int,
        until_s: int | None,
        follow: bool = False,
    ) -> None:
        """`follow`: the source may grow, so its end is no reason to stop."""
        self._meter, self._book, self._source = meter, book, source
        self._next_s, self._until_s, self._follow = from_s, until_s, follow
        self._waits = False
        self._look_s = 0.0  # when to look again whether the source has grown

    def poll(self, now_s: float) -> bytes | None:
        """Nothing to journal."""
        return None

    def flush(self) -> bytes | None:
        """Nothing to journal."""
        return None

    def _upcoming(self) -> tuple[Plan, int] | None:
        """The next window and its plan; None when there is none."""
        moment_s = self._next_s
        while (upcoming := self._book.next_window(moment_s)) is not None:
            plan, window = upcoming
            first, end = self._source(plan).windows
            if window < first:
                moment_s = first * plan.window_s  # another plan may be in force then
                continue
            until = self._until_s is not None and (window + 1) * plan.window_s > self._until_s
            ended = end is not None and window >= end
            self._waits = self._follow and ended and not until
            return None if ended or until else upcoming
        return None

    def next(self, now_s: float) -> tuple[Plan, ClosedWindow] | None:
        """The next window that has ended."""
        upcoming = self._upcoming()
        self._look_s = now_s + _LOOK_S if upcoming is None else 0.0
        if upcoming is None or now_s < (upcoming[1] + 1) * upcoming[0].window_s:
            return None
        plan, window = upcoming
        return plan, ClosedWindow(window=window, readings=self._source(plan).window(self._meter, window))

    def done(self, window: int) -> bytes | None:
        """Continue with the window after it."""
        upcoming = self._upcoming()
        if upcoming is not None:
            self._next_s = (window + 1) * upcoming[0].window_s
        return None

    def ready_s(self) -> float | None:
        """The end of the next window; for a source that may grow, when to look again."""
        upcoming = self._upcoming()
        if upcoming is not None:
            return float((upcoming[1] + 1) * upcoming[0].window_s)
        return self._look_s if self._waits else None

    def again(self, plan: Plan, window: int) -> ClosedWindow | None:
        """Read the window from the source again."""
        try:
            return ClosedWindow(window=window, readings=self._source(plan).window(self._meter, window))
        except SourceError:
            return None

    def where(self, plan: Plan, window: int, interval: int) -> str:
        """The place, as the source names it."""
        return self._source(plan).where(self._meter, window, interval)

    def counts(self) -> WindowCounts:
        """No samples: readings come in whole windows."""
        return WindowCounts()


class DeviceFeeder:
    """Windows gathered from a device's samples, with a journal."""

    def __init__(
        self,
        book: PlanBook,
        source: Callable[[Plan], DeviceSource],
        *,
        from_s: int,
        until_s: int | None,
        journal: bytes | None,
        journal_s: float = 0.0,
        partial: bool = False,
        where: Callable[[Plan, int, int], str] | None = None,
    ) -> None:
        """`journal_s`: longest time that samples wait for the journal; 0: none waits.

        `partial`: at the source's end, also seal the last, incomplete window. Raises StateError.
        """
        self._book, self._source, self._partial = book, source, partial
        self._from_s, self._until_s = float(from_s), until_s
        self._where, self._journal_s = where, journal_s
        self._unsaved_since_s: float | None = None  # when the first sample came that is in no journal
        self._device: DeviceSource | None = None  # that gave the last samples
        self._ended = self._switching = False
        self._counted = WindowCounts()  # of plans that are over
        self.window_builder = None if journal is None else WindowBuilder.from_state(journal)
        self._saved_interval = self._interval()

    def _interval(self) -> int | None:
        """The interval of the last sample."""
        builder = self.window_builder
        return (
            None if builder is None or builder.time_s is None else int(builder.time_s // builder.interval_s)
        )

    def _journal(self, window_builder: WindowBuilder) -> bytes:
        if self._device is not None:
            window_builder.device_state = self._device.state()
        self._unsaved_since_s, self._saved_interval = None, self._interval()
        return window_builder.state()

    def _is_due(self, now_s: float) -> bool:
        """Whether samples that are in no journal are to be committed now."""
        if self._unsaved_since_s is None:
            return False
        waited_s = abs(now_s - self._unsaved_since_s)
        return waited_s >= self._journal_s or self._interval() != self._saved_interval

    def flush(self) -> bytes | None:
        """The journal, if samples wait for it."""
        if self.window_builder is None or self._unsaved_since_s is None:
            return None
        return self._journal(self.window_builder)

    def _current(self, now_s: float) -> WindowBuilder | None:
        """The window builder for the next samples; None while no plan covers them."""
        if self._switching and self.window_builder is not None and not self.window_builder.closed:
            self._counted = self._counted.plus(self.window_builder.counts)
            self.window_builder, self._switching = None, False
        if self.window_builder is None:
            if self._book.at(self._from_s) is None:
                start_s = self._book.next_start_s(self._from_s)
                if start_s is None or start_s > now_s:
                    return None
                self._from_s = float(start_s)
            plan = self._book.at(self._from_s)
            if plan is not None:
                self.window_builder = WindowBuilder(
                    quantities=[q.name for q in plan.quantities],
                    kind=self._source(plan).kind,
                    window_s=plan.window_s,
                    interval_s=plan.interval_s,
                    mean_power=[q.name for q in plan.quantities if q.unit == "W"],
                )
        return self.window_builder

    def _switch_s(self, window_builder: WindowBuilder, at_s: float) -> float:
        """Start of the next plan with another shape (it may be past); infinity when none is known."""
        shape = _builder_shape(window_builder)
        plan = self._book.at(at_s)
        start_s = None if plan is None else plan.start_s
        while start_s is not None:
            plan = self._book.at(start_s)
            if plan is not None and _shape(plan) != shape:
                return float(start_s)
            start_s = self._book.next_start_s(start_s)
        return math.inf

    def poll(self, now_s: float) -> bytes | None:
        """Read the device until a window closes. Reads nothing while a closed window waits to be sealed."""
        window_builder = None if self._ended else self._current(now_s)
        if window_builder is None or window_builder.closed:
            return None
        # 1 ms before the start, so that a sample exactly at the start counts.
        after_s = max(window_builder.time_s or -math.inf, self._from_s - 1e-3)
        plan = self._book.at(max(after_s, self._from_s))
        if plan is None:
            return None
        source = self._device = self._source(plan)
        switch_s = self._switch_s(window_builder, max(after_s, self._from_s))
        until_s = math.inf if self._until_s is None else float(self._until_s)
        over = False
        for sample in source.read(after_s, now_s):
            if sample.at_s >= min(switch_s, until_s):
                over = True
                break
            window_builder.add(sample)
            if self._unsaved_since_s is None:
                self._unsaved_since_s = now_s
            if window_builder.closed:
                break
        else:
            over = source.ended(window_builder.time_s or after_s)
            if not over:  # `partial`, not the clock, decides about the last window of an ended source
                window_builder.advance(now_s)
                over = window_builder.closed_until_s >= until_s
                over = over or now_s >= min(switch_s, until_s) + window_builder.patience_s
        if over and switch_s < until_s and not source.ended(window_builder.time_s or after_s):
            # The old plan's last windows are sealed as they are. A window that crosses its end is in no plan.
            window_builder.finish(partial=True)
            self._switching, self._from_s = True, switch_s
        elif over:
            window_builder.finish(partial=self._partial)
            self._ended = True
        due = over or window_builder.closed or self._is_due(now_s)
        return self._journal(window_builder) if due else None

    def next(self, now_s: float) -> tuple[Plan, ClosedWindow] | None:
        """The oldest closed window. Skips windows that belong to no plan of their shape."""
        while self.window_builder is not None and self.window_builder.closed:
            closed = self.window_builder.closed[0]
            plan = self._book.of_window(closed.window, self.window_builder.window_s)
            if plan is not None and _shape(plan) == _builder_shape(self.window_builder):
                return plan, closed
            _LOG.warning(
                "window %d of %d s belongs to no known plan with such windows: its readings are not sealed",
                closed.window,
                self.window_builder.window_s,
            )
            self.window_builder.discard(closed.window)
        return None

    def done(self, window: int) -> bytes | None:
        """The journal without this window."""
        if self.window_builder is None:
            return None
        self.window_builder.discard(window)
        return self._journal(self.window_builder)

    def ready_s(self) -> float | None:
        """0.0 (at once) until the source has ended and its windows are sealed, then None."""
        waiting = self.window_builder is not None and bool(self.window_builder.closed)
        return None if self._ended and not waiting else 0.0

    def again(self, plan: Plan, window: int) -> ClosedWindow | None:
        """None: a device's readings are kept only until they are sealed."""
        return None

    def where(self, plan: Plan, window: int, interval: int) -> str:
        """The place, as the source names it, else window and interval."""
        if self._where is not None:
            return self._where(plan, window, interval)
        return f"window {window}, interval {interval}"

    def counts(self) -> WindowCounts:
        """Counts over all plans, including those that the journal of an earlier process held."""
        current = WindowCounts() if self.window_builder is None else self.window_builder.counts
        return self._counted.plus(current)
