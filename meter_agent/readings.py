"""Creates each unit's feeder from the command line's source options, once a plan is known."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.feeders import DeviceFeeder, WindowFeeder
from gridhe.meter_agent.outbox import Settled
from gridhe.meter_agent.pace import Pace
from gridhe.meter_agent.sources.live import LiveDevice, LiveSource
from gridhe.meter_agent.sources.protocol import DeviceSource, WindowDevice, WindowSource
from gridhe.meter_agent.sources.synthetic import SyntheticSource

if TYPE_CHECKING:
    from gridhe.meter_agent.outbox import Outbox
    from gridhe.meter_agent.plans import PlanBook
    from gridhe.meter_agent.policy import ReadingPolicy
    from gridhe.meter_agent.publisher import MeterUnit
    from gridhe.meter_agent.sources.files.recorded import RecordedFile
    from gridhe.meter_agent.sources.files.table import Table
    from gridhe.meter_agent.sources.options import OpenedSource
    from gridhe.plan.plan import Plan

__all__ = ["Readings", "SourceOptions", "columns_of"]

_LOG = logging.getLogger(__name__)
_ALL = 2**31  # batches of one meter: more than an outbox holds


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """The command line's options for readings."""

    source: str  # "synthetic", "replay" or a driver's name
    live: "OpenedSource | None" = None  # of a driver
    csv: Path | None = None
    format: str = "auto"  # of the file
    file_options: Mapping[str, str] = field(default_factory=dict)  # single settings of its format
    quantity: str | None = None
    loop: bool = False
    seed: int = 0
    start_s: int | None = None  # start of the first window, UTC epoch seconds
    windows: int | None = None
    speed: float | None = 1.0  # None: as fast as possible
    partial: bool = False

    def __post_init__(self) -> None:
        if self.source == "replay" and self.csv is None:
            raise ConfigError(
                "--source replay needs --csv FILE (CSV, XML, also packed; gridhe-meter check FILE shows it)"
            )
        if self.source != "replay" and (self.csv is not None or self.loop):
            raise ConfigError("--csv and --loop go with --source replay")
        if self.csv is None and self.format != "auto":
            raise ConfigError("--format goes with --source replay")
        if self.live is not None and (self.speed != 1 or self.start_s is not None or self.partial):
            raise ConfigError(
                f"--source {self.source} is a device, read as time passes: --speed, --start and --partial go "
                "with synthetic and replay"
            )


def columns_of(
    meters: Sequence[str], available: Sequence[str], skip: int = 0, column: str | None = None
) -> dict[str, str]:
    """The column that each meter replays: the one with its name or, without any such column, in order.

    `column` is used for all meters if given; `skip` leaves out that many columns of the order. Raises
    SourceError if only some meters have a column of their name, or if there are too few columns.
    """
    if column is not None:
        return dict.fromkeys(meters, column)
    named = set(meters) & set(available)
    if len(named) == len(meters) and not skip:
        return {meter: meter for meter in meters}
    if named and not skip:
        unnamed = [meter for meter in meters if meter not in named]
        raise SourceError(
            f"the file has columns for {len(named)} of {len(meters)} meters, but none for {unnamed[0]}: "
            "name a column for every meter, or for none of them to assign columns in order"
        )
    if len(available) - skip < len(meters):
        raise SourceError(
            f"{len(meters)} meters need as many columns; the file has {len(available)}"
            + (f" and {skip} are skipped" if skip else "")
        )
    return dict(zip(meters, available[skip:], strict=False))


