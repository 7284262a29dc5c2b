"""The roster: the meters with their groups, and all plans. Signed by the authority, read by aggregators.

It also names the former meters of each group: a part may hold the batch of a meter that was moved or revoked
afterwards, and the total must be able to name it. The group's meters, present and former, in ascending order
of name are what the bitmaps of member lists refer to (gridhe.wire.total).

A `Roster` has all entries in memory. A `RosterReader` reads them from the bytes one by one, so that an
aggregator of a million meters does not need memory for all.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO

import msgpack

from gridhe.errors import BundleError, ConfigError
from gridhe.plan.names import ancestors, check_group, check_meter
from gridhe.wire.codec import plan_id
from gridhe.wire.signing import SigningKey, open_record, sign_record

__all__ = ["FormerPlace", "Roster", "RosterEntry", "RosterPlan", "RosterReader"]

_KIND = "roster"
_READ = 1 << 16
_FROM_S_MAX = 2**48  # UTC epoch seconds; fits the integers of every database
_START_S_MAX = 2**62  # a plan's first window goes up to 2^48
_PLANS_MAX = 65_536


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """A meter counts in `group` from the first window starting at or after `from_s` (UTC epoch seconds)."""

    meter: str
    group: str
    from_s: int = 0


@dataclass(frozen=True, slots=True)
class FormerPlace:
    """A meter that was in `group` and is not any more."""

    meter: str
    group: str


@dataclass(frozen=True, slots=True)
class RosterPlan:
    """A plan that starts at `start_s` (UTC epoch seconds). Retired: its totals can no longer be decrypted."""

    plan_id: str
    start_s: int
    retired: bool = False


def _plans(rows: object) -> tuple[RosterPlan, ...]:
    if type(rows) is not list or len(rows) > _PLANS_MAX:
        raise ValueError(f"the plans are not a list of up to {_PLANS_MAX}")
    plans = []
    for row in rows:
        if type(row) is not list or [type(part) for part in row] != [str, int, bool]:
            raise ValueError("a plan is not a list of id, start and retired")
        plan_id(row[0])
        if not 0 <= row[1] < _START_S_MAX:
            raise ValueError(f"plan {row[0]} starts at {row[1]}")
        plans.append(RosterPlan(*row))
    if len({plan.plan_id for plan in plans}) != len(plans):
        raise ConfigError("a plan occurs twice in the roster")
    return tuple(plans)


def _group(groups: list[str], meter: str, at: int) -> str:
    if type(at) is not int or not 0 <= at < len(groups):
        raise ValueError(f"{meter!r} is in group number {at!r} of {len(groups)}")
    return groups[at]


def _entry(groups: list[str], meter: str, at: int, from_s: int) -> RosterEntry:
    group = _group(groups, meter, at)
    if type(from_s) is not int or not 0 <= from_s < _FROM_S_MAX:
        raise ValueError(f"{meter!r} counts from {from_s!r}")
    return RosterEntry(check_meter(meter), group, from_s)


def _check_leaves(leaves: set[str]) -> None:
    for leaf in leaves:
        both = leaves.intersection(ancestors(leaf))
        if both:
            raise ConfigError(f"group {min(both)!r} cannot contain both meters and the group {leaf!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The enrolment list; a higher `version` replaces a lower one."""

    version: int
    entries: tuple[RosterEntry, ...]
    plans: tuple[RosterPlan, ...] = ()  # all plans ever made
    former: tuple[FormerPlace, ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError if a group has both meters and narrower groups, or if a row occurs twice."""
        _check_leaves({entry.group for entry in self.entries})
        if len({entry.meter for entry in self.entries}) != len(self.entries):
            raise ConfigError("a meter occurs twice in the roster")
        if len(set(self.former)) != len(self.former):
            raise ConfigError("a former meter occurs twice in the roster")

    def encode(self, key: SigningKey) -> bytes:
        """The signed roster: version, groups, plans, rows [meter, group index, from_s], and former meters.

        Former meters are rows [meter, group index], sorted by meter and group.
        """
        groups = sorted({e.group for e in self.entries} | {place.group for place in self.former})
        index = {group: i for i, group in enumerate(groups)}
        rows = [[entry.meter, index[entry.group], entry.from_s] for entry in self.entries]
        plans = [[plan.plan_id, plan.start_s, plan.retired] for plan in self.plans]
        places = sorted((place.meter, place.group) for place in self.former)
        former = [[meter, index[group]] for meter, group in places]
        return sign_record(key, _KIND, msgpack.packb([self.version, groups, plans, rows, former]))

    @classmethod
    def decode(cls, data: bytes, verify_key: bytes) -> "Roster":
        """The roster in these bytes. Raises BundleError if not valid or not signed by this authority."""
        reader = RosterReader(data, verify_key)
        return cls(
            version=reader.version,
            entries=tuple(reader.entries()),
            plans=reader.plans,
            former=tuple(reader.former()),
        )

    @classmethod
    def of(
        cls,
        version: int,
        entries: Iterable[RosterEntry],
        plans: Iterable[RosterPlan] = (),
        former: Iterable[FormerPlace] = (),
    ) -> "Roster":
        """A roster with its entries and former meters sorted by meter."""
        rows = tuple(sorted(entries, key=lambda entry: entry.meter))
        places = tuple(sorted(former, key=lambda place: (place.meter, place.group)))
        return cls(version=version, entries=rows, plans=tuple(plans), former=places)


class RosterReader:
    """A signed roster's `version` and `plans`; `entries` and `former` read its rows one by one."""

    def __init__(self, data: bytes, verify_key: bytes) -> None:
        """Check the signature, read version and plans. Raises BundleError."""
        self._body = open_record(verify_key, _KIND, data)
        try:
            _, self.version, _, self.plans, _ = self._begin()
        except _FAULTS as error:
            raise _invalid(error) from None

    def _begin(self) -> tuple[msgpack.Unpacker, int, list[str], tuple[RosterPlan, ...], int]:
        """An unpacker positioned before the first row; version, groups, plans and the number of rows."""
        unpacker = msgpack.Unpacker(
            BytesIO(self._body), read_size=_READ, max_buffer_size=_READ + len(self._body)
        )
        length = unpacker.read_array_header()
        if length in (3, 4):
            raise ValueError("it is of wire version 1, this is version 2; upgrade the authority")
        if length != 5:
            raise ValueError("not a list of version, groups, plans, meters and former meters")
        version, groups = unpacker.unpack(), unpacker.unpack()
        if type(version) is not int or type(groups) is not list:
            raise ValueError("the version is not an integer, or the groups are not a list")
        for group in groups:
            check_group(group)
        plans = _plans(unpacker.unpack())
        return unpacker, version, groups, plans, unpacker.read_array_header()

    def entries(self) -> Iterator[RosterEntry]:
        """Every entry, in the order of the bytes.

        Raises BundleError at an entry that is not valid, and at the end if a meter occurs twice or a group
        has both meters and narrower groups. So make no permanent change before the end.
        """
        try:
            unpacker, _, groups, _, rows = self._begin()
            used: set[int] = set()
            before, sorted_so_far = "", True
            for _ in range(rows):
                meter, at, from_s = unpacker.unpack()
                entry = _entry(groups, meter, at, from_s)
                used.add(at)
                if entry.meter == before:
                    raise ConfigError("a meter occurs twice in the roster")
                sorted_so_far = sorted_so_far and entry.meter > before
                before = entry.meter
                yield entry
            _check_leaves({groups[at] for at in used})
            if not sorted_so_far:
                self._check_names(rows)
        except _FAULTS as error:
            raise _invalid(error) from None

    def former(self) -> Iterator[FormerPlace]:
        """Every former meter, in the order of the bytes.

        Raises BundleError at a row that is not valid or not in order, and at the end if bytes follow. So make
        no permanent change before the end.
        """
        try:
            unpacker, _, groups, _, rows = self._begin()
            for _ in range(rows):
                unpacker.skip()
            before = ("", "")
            for _ in range(unpacker.read_array_header()):
                meter, at = unpacker.unpack()
                place = FormerPlace(check_meter(meter), _group(groups, meter, at))
                if (place.meter, place.group) <= before:
                    raise ConfigError("the roster's former meters are not in order, or one occurs twice")
                before = (place.meter, place.group)
                yield place
            if unpacker.tell() != len(self._body):
                raise ValueError("bytes after the last row")
        except _FAULTS as error:
            raise _invalid(error) from None

    def _check_names(self, rows: int) -> None:
        """Check unsorted rows for a meter that occurs twice; this needs all names in memory."""
        unpacker, _, _, _, _ = self._begin()
        if len({unpacker.unpack()[0] for _ in range(rows)}) != rows:
            raise ConfigError("a meter occurs twice in the roster")


# Errors of msgpack and of the checks above for bytes that are not a roster. OutOfData (truncated bytes) is an
# UnpackException; deep nesting raises RecursionError.
_FAULTS = (ConfigError, ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException)


def _invalid(error: Exception) -> BundleError:
    return BundleError(f"the roster's content is not valid: {str(error) or type(error).__name__}")
