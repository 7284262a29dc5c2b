"""The roster table: the group of each meter, on disk and in a bounded cache."""

import math
import sys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgpack

from gridhe.aggregator.state.database import Database
from gridhe.wire.roster import FormerPlace, RosterEntry, RosterPlan

__all__ = ["GroupNames", "MeterPlace", "RosterTable"]

_CACHED = 32_768  # meters in the cache: about 200 bytes each


@dataclass(frozen=True, slots=True)
class MeterPlace:
    """A meter's place. `number`, unique in its group, is its bit in the set of reported meters."""

    group: str
    number: int
    from_s: int
    until_s: float = math.inf  # of a former place: it counts for windows that start before this time


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupNames:
    """The names in a group. `ordered`: all that the roster names, present and former, ascending.

    `by_number`: the name of each number that was ever given to a meter of the group.
    """

    ordered: list[str]
    by_number: dict[int, str]


def _meter_checksum(meter: str, group: str, number: int, from_s: int, enrolled: int) -> int:
    return zlib.crc32(msgpack.packb((meter, group, number, from_s, enrolled)))


def _former_checksum(meter: str, group: str, number: int, from_s: int, until_s: int) -> int:
    return zlib.crc32(msgpack.packb(("former", meter, group, number, from_s, until_s)))


def _named_checksum(meter: str, group: str) -> int:
    return zlib.crc32(msgpack.packb(("named", meter, group)))