class Readings:
    """Creates sources and feeders for the units of a process."""

    def __init__(
        self,
        options: SourceOptions,
        *,
        units: "Sequence[MeterUnit]",
        book: "PlanBook",
        outbox: "Outbox",
        policy: "ReadingPolicy",
        wall: Callable[[], float | None],
        monotonic: Callable[[], float],
        devices: bool,
        live: LiveSource | None = None,
        journal_s: float = 0.0,
        skip_columns: int = 0,
        column: str | None = None,
        follow: bool = False,
    ) -> None:
        """`devices`: build windows from samples with a journal, as on a real device; `live`: of this one.

        `follow`: read the file again when it has grown. Raises ConfigError and SourceError.
        """
        self._options, self._units, self._book, self._outbox = options, units, book, outbox
        self._policy, self._wall, self._monotonic, self._devices = policy, wall, monotonic, devices
        self._live, self._journal_s = live, journal_s
        self._live_devices: dict[str, LiveDevice] = {}  # by plan
        self._sources: dict[tuple[int, int, tuple[str, ...]], WindowSource] = {}
        self._file: RecordedFile | None = None
        self._columns: dict[str, str] = {}
        self._file_start_s: int | None = None
        self.expected: int | None = None  # windows still to seal; None if that is not known
        if options.csv is not None:
            # Readers of files take 1.5 MB, which a meter with a device has no use for.
            from gridhe.meter_agent.sources.files import recorded

            meters = [unit.meter for unit in units]

            def choose(available: Sequence[str]) -> list[str]:
                self._columns = columns_of(meters, available, skip_columns, column)
                absent = sorted(set(self._columns.values()) - set(available))
                if absent:
                    shown = ", ".join(available[:5])
                    raise SourceError(f"{options.csv} has no column {', '.join(absent[:5])}; it has {shown}")
                return list(dict.fromkeys(self._columns.values()))

            self._file = recorded.RecordedFile(
                options.csv,
                format_name=options.format,
                options=options.file_options,
                choose=choose,
                follow=follow and not options.loop,
                monotonic=monotonic,
            )

    @property
    def _table(self) -> "Table | None":
        return None if self._file is None else self._file.table

    def source(self, plan: "Plan") -> WindowSource:
        """The source for windows of this plan's shape. Raises SourceError."""
        if self._file is not None and self._file.changed():
            self._sources.clear()
        shape = (plan.window_s, plan.interval_s, tuple(q.name for q in plan.quantities))
        if shape not in self._sources:
            if self._table is None:
                self._sources[shape] = SyntheticSource(plan, seed=self._options.seed)
            else:
                from gridhe.meter_agent.sources.files.replay import ReplaySource

                replay = ReplaySource(
                    self._table,
                    plan,
                    start_s=self._file_start_s,
                    quantity=self._options.quantity,
                    columns=self._columns,
                    loop=self._options.loop,
                    partial=self._options.partial,
                )
                replay.check(self._policy, [unit.meter for unit in self._units])
                self._sources[shape] = replay
        return self._sources[shape]

    def begin(self, plan: "Plan", now_s: float) -> Pace:
        """Give every unit its feeder. Returns the pace of time. Raises ConfigError and SourceError.

        `now_s` is the believed time (UTC epoch seconds). Called again after each step of the clock.
        """
        options = self._options
        self._take_back(plan, now_s)
        start_s = self._start_s(plan, now_s)
        until_s = None if options.windows is None else start_s + options.windows * plan.window_s
        sealed = self._outbox.sealed_until_s()
        resume_s = [max(start_s, sealed.get(unit.meter, start_s)) for unit in self._units]
        if self._follows_the_clock:
            resume_s = self._within_horizon(resume_s, plan, now_s)
        for unit, from_s in zip(self._units, resume_s, strict=True):
            if self._live is not None:
                unit.feeder = self._live_feeder(self._live, unit.meter, from_s, until_s)
            elif self._devices and self._file is None:
                unit.feeder = DeviceFeeder(
                    self._book,
                    lambda plan, meter=unit.meter: self._device(plan, meter),  # type: ignore[misc]
                    from_s=from_s,
                    until_s=until_s,
                    journal=self._outbox.journal(unit.meter),
                    partial=options.partial,
                    where=lambda plan, window, interval, meter=unit.meter: (  # type: ignore[misc]
                        self.source(plan).where(meter, window, interval)
                    ),
                )
            else:
                unit.feeder = WindowFeeder(
                    unit.meter,
                    self._book,
                    self.source,
                    from_s=from_s,
                    until_s=until_s,
                    follow=self._file is not None and self._file.follow,
                )
        self._expect(plan, resume_s, until_s)
        live = options.speed is None or (options.speed == 1 and options.start_s is None)
        return Pace(
            wall=self._wall,
            monotonic=self._monotonic,
            speed=None if live else options.speed,
            from_s=float(min(resume_s)),
        )

    def _device(self, plan: "Plan", meter: str) -> DeviceSource:
        source = self.source(plan)
        return WindowDevice(source, meter, window_s=plan.window_s, interval_s=plan.interval_s)

    def _live_feeder(self, live: LiveSource, meter: str, from_s: int, until_s: int | None) -> DeviceFeeder:
        feeder = DeviceFeeder(
            self._book,
            lambda plan: self._live_device(live, plan),
            from_s=from_s,
            until_s=until_s,
            journal=self._outbox.journal(meter),
            journal_s=self._journal_s,
        )
        live.restore(b"" if feeder.window_builder is None else feeder.window_builder.device_state)
        return feeder

    def _live_device(self, live: LiveSource, plan: "Plan") -> LiveDevice:
        if plan.plan_id not in self._live_devices:
            quantities = {quantity.name: live.direction(quantity.name) for quantity in plan.quantities}
            for name in (name for name, direction in quantities.items() if direction is None):
                _LOG.warning(
                    "source %s: quantity %s of plan %s is missing in every batch, as its name begins with "
                    "neither import nor export: set source.quantities, such as {%s: imported}",
                    live.name,
                    name,
                    plan.plan_id,
                    name,
                )
            known = {name: direction for name, direction in quantities.items() if direction is not None}
            self._live_devices[plan.plan_id] = LiveDevice(live, known)
        return self._live_devices[plan.plan_id]

    @property
    def _follows_the_clock(self) -> bool:
        """Whether windows follow the wall clock, and not a file's time stamps or a simulation."""
        options, table = self._options, self._table
        return options.speed == 1 and options.start_s is None and (table is None or table.times_s is None)

    def _within_horizon(self, resume_s: list[int], plan: "Plan", now_s: float) -> list[int]:
        """Skip windows older than the plan's horizon, which aggregators refuse."""
        oldest_s = int((now_s - plan.horizon_s) // plan.window_s) * plan.window_s
        skipped = max((oldest_s - from_s) // plan.window_s for from_s in resume_s)
        if skipped > 0:
            _LOG.warning(
                "the last window was sealed %d windows longer ago than the plan's horizon (plan.horizon_s, "
                "%g s): these windows are skipped",
                skipped,
                plan.horizon_s,
            )
        return [max(from_s, oldest_s) for from_s in resume_s]

    def _take_back(self, plan: "Plan", now_s: float) -> None:
        """Delete future windows that were sealed while the clock was ahead."""
        present_s = int(now_s // plan.window_s) * plan.window_s
        sealed = self._outbox.sealed_until_s()
        ahead = [unit for unit in self._units if sealed.get(unit.meter, 0) > present_s + plan.window_s]
        if not ahead:
            return
        future = []
        for unit in ahead:
            for batch in self._outbox.waiting(unit.meter, limit=_ALL):
                sealed_by = self._book.known(batch.plan)
                if sealed_by is not None and (batch.window + 1) * sealed_by.window_s > now_s + plan.early_s:
                    future.append(Settled(meter=unit.meter, plan=batch.plan, window=batch.window))
                    unit.agent.remove(batch.id)
        self._outbox.take_back([unit.meter for unit in ahead], present_s, future)
        _LOG.warning(
            "%d meters had sealed future windows while the clock was ahead: %d batches are deleted, and "
            "sealing continues with the present window",
            len(ahead),
            len(future),
        )

    def _start_s(self, plan: "Plan", now_s: float) -> int:
        """The start of the first window, and of the file's first row."""
        options, note = self._options, self._outbox.note("start_s")
        if options.start_s is not None and options.start_s % plan.window_s:
            raise ConfigError(
                f"--start {options.start_s} is not the start of a window of {plan.window_s} s; "
                f"use {options.start_s // plan.window_s * plan.window_s}"
            )
        if options.start_s is not None:
            start_s = options.start_s
        elif note is not None and not (self._follows_the_clock and int(note) > now_s):
            start_s = int(note)  # a restart keeps the first start's value
        else:
            start_s = self._default_start_s(plan, now_s)
        if note != str(start_s):
            self._outbox.set_note("start_s", str(start_s))
        if self._table is not None:
            own_times = self._table.times_s is not None and options.start_s is None
            self._file_start_s = None if own_times else start_s
        return start_s

    def _default_start_s(self, plan: "Plan", now_s: float) -> int:
        """In real time: the present window. Faster: early enough that the last window is just over."""
        options = self._options
        present_s = int(now_s // plan.window_s) * plan.window_s
        if self._table is not None and self._table.times_s is not None:
            return int(self._table.times_s[0] // plan.window_s) * plan.window_s
        if options.speed == 1:
            return present_s
        if options.windows is not None:
            start_s = present_s - options.windows * plan.window_s
        elif self._table is not None:
            from gridhe.meter_agent.sources.files.replay import last_start_s

            start_s = last_start_s(self._table, plan, now_s, options.loop)
        else:
            raise ConfigError("a synthetic source faster than real time needs --windows N or --start TIME")
        first_s = self._book.first_start_s
        if first_s is not None and start_s < first_s:
            _LOG.warning(
                "the plan starts %d windows after the readings: those windows are skipped",
                (first_s - start_s) // plan.window_s,
            )
            start_s = -(-first_s // plan.window_s) * plan.window_s
        return start_s

    def _expect(self, plan: "Plan", resume_s: list[int], until_s: int | None) -> None:
        follows = self._live is not None or (self._file is not None and self._file.follow)
        end = None if follows else self.source(plan).windows[1]
        ends = [
            bound for bound in (until_s, None if end is None else end * plan.window_s) if bound is not None
        ]
        if ends:
            self.expected = sum(max(0, min(ends) - from_s) // plan.window_s for from_s in resume_s)
