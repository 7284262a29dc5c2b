"""The roster: who is enrolled where, since when. Signed by the authority, read by aggregators."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgpack

from gridhe.errors import BundleError, ConfigError
from gridhe.keyring.names import ancestors, check_group, check_meter
from gridhe.keyring.signing import SigningKey, open_record, sign_record

__all__ = ["Roster", "RosterEntry"]

_KIND = "roster"
_FROM_S_MAX = 2**48  # UTC epoch seconds; a number every database takes


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """A meter counts in `group` from the first window starting at or after `from_s` (UTC epoch seconds)."""

    meter: str
    group: str
    from_s: int = 0


def _entry(groups: list[str], meter: str, at: int, from_s: int) -> RosterEntry:
    if type(at) is not int or not 0 <= at < len(groups):
        raise ValueError(f"{meter!r} is in group number {at!r} of {len(groups)}")
    if type(from_s) is not int or not 0 <= from_s < _FROM_S_MAX:
        raise ValueError(f"{meter!r} counts from {from_s!r}")
    return RosterEntry(check_meter(meter), groups[at], from_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The enrolment list; a higher `version` replaces a lower one."""

    version: int
    entries: tuple[RosterEntry, ...]

    def __post_init__(self) -> None:
        """Raise ConfigError: a group with both meters and narrower groups, or a meter that stands twice."""
        leaves = {entry.group for entry in self.entries}
        for leaf in leaves:
            both = leaves.intersection(ancestors(leaf))
            if both:
                raise ConfigError(f"group {min(both)!r} cannot hold meters and the group {leaf!r} at once")
        if len({entry.meter for entry in self.entries}) != len(self.entries):
            raise ConfigError("a meter stands twice in the roster")

    def encode(self, key: SigningKey) -> bytes:
        """The signed roster: groups once, then [meter, index of its group, from_s] each."""
        groups = sorted({entry.group for entry in self.entries})
        index = {group: i for i, group in enumerate(groups)}
        rows = [[entry.meter, index[entry.group], entry.from_s] for entry in self.entries]
        return sign_record(key, _KIND, msgpack.packb([self.version, groups, rows]))

    @classmethod
    def decode(cls, data: bytes, verify_key: bytes) -> "Roster":
        """The roster in these bytes, if this authority signed it. Raises BundleError otherwise."""
        body = open_record(verify_key, _KIND, data)
        try:
            version, groups, rows = msgpack.unpackb(body)
            if type(version) is not int or type(groups) is not list or type(rows) is not list:
                raise ValueError("not a version, groups and rows")
            for group in groups:
                check_group(group)
            entries = tuple(_entry(groups, *row) for row in rows)
            return cls(version=version, entries=entries)
        except (ConfigError, ValueError, TypeError) as error:
            raise BundleError(f"the roster's content is not valid: {error}") from None

    @classmethod
    def of(cls, version: int, entries: Iterable[RosterEntry]) -> "Roster":
        """A roster with its entries in the order of their names."""
        return cls(version=version, entries=tuple(sorted(entries, key=lambda entry: entry.meter)))
