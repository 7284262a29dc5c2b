"""The input of a demo run: meters, their feeders, windows, and readings as text, as in a meter's CSV.

The fleet replays these cells, and the proof is computed from them.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.data import HOMES, house_weeks
from gridhe.meter_agent.sources.files.moments import parse_time
from gridhe.plan.names import NAME_PATTERN, ROOT_GROUP, ancestors

__all__ = ["Workload", "feeders", "from_csv", "from_sample", "live"]

_REGIONS = ("north", "south")
_HOUR_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One run's meters and readings. `cells[row][meter]` is for `times_s[row]` (UTC epoch seconds)."""

    origin: str  # the source of the readings, as text for the report
    meters: tuple[str, ...]
    groups: tuple[str, ...]  # the feeder of each meter
    window_s: int
    interval_s: int
    first_window: int
    windows: int
    times_s: tuple[int, ...] = ()
    cells: Sequence[Sequence[str]] = ()  # empty: the fleet makes synthetic readings in real time

    @property
    def intervals(self) -> int:
        """Intervals in a window."""
        return self.window_s // self.interval_s

    @property
    def start_s(self) -> int:
        """Start of the first window, UTC epoch seconds."""
        return self.first_window * self.window_s

    @property
    def end_s(self) -> int:
        """End of the last window, UTC epoch seconds."""
        return (self.first_window + self.windows) * self.window_s

    @property
    def batches(self) -> int:
        """The number of batches that the fleet sends."""
        return len(self.meters) * self.windows

    def members(self) -> Mapping[str, tuple[int, ...]]:
        """The meters (by position) of every feeder and every roll-up, feeders first, `grid` last."""
        members: dict[str, list[int]] = {group: [] for group in self.groups}
        for at, group in enumerate(self.groups):
            members[group].append(at)
        for at, group in enumerate(self.groups):
            for wider in ancestors(group):
                members.setdefault(wider, []).append(at)
        order = sorted(members, key=lambda group: (group == ROOT_GROUP, -group.count("/"), group))
        return {group: tuple(members[group]) for group in order}

    def write_csv(self, path: Path) -> None:
        """Write the readings as the fleet replays them: a `time` column, then one column per meter."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["time", *self.meters])
            for time_s, row in zip(self.times_s, self.cells, strict=True):
                writer.writerow([datetime.fromtimestamp(time_s, UTC).isoformat(), *row])

    def write_meters(self, path: Path) -> None:
        """Write the enrolment list: `meter,group`."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["meter", "group"])
            writer.writerows(zip(self.meters, self.groups, strict=True))


