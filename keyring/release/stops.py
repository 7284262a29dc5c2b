"""Stops: failed totals are counted, and too many of them stop an aggregator, a group or a key.

A total fails if its decrypted slots are not the sum of the batches that it names (rule `unsound`). Each
failure tells its maker one bit about the secret key, so the number of failures is bounded:

    failed totals                                       consequence
    1                                                   an alarm: log, ledger, `gridhe-keyring inspect`
    3 of one aggregator within 24 h, without excuse     the aggregator is suspended
    3 windows of one group in a row                     the group is suspended
    64 under one key                                    the key is stopped, for ever: rotate

A part and the strands into which the aggregator splits it after a failure count once for the aggregator and
for the group, and each for the key. A group's windows are in a row if none of its totals for another window
was opened between them. A failure is excused if honest faults of excluded meters explain it completely
(`gridhe.keyring.release.suspects`).

A meter with such a fault is excluded: the roster leaves it out until `gridhe-keyring resume METER`. An
aggregator can forge the look of these faults, so exclusions are bounded: in a group at most `EXCLUDED_A_DAY`
within 24 h, and never more than a tenth of its meters at a time (one, in a group of fewer than 20).

A rogue meter that adds errors of its own cannot be named. But it is a member of each total that fails, and of
the failed strand in each window: `common` has the meters that are members of all of a group's failed totals
without suspects. With 8 strands a meter of 1,000 is the only one left after 4 windows, on average.

`Stops` is pure. It reads the records of the ledger, those of earlier runs and new ones alike:

    unsound    plan, group, window, part, key, aggregator, check, of, suspects, excluded, excused, members
               (names; empty if there are suspects, or if the total is a roll-up)
    answered   plan, group, window, part
    resumed    one of aggregator, group, meter

The time of a failure is its record's `at`. The `unsound` record is on the disk before anything else follows
from a failed check. After a crash before that the same total is judged again, with the same result.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from gridhe.errors import ConfigError, ReleaseRefused, StateError
from gridhe.keyring.release.suspects import HONEST, Finding
from gridhe.wire.total import TotalKey

__all__ = [
    "EXCLUDED_A_DAY",
    "EXCLUDED_SHARE",
    "FAILURES_OF_AGGREGATOR",
    "FAILURES_OF_KEY",
    "WINDOWS_OF_GROUP",
    "Failure",
    "Stops",
    "check_resumable",
]

FAILURES_OF_AGGREGATOR = 3
WINDOWS_OF_GROUP = 3
FAILURES_OF_KEY = 64
EXCLUDED_A_DAY = 3
EXCLUDED_SHARE = 10
_DAY = timedelta(hours=24)

Incident = tuple[str, str, int, int]  # plan, group, window and part; a strand has its failed part's


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A total that failed `check`; `of` is the failed part whose strand it is, else its own part.

    `members`: the names of its members, if it is a leaf group's own total.
    """

    total: TotalKey
    key: str
    aggregator: str
    check: str
    of: int
    finding: Finding
    members: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.total} of aggregator {self.aggregator}"


