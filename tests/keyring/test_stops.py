"""Counting failed totals, and what they stop: tables of ledger records, and any order of them."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import ConfigError, ReleaseRefused, StateError
from gridhe.keyring.release.stops import (
    EXCLUDED_A_DAY,
    EXCLUDED_SHARE,
    FAILURES_OF_KEY,
    Failure,
    Stops,
    check_resumable,
)
from gridhe.keyring.release.suspects import Finding, Suspect
from gridhe.wire.total import TotalKey

PLAN, KEY = "p" + "0" * 16, "k" + "0" * 16
START = datetime(2026, 1, 1, tzinfo=UTC)
ENROLLED = {"north/f1": 100, "north/f2": 100, "small": 10}
NOBODY = Finding()


def at(hours: float) -> str:
    return (START + timedelta(hours=hours)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def honest(*meters: str, group: str = "north/f1", fault: str = "without_guards") -> Finding:
    suspects = tuple(Suspect(meter=meter, group=group, fault=fault) for meter in meters)
    return Finding(suspects=suspects, honest=True)


class History:
    """The stops of a running authority, and the ledger that it writes."""

    def __init__(self) -> None:
        self.stops = Stops()
        self.ledger: list[dict[str, Any]] = []

    def append(self, kind: str, hours: float, **fields: Any) -> None:
        record = json.loads(json.dumps({**fields, "kind": kind, "at": at(hours), "n": len(self.ledger) + 1}))
        self.ledger.append(record)
        self.stops.record(record)

    def fail(
        self,
        window: int,
        hours: float = 0.0,
        *,
        group: str = "north/f1",
        part: int = 0,
        of: int | None = None,
        key: str = KEY,
        aggregator: str = "agg1",
        finding: Finding = NOBODY,
        members: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        failure = Failure(
            total=TotalKey(PLAN, group, window, part),
            key=key,
            aggregator=aggregator,
            check="guards",
            of=part if of is None else of,
            finding=finding,
            members=members,
        )
        self.append("unsound", hours, **self.stops.fields(failure, at=at(hours), enrolled=ENROLLED))
        return self.ledger[-1]

    def open(self, window: int, *, group: str = "north/f1", part: int = 0, hours: float = 0.0) -> None:
        self.append("answered", hours, plan=PLAN, group=group, window=window, part=part, answer="")

    def resume(self, hours: float = 0.0, **name: str) -> None:
        self.append("resumed", hours, **name)

    def refused(self, *, aggregator: str = "agg1", group: str = "north/f1", key: str = KEY) -> bool:
        try:
            self.stops.check(aggregator=aggregator, group=group, key=key)
        except ReleaseRefused as refused:
            return refused.rule == "suspended"
        return False


@pytest.fixture
def history() -> History:
    return History()


# -- an aggregator --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "suspended"),
    [((0, 1, 2), True), ((0, 12, 24), True), ((0, 12, 24.01), False), ((0, 1, 26, 27, 28), True)],
)
def test_three_failures_within_24_hours_suspend_an_aggregator(
    history: History, hours: tuple[float, ...], suspended: bool
) -> None:
    for number, hour in enumerate(hours):
        assert not history.refused(group="other")
        history.fail(number, hour, group=f"north/f{number}")
    assert history.refused(group="other") is suspended
    assert not history.refused(group="other", aggregator="agg2")
    assert (history.stops.aggregators == {"agg1"}) is suspended


def test_a_clock_that_was_set_back_between_failures_hides_none(history: History) -> None:
    for number, hour in enumerate((100, 0.5, 0)):
        history.fail(number, hour, group=f"north/f{number}")
    assert not history.stops.aggregators  # 100 hours lie between them, in whichever direction
    history.fail(4, 1, group="north/f4")
    assert history.stops.aggregators == {"agg1"}


def test_a_part_and_its_strands_count_once_for_the_aggregator(history: History) -> None:
    for strand in range(8):
        history.fail(5, part=strand, of=0)
    assert not history.stops.aggregators
    assert history.stops.failures == {KEY: 8}
    history.fail(5, part=9)  # another part of the same window
    assert not history.stops.aggregators
    history.fail(5, group="south")
    assert history.stops.aggregators == {"agg1"}


def test_resume_resets_an_aggregators_count(history: History) -> None:
    for number in range(3):
        history.fail(number, group=f"north/f{number}")
    history.resume(aggregator="agg1")
    assert not history.refused(group="other")
    for number in range(3, 5):
        history.fail(number, group=f"north/f{number}")
    assert not history.refused(group="other")
    history.fail(5, group="north/f5")
    assert history.refused(group="other")


# -- a group --------------------------------------------------------------------------------------


def test_three_windows_in_a_row_suspend_a_group(history: History) -> None:
    for number in range(3):
        assert not history.refused(aggregator="agg9")
        history.fail(7 + number, 100 * number, aggregator=f"agg{number}")
    assert history.refused(aggregator="agg9")
    assert not history.refused(aggregator="agg9", group="north/f2")
    assert not history.refused(aggregator="agg9", group="north")


def test_an_opened_total_of_another_window_ends_a_groups_row(history: History) -> None:
    history.fail(1, 0)
    history.fail(2, 100)
    history.open(3)
    history.fail(4, 200)
    history.fail(5, 300)
    assert not history.stops.groups
    history.fail(6, 400)
    assert history.stops.groups == {"north/f1"}
    history.open(7)  # decided before: what is suspended stays so until it is resumed
    assert history.stops.groups == {"north/f1"}


def test_opened_strands_of_a_failed_window_do_not_end_a_groups_row(history: History) -> None:
    for window in range(3):
        history.fail(window, 100 * window)
        for strand in range(1, 8):
            history.open(window, part=strand)
        history.fail(window, 100 * window, part=8, of=0)
    assert history.stops.groups == {"north/f1"}
    assert not history.stops.aggregators


def test_resume_resets_a_groups_row(history: History) -> None:
    for window in range(3):
        history.fail(window, 100 * window)
    history.resume(group="north/f1")
    history.fail(3, 300)
    history.fail(4, 400)
    assert not history.stops.groups
    history.fail(5, 500)
    assert history.stops.groups == {"north/f1"}


# -- a key ----------------------------------------------------------------------------------------


def test_64_failures_stop_a_key_for_ever(history: History) -> None:
    for number in range(FAILURES_OF_KEY):
        assert not history.refused(aggregator="other", group="other")
        history.fail(number, 100 * number, group=f"g{number}", aggregator=f"agg{number}")
    assert history.refused(aggregator="other", group="other")
    assert not history.refused(aggregator="other", group="other", key="k" + "1" * 16)
    assert history.stops.stopped_keys() == [KEY]
    with pytest.raises(ReleaseRefused, match="rotate to a new key"):
        history.stops.check(aggregator="other", group="other", key=KEY)
    with pytest.raises(ConfigError, match="gridhe-keyring rotate"):
        check_resumable(history.stops, KEY, keys=[KEY])


def test_resuming_does_not_take_back_failures_of_the_key(history: History) -> None:
    for number in range(FAILURES_OF_KEY):
        history.fail(number)
        history.resume(aggregator="agg1")
        history.resume(group="north/f1")
    assert history.stops.stopped_keys() == [KEY]


# -- exclusion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["without_guards", "other_window"])
def test_an_honest_fault_excludes_the_meter_and_is_excused(history: History, fault: str) -> None:
    for number in range(5):
        record = history.fail(number, finding=honest("anna", fault=fault), group=f"g{number}")
        assert record["excused"]
        assert record["excluded"] == ([["anna", "north/f1"]] if number == 0 else [])
    assert history.stops.excluded == {"anna": "north/f1"}
    assert not history.stops.aggregators
    assert history.stops.failures == {KEY: 5}


def test_an_excused_failure_still_counts_for_the_group(history: History) -> None:
    for window in range(3):
        history.fail(window, finding=honest("anna"))
    assert history.stops.groups == {"north/f1"}


@pytest.mark.parametrize("fault", ["repeated", "left_out", "replaced", "not_claimed"])
def test_repro_the_victim_of_an_attack_is_never_excluded(history: History, fault: str) -> None:
    finding = Finding(suspects=(Suspect(meter="anna", group="north/f1", fault=fault),))
    forced = Finding(suspects=finding.suspects, honest=True)
    for each in (finding, forced):
        record = history.fail(1, finding=each)
        assert record["excluded"] == []
        assert not record["excused"]
    mixed = Finding(suspects=(*finding.suspects, *honest("bert").suspects))
    assert history.fail(2, finding=mixed)["excluded"] == []
    assert history.stops.excluded == {}


def test_repro_a_group_is_not_thinned_out_by_forged_faults(history: History) -> None:
    """An aggregator can forge honest faults: 3 exclusions a day, and a tenth of the group at a time."""
    for hour in range(24):
        history.fail(hour, hour, group="roll", finding=honest(f"m{hour:02}"), aggregator=f"agg{hour}")
    assert list(history.stops.excluded) == ["m00", "m01", "m02"]
    for hour in range(24, 24 * 30):
        history.fail(hour, hour, group="roll", finding=honest(f"m{hour:03}"), aggregator=f"agg{hour}")
    assert len(history.stops.excluded) == ENROLLED["north/f1"] // EXCLUDED_SHARE
    history.fail(1, 10_000, finding=honest("a", "b", group="small"))
    assert [name for name, group in history.stops.excluded.items() if group == "small"] == ["a"]


def test_a_failure_beyond_the_bounds_of_exclusion_is_not_excused(history: History) -> None:
    everyone = honest(*(f"m{i}" for i in range(EXCLUDED_A_DAY + 1)))
    record = history.fail(1, finding=everyone)
    assert len(record["excluded"]) == EXCLUDED_A_DAY
    assert not record["excused"]
    assert history.fail(2, 25, finding=everyone)["excused"]  # the last one is excluded the next day


def test_resume_includes_a_meter_from_then_on(history: History) -> None:
    history.fail(1, finding=honest("anna"))
    history.resume(30, meter="anna")
    assert history.stops.excluded == {}
    assert history.stops.resumed == {"anna": at(30)}
    assert history.fail(2, 60, finding=honest("anna"))["excluded"] == [["anna", "north/f1"]]


def test_a_rogue_meter_is_the_only_one_in_every_failed_strand(history: History) -> None:
    """1,000 meters in 8 strands a window: after some 4 windows one is left, and it stays."""
    rng, meters, left = random.Random(5), [f"m{i:04}" for i in range(1_000)], []
    for window in range(8):
        history.fail(window, members=tuple(meters))
        rng.shuffle(meters)
        strands = [meters[i::8] for i in range(8)]
        [bad] = [strand for strand in strands if "m0007" in strand]
        history.fail(window, part=3, of=0, members=tuple(bad))
        left.append(len(history.stops.common["north/f1"][1]))
    assert left[0] == 125
    assert left[-1] == 1
    assert left[4] <= 5
    assert history.stops.common["north/f1"] == (16, frozenset({"m0007"}))


def test_failures_without_common_members_or_with_suspects_suspect_nobody_else(history: History) -> None:
    history.fail(1, members=("anna", "bert"))
    history.fail(2, members=("anna", "carl"), finding=honest("anna"))
    assert history.ledger[-1]["members"] == []
    assert history.stops.common == {"north/f1": (1, frozenset({"anna", "bert"}))}
    history.fail(3, members=("carl", "dora"))
    assert history.stops.common == {"north/f1": (1, frozenset({"carl", "dora"}))}


# -- names, records -------------------------------------------------------------------------------


def test_resume_names_what_is_stopped(history: History) -> None:
    for number in range(3):
        # A group may have an aggregator's name.
        history.fail(number, 100 * number, group="agg1")
    history.fail(4, 300, finding=honest("anna"), aggregator="agg2")
    assert check_resumable(history.stops, "agg1", keys=[KEY]) == ["group"]
    history.fail(5, 200, group="x")
    history.fail(6, 200, group="y")
    assert check_resumable(history.stops, "agg1", keys=[KEY]) == ["aggregator", "group"]
    assert check_resumable(history.stops, "anna", keys=[KEY]) == ["meter"]
    with pytest.raises(ConfigError, match="inspect lists them"):
        check_resumable(history.stops, "bert", keys=[KEY])
    with pytest.raises(ConfigError, match="is not stopped"):
        check_resumable(history.stops, KEY, keys=[KEY])


@pytest.mark.parametrize("lacks", ["key", "window", "suspects", "excluded", "excused", "of", "at", "members"])
def test_an_incomplete_failure_in_the_ledger_is_refused(history: History, lacks: str) -> None:
    record = history.fail(1)
    del record[lacks]
    if lacks == "suspects":
        Stops().record(record)  # only for people
        return
    with pytest.raises(StateError, match=r"ledger line 1 \(unsound\) is not complete"):
        Stops().record(record)


def test_other_records_say_nothing_about_stops() -> None:
    stops = Stops()
    for kind in ("decided", "refused", "dropped", "recovered"):
        stops.record({"kind": kind, "n": 1})
    assert stops == Stops()


names = st.sampled_from(["a", "b", "c"])
events = st.one_of(
    st.tuples(
        st.just("fail"),
        st.fixed_dictionaries(
            {
                "window": st.integers(0, 4),
                "part": st.integers(0, 2),
                "of": st.one_of(st.none(), st.integers(0, 1)),
                "group": st.sampled_from(list(ENROLLED)),
                "aggregator": names,
                "key": names,
                "members": st.sets(names).map(sorted).map(tuple),
                "finding": st.one_of(
                    st.just(NOBODY),
                    st.builds(
                        lambda meters, group: honest(*meters, group=group),
                        st.sets(names, min_size=1),
                        st.sampled_from(list(ENROLLED)),
                    ),
                ),
            }
        ),
    ),
    st.tuples(
        st.just("open"),
        st.fixed_dictionaries({"window": st.integers(0, 4), "group": st.sampled_from(list(ENROLLED))}),
    ),
    st.tuples(
        st.just("resume"),
        st.one_of(
            st.fixed_dictionaries({"aggregator": names}),
            st.fixed_dictionaries({"group": st.sampled_from(list(ENROLLED))}),
            st.fixed_dictionaries({"meter": names}),
        ),
    ),
)


@given(st.lists(st.tuples(events, st.floats(0, 100)), max_size=60), st.integers(0, 60))
def test_stops_rebuilt_from_the_ledger_are_the_stops_that_wrote_it(
    steps: list[tuple[tuple[str, dict[str, Any]], float]], killed: int
) -> None:
    """Also if the process ends anywhere in between, and another one continues."""
    history = History()
    for number, ((do, arguments), hours) in enumerate(steps):
        if number == killed:
            rebuilt = Stops()
            for record in history.ledger:
                rebuilt.record(record)
            history.stops = rebuilt
        getattr(history, do)(**arguments, hours=hours)
    rebuilt = Stops()
    for record in history.ledger:
        rebuilt.record(record)
    assert rebuilt == history.stops
    stops = history.stops
    for group, enrolled in ENROLLED.items():
        excluded = sum(each == group for each in stops.excluded.values())
        assert excluded <= max(1, enrolled // EXCLUDED_SHARE)