class RosterTable:
    """The tables of enrolled meters, of their former places and of the roster's. Raises StateError.

    `former` holds places in which this aggregator counted a meter, with numbers and times; `named` holds all
    former places that the roster names. Bitmaps of member lists refer to the latter.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        # When full, entries are not replaced: meters report once a window in turn, so LRU would never hit.
        self._cache: dict[str, MeterPlace | None] = {}
        self._former: dict[str, tuple[MeterPlace, ...]] = {}  # of all meters that have moved
        self._fill_cache()

    def _fill_cache(self) -> None:
        """Read many meters in one query: a query for each at its first batch takes ten times longer."""
        self._cache.clear()
        rows = self._db.query(
            "SELECT meter, grp, number, from_s, checksum FROM meters WHERE enrolled = 1 LIMIT ?", _CACHED
        )
        for name, group, number, from_s, checksum in rows:
            if checksum == _meter_checksum(name, group, number, from_s, 1):  # else `_look_up` raises
                self._cache[name] = MeterPlace(sys.intern(group), number, from_s)
        self._former.clear()
        for row in self._db.query(
            "SELECT meter, grp, number, from_s, until_s, checksum FROM former ORDER BY until_s"
        ):
            name, group, number, from_s, until_s, checksum = row
            if checksum != _former_checksum(name, group, number, from_s, until_s):
                raise self._db.damaged(f"a former place of meter {name} fails its checksum")
            place = MeterPlace(sys.intern(group), number, from_s, until_s)
            self._former[name] = (*self._former.get(name, ()), place)

    def replace(
        self,
        version: int,
        entries: Iterable[RosterEntry],
        now: float,
        plans: Iterable[RosterPlan] = (),
        former: Iterable[FormerPlace] = (),
    ) -> None:
        """Store a newer roster; inside a transaction, to be rolled back if `entries` or `former` raises.

        Numbers are never reused in a group, so a bit always stands for the same meter. A meter that moves
        counts in its new group from `now` (UTC epoch seconds) at the earliest: earlier windows belong to
        the old one.
        """
        next_number: dict[str, int] = {}
        for group, number in self._db.query("SELECT grp, MAX(number) FROM meters GROUP BY grp"):
            next_number[group] = number + 1
        retired = self._db.meta("retired_numbers")
        for group, number in (msgpack.unpackb(retired) if retired else {}).items():
            next_number[group] = max(next_number.get(group, 0), number)
        known = bool(self._db.query("SELECT 1 FROM meters LIMIT 1"))
        self._db.write("UPDATE meters SET enrolled = 0")
        self._db.write_many(
            "INSERT OR REPLACE INTO meters VALUES (?, ?, ?, ?, ?, ?)",
            (self._row(entry, next_number, now, known) for entry in entries),
        )
        self._db.write("DELETE FROM named")
        self._db.write_many(
            "INSERT INTO named VALUES (?, ?, ?)",
            ((place.group, place.meter, _named_checksum(place.meter, place.group)) for place in former),
        )
        self._db.set_meta("retired_numbers", msgpack.packb(next_number))
        self._db.set_meta("roster_version", str(version).encode())
        rows = [[plan.plan_id, plan.start_s, plan.retired] for plan in plans]
        self._db.set_meta("roster_plans", msgpack.packb(rows))
        self._fill_cache()

    def _row(
        self, entry: RosterEntry, next_number: dict[str, int], now: float, known: bool
    ) -> tuple[str, str, int, int, int, int]:
        """The table's row of an entry."""
        sql = "SELECT grp, number, from_s FROM meters WHERE meter = ?"
        old = self._db.query(sql, entry.meter) if known else []
        if old and old[0][0] == entry.group:
            moved = self._former.get(entry.meter)
            moved_s = int(moved[-1].until_s) if moved else 0
            number, from_s = old[0][1], max(entry.from_s, moved_s)
        else:
            number = next_number.get(entry.group, 0)
            next_number[entry.group] = number + 1
            from_s = max(entry.from_s, int(now)) if old else entry.from_s
            if old:
                former = (entry.meter, *old[0], from_s)
                self._db.write(
                    "INSERT INTO former VALUES (?, ?, ?, ?, ?, ?)", *former, _former_checksum(*former)
                )
        checksum = _meter_checksum(entry.meter, entry.group, number, from_s, 1)
        return entry.meter, entry.group, number, from_s, 1, checksum

    @property
    def version(self) -> int:
        """The version of the present roster; -1 without one."""
        version = self._db.meta("roster_version")
        return int(version) if version else -1

    @property
    def plans(self) -> tuple[RosterPlan, ...]:
        """The plans on the present roster."""
        rows = self._db.meta("roster_plans")
        return tuple(RosterPlan(*row) for row in msgpack.unpackb(rows)) if rows else ()

    def meter(self, name: str) -> MeterPlace | None:
        """A meter's present place; None if it is not enrolled."""
        try:
            return self._cache[name]
        except KeyError:
            place = self._look_up(name)
        if len(self._cache) < _CACHED:
            self._cache[name] = place
        return place

    def places(self, name: str) -> tuple[MeterPlace, ...]:
        """A meter's present and former places."""
        place = self.meter(name)
        return (*(() if place is None else (place,)), *self._former.get(name, ()))

    def has_moved(self, name: str) -> bool:
        """Whether a meter has a former place."""
        return name in self._former

    def at(self, name: str, start_s: int) -> MeterPlace | None:
        """A meter's place for a window that starts at `start_s`; None if it is not enrolled."""
        place = self.meter(name)
        if place is None or place.from_s <= start_s:
            return place
        return next((one for one in self._former.get(name, ()) if one.from_s <= start_s < one.until_s), None)

    def _look_up(self, name: str) -> MeterPlace | None:
        rows = self._db.query(
            "SELECT grp, number, from_s, enrolled, checksum FROM meters WHERE meter = ?", name
        )
        if not rows:
            return None
        group, number, from_s, enrolled, checksum = rows[0]
        if not enrolled:
            return None
        if checksum != _meter_checksum(name, group, number, from_s, 1):
            raise self._db.damaged(f"the row of meter {name} fails its checksum")
        return MeterPlace(sys.intern(group), number, from_s)

    def names(self, group: str) -> GroupNames:
        """The names of a group's meters. Raises StateError if a row fails its checksum."""
        ordered: set[str] = set()
        by_number: dict[int, str] = {}
        sql = "SELECT meter, number, from_s, enrolled, checksum FROM meters WHERE grp = ?"
        for name, number, from_s, enrolled, checksum in self._db.query(sql, group):
            # (`enrolled` is cleared without a new checksum.)
            if checksum != _meter_checksum(name, group, number, from_s, 1):
                raise self._db.damaged(f"the row of meter {name} fails its checksum")
            by_number[number] = name
            if enrolled:
                ordered.add(name)
        sql = "SELECT meter, number, from_s, until_s, checksum FROM former WHERE grp = ?"
        for name, number, from_s, until_s, checksum in self._db.query(sql, group):
            if checksum != _former_checksum(name, group, number, from_s, until_s):
                raise self._db.damaged(f"a former place of meter {name} fails its checksum")
            by_number[number] = name
        for name, checksum in self._db.query("SELECT meter, checksum FROM named WHERE grp = ?", group):
            if checksum != _named_checksum(name, group):
                raise self._db.damaged(f"the former meter {name} of {group} fails its checksum")
            ordered.add(name)
        return GroupNames(ordered=sorted(ordered), by_number=by_number)

    def enrolled_since(self) -> dict[str, list[tuple[int, int]]]:
        """Count of enrolled meters by leaf group and start: {group: [(from_s, meters), ...]}.

        A group that all its meters have left has an empty list.
        """
        groups = self._db.query("SELECT grp FROM meters WHERE enrolled = 0 UNION SELECT grp FROM former")
        enrolled: dict[str, list[tuple[int, int]]] = {group: [] for (group,) in groups}
        sql = "SELECT grp, from_s, COUNT(*) FROM meters WHERE enrolled = 1 GROUP BY grp, from_s"
        for group, from_s, meters in self._db.query(sql):
            enrolled.setdefault(group, []).append((from_s, meters))
        return enrolled