@dataclass(slots=True)
class Stops:
    """The counts of failed totals, and what they stopped. Equal records give an equal state."""

    aggregators: set[str] = field(default_factory=set)  # suspended
    groups: set[str] = field(default_factory=set)  # suspended
    excluded: dict[str, str] = field(default_factory=dict)  # meter: its group
    failures: dict[str, int] = field(default_factory=dict)  # failed totals by key
    failed: set[TotalKey] = field(default_factory=set)
    resumed: dict[str, str] = field(default_factory=dict)  # meter: the time of its latest return
    # By group: failed totals without suspects, one after the other, that have members in common; and these
    common: dict[str, tuple[int, frozenset[str]]] = field(default_factory=dict)
    _recent: dict[str, deque[tuple[datetime, Incident]]] = field(default_factory=dict)  # by aggregator
    _runs: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # by group: plan and window
    _exclusions: dict[str, list[datetime]] = field(default_factory=dict)  # by group: the newest

    # -- reading ---------------------------------------------------------------------------------

    def check(self, *, aggregator: str, group: str, key: str) -> None:
        """Raise ReleaseRefused (`suspended`) if this aggregator, group or key is stopped."""
        if self.stopped(key):
            raise ReleaseRefused(
                "suspended",
                f"key {key} is stopped: {self.failures[key]} totals under it failed; rotate to a new key",
            )
        for kind, name, suspended in (
            ("aggregator", aggregator, self.aggregators),
            ("group", group, self.groups),
        ):
            if name in suspended:
                raise ReleaseRefused(
                    "suspended",
                    f"{kind} {name} is suspended, because too many of its totals failed; find the cause, "
                    f"then run gridhe-keyring resume {name}",
                )

    def stopped(self, key: str) -> bool:
        """Whether a key is stopped."""
        return self.failures.get(key, 0) >= FAILURES_OF_KEY

    def stopped_keys(self) -> list[str]:
        """The stopped keys."""
        return sorted(filter(self.stopped, self.failures))

    def counts(self) -> tuple[int, int]:
        """The number of failed totals so far, and of what is stopped or excluded now."""
        stopped = (self.aggregators, self.groups, self.stopped_keys(), self.excluded)
        return sum(self.failures.values()), sum(map(len, stopped))

    def kinds(self, name: str) -> list[str]:
        """What `resume NAME` would resume: any of `aggregator`, `group` and `meter`."""
        found = (("aggregator", self.aggregators), ("group", self.groups), ("meter", self.excluded))
        return [kind for kind, names in found if name in names]

    # -- deciding --------------------------------------------------------------------------------

    def fields(self, failure: Failure, *, at: str, enrolled: Mapping[str, int]) -> dict[str, Any]:
        """The fields of a failure's `unsound` record, at ISO time `at`; `enrolled` is meters by group."""
        finding = failure.finding
        excluded = self._to_exclude(finding, _time(at), enrolled) if finding.honest else []
        gone = self.excluded.keys() | {meter for meter, _ in excluded}
        return {
            "plan": failure.total.plan,
            "group": failure.total.group,
            "window": failure.total.window,
            "part": failure.total.part,
            "of": failure.of,
            "key": failure.key,
            "aggregator": failure.aggregator,
            "check": failure.check,
            "suspects": [[each.meter, each.group, each.fault] for each in finding.suspects],
            "excluded": [list(each) for each in excluded],
            "excused": finding.honest and all(each.meter in gone for each in finding.suspects),
            "members": [] if finding.suspects else list(failure.members),
        }

    def _to_exclude(
        self, finding: Finding, at: datetime, enrolled: Mapping[str, int]
    ) -> list[tuple[str, str]]:
        """The (meter, group) pairs to exclude now, within the bounds."""
        chosen: list[tuple[str, str]] = []
        for suspect in finding.suspects:
            if suspect.fault not in HONEST or suspect.meter in self.excluded:
                continue
            group = suspect.group
            here = sum(each == group for _, each in chosen)
            today = sum(abs(at - before) < _DAY for before in self._exclusions.get(group, ()))
            absent = sum(each == group for each in self.excluded.values())
            most = max(1, enrolled.get(group, 0) // EXCLUDED_SHARE)
            if today + here < EXCLUDED_A_DAY and absent + here < most:
                chosen.append((suspect.meter, group))
        return chosen

    # -- recording -------------------------------------------------------------------------------

    def record(self, record: Mapping[str, Any]) -> None:
        """Take up a ledger record; kinds that say nothing about stops are ignored. Raises StateError."""
        try:
            if record["kind"] == "unsound":
                self._failed(record)
            elif record["kind"] == "answered":
                self._opened(record["group"], (record["plan"], record["window"]))
            elif record["kind"] == "resumed":
                self._resumed(record)
        except (KeyError, TypeError, ValueError):
            raise StateError(
                f"ledger line {record.get('n')} ({record.get('kind')}) is not complete; restore the ledger "
                "from a backup"
            ) from None

    def _failed(self, record: Mapping[str, Any]) -> None:
        at, key, group = _time(record["at"]), record["key"], record["group"]
        window = (record["plan"], record["window"])
        self.failed.add(TotalKey(record["plan"], group, record["window"], record["part"]))
        self.failures[key] = self.failures.get(key, 0) + 1
        for meter, home in record["excluded"]:
            self.excluded[meter] = home
            self._exclusions[home] = [*self._exclusions.get(home, []), at][-EXCLUDED_A_DAY:]
        run = self._runs.setdefault(group, [])
        if window not in run:
            run.append(window)
        if len(run) >= WINDOWS_OF_GROUP:
            self.groups.add(group)
        if record["members"]:
            members = frozenset(record["members"])
            count, common = self.common.get(group, (0, members))
            both = common & members
            self.common[group] = (count + 1, both) if both else (1, members)
        if not record["excused"]:
            self._count(record["aggregator"], at, (record["plan"], group, record["window"], record["of"]))

    def _count(self, aggregator: str, at: datetime, incident: Incident) -> None:
        recent = self._recent.setdefault(aggregator, deque(maxlen=FAILURES_OF_AGGREGATOR))
        if any(known == incident for _, known in recent):
            return
        recent.append((at, incident))
        # The clock of the authority may have been set back in between.
        times = [time for time, _ in recent]
        if len(recent) == FAILURES_OF_AGGREGATOR and max(times) - min(times) <= _DAY:
            self.aggregators.add(aggregator)

    def _opened(self, group: str, window: tuple[str, int]) -> None:
        """End the group's run, unless this is a strand or another part of a window in it."""
        run = self._runs.get(group)
        if run is not None and window not in run and group not in self.groups:
            del self._runs[group]

    def _resumed(self, record: Mapping[str, Any]) -> None:
        if "aggregator" in record:
            self.aggregators.discard(record["aggregator"])
            self._recent.pop(record["aggregator"], None)
        if "group" in record:
            self.groups.discard(record["group"])
            self._runs.pop(record["group"], None)
        if "meter" in record:
            self.excluded.pop(record["meter"], None)
            self.resumed[record["meter"]] = record["at"]


def check_resumable(stops: Stops, name: str, *, keys: Iterable[str]) -> Sequence[str]:
    """What `resume NAME` resumes (`Stops.kinds`). Raises ConfigError if that is nothing, or a stopped key."""
    if name in keys:
        if stops.stopped(name):
            raise ConfigError(
                f"key {name} is stopped for ever, because {stops.failures[name]} totals under it failed; "
                "run gridhe-keyring rotate"
            )
        raise ConfigError(f"{name} is a key, and it is not stopped; name an aggregator, a group or a meter")
    kinds = stops.kinds(name)
    if not kinds:
        raise ConfigError(
            f"{name!r} is no suspended aggregator or group and no excluded meter; gridhe-keyring inspect "
            "lists them"
        )
    return kinds


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