def feeders(meters: int, count: int, minimum_meters: int) -> tuple[str, ...]:
    """The feeder of each of `meters` meters: `count` feeders of about the same size in two regions.

    Raises ConfigError when a feeder would have fewer than `minimum_meters`: nothing of it is ever released.
    """
    if count < 1 or meters // count < minimum_meters:
        raise ConfigError(
            f"{meters} meters in {count} feeders: a feeder needs {minimum_meters} (plan.minimum_meters) "
            f"to be released; use at most {max(1, meters // minimum_meters)} feeders, or more meters"
        )
    half = (count + 1) // 2
    names = [f"{_REGIONS[i >= half]}/f{i % half + 1 if i >= half else i + 1}" for i in range(count)]
    return tuple(names[at * count // meters] for at in range(meters))


def _names(count: int) -> tuple[str, ...]:
    width = max(3, len(str(count)))
    return tuple(f"m{at:0{width}d}" for at in range(1, count + 1))


def _recent_window(now_s: float, window_s: int, windows: int) -> int:
    """The first of the `windows` most recent windows that are over."""
    return int(now_s // window_s) - windows


def from_sample(
    *,
    meters: int,
    windows: int,
    groups: int,
    minimum_meters: int,
    window_s: int,
    interval_s: int,
    now_s: float,
) -> Workload:
    """The shipped homes on the most recent complete days. Raises SourceError for more than they hold."""
    if interval_s != _HOUR_S or window_s % _HOUR_S:
        raise ConfigError(
            f"the shipped readings are hourly: plan.interval_s must be {_HOUR_S} and plan.window_s a "
            f"multiple of it, not {interval_s} and {window_s}; or bring readings of your own with --csv"
        )
    hours = window_s // _HOUR_S
    energy_wh = house_weeks(meters, windows, hours)
    first = _recent_window(now_s, window_s, windows)
    stretch = "week" if windows * hours == 168 else f"stretches of {windows * hours} hours"
    plural = "house-weeks" if stretch == "week" else stretch
    return Workload(
        origin=f"{meters} {plural} of {min(meters, HOMES)} homes",
        meters=_names(meters),
        groups=feeders(meters, groups, minimum_meters),
        window_s=window_s,
        interval_s=interval_s,
        first_window=first,
        windows=windows,
        times_s=tuple(first * window_s + row * interval_s for row in range(windows * hours)),
        cells=[[str(cell) for cell in row] for row in energy_wh.tolist()],
    )


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SourceError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    head = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text), delimiter=";" if head.count(";") > head.count(",") else ",")
    try:
        table = [row for row in rows if row]
    except csv.Error as error:
        raise SourceError(f"{path} is not a CSV file: {error}") from None
    if len(table) < 2 or len(table[0]) < 2:
        raise SourceError(
            f"{path} has no readings: expected a header `time,meter,...` and a row per interval"
        )
    for at, row in enumerate(table):
        if len(row) != len(table[0]):
            raise SourceError(f"{path}, row {at + 1}: {len(row)} cells, expected {len(table[0])}")
    return table[0], table[1:]


def from_csv(
    path: Path,
    *,
    meters: int | None,
    windows: int,
    groups: int,
    minimum_meters: int,
    window_s: int,
    interval_s: int,
    now_s: float,
) -> Workload:
    """A CSV's first `meters` columns (None: all) and first windows, moved to the most recent complete ones.

    If every label of the first column is a time, rows keep their times (moved by whole windows); otherwise
    rows follow each other at `interval_s`. Columns without names, or with names that are not legal meter
    names, become m001, m002, ... Raises SourceError.
    """
    header, rows = _rows(path)
    columns = [name.strip() for name in header[1:]]
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        raise SourceError(f"{path}: the column {twice[0]!r} occurs twice; remove one of the two")
    count = len(columns) if meters is None else meters
    if count > len(columns):
        raise SourceError(f"{path} has {len(columns)} columns of readings, {count} meters were asked for")
    if windows < 1:
        raise ConfigError(f"{windows} windows: ask for 1 or more")
    first = _recent_window(now_s, window_s, windows)
    parsed = [parse_time(row[0]) for row in rows]
    stamps = [stamp for stamp in parsed if stamp is not None]
    if len(stamps) == len(rows):
        # Moved by whole windows, so that a reading keeps its place in its window.
        shift = first * window_s - int(stamps[0] // window_s) * window_s
        times_s = [int(stamp) + shift for stamp in stamps]
    else:
        times_s = [first * window_s + at * interval_s for at in range(len(rows))]
    end_s = (first + windows) * window_s
    if times_s[-1] + interval_s < end_s:
        complete = (times_s[-1] + interval_s - first * window_s) // window_s
        raise SourceError(f"{path} has {complete} complete windows of {window_s} s; {windows} were asked for")
    used = [at for at, time_s in enumerate(times_s) if time_s < end_s]
    named = all(map(NAME_PATTERN.fullmatch, columns[:count]))
    return Workload(
        origin=f"{count} meters of {path.name}",
        meters=tuple(columns[:count]) if named else _names(count),
        groups=feeders(count, groups, minimum_meters),
        window_s=window_s,
        interval_s=interval_s,
        first_window=first,
        windows=windows,
        times_s=tuple(times_s[at] for at in used),
        cells=[rows[at][1 : count + 1] for at in used],
    )


def live(
    *,
    meters: int,
    windows: int,
    groups: int,
    minimum_meters: int,
    window_s: int,
    interval_s: int,
    first: int,
    kind: str = "synthetic households",
) -> Workload:
    """Meters of some kind in real time, from window `first` on."""
    return Workload(
        origin=f"{meters} {kind} in real time",
        meters=_names(meters),
        groups=feeders(meters, groups, minimum_meters),
        window_s=window_s,
        interval_s=interval_s,
        first_window=first,
        windows=windows,
    )
