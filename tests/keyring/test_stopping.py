"""Spoilt totals on the real release path: what stops, what is excluded, and how it goes on."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridhe.aggregator.fold.strands import merged
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.ledger import LedgerRecord, verify_ledger
from gridhe.keyring.release.resuming import ask_resume, read_stops
from gridhe.keyring.release.service import ReleaseService
from gridhe.wire.roster import Roster
from gridhe.wire.strands import STRANDS, strand_key, strand_of
from gridhe.wire.total import open_total
from gridhe_testing.spoilt import FAULTS, SpoiltGrid, small_plan

GROUPS = {"north/f1": 30, "north/f2": 6, "south/f1": 6, "south/f2": 6}
FAULTY = "north-f1-003"
Outcomes = dict[tuple[str, int, int], str]


class World(SpoiltGrid):
    """The authority's inbox, and what a run of `release` makes of it."""

    def run(self, *payloads: bytes) -> Outcomes:
        """The rule that refuses each total, empty if it is released, by group, window and part."""
        inbox = Inbox(self.authority.paths.inbox)
        inbox.store([(open_total(each, len(each)).header, each) for each in payloads], "now")
        inbox.close()
        with ReleaseService(self.authority, self.settings, emit=lambda outcome: None) as service:
            outcomes = service.offline()
        return {(each.stored.group, each.stored.window, each.stored.part): each.rule for each in outcomes}

    def records(self, kind: str) -> list[LedgerRecord]:
        records: list[LedgerRecord] = []
        verify_ledger(self.authority.paths.ledger, on_record=records.append)
        return [record for record in records if record["kind"] == kind]

    def roster(self) -> set[str]:
        decoded = Roster.decode(self.authority.roster(), self.authority.verify_key)
        return {entry.meter for entry in decoded.entries}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, GROUPS, aggregators=("agg1", "agg2"))
    yield made
    made.authority.close()


def test_an_honest_total_is_released_and_nothing_is_counted(world: World) -> None:
    assert world.run(world.total("north/f1", 100)) == {("north/f1", 100, 0): ""}
    assert world.records("unsound") == []
    assert read_stops(world.authority.paths).counts() == (0, 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_total_is_an_alarm_with_its_suspect(
    world: World, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert world.run(world.total("north/f2", 100, fault=fault, at=2)) == {("north/f2", 100, 0): "unsound"}
    [record] = world.records("unsound")
    suspects = [] if fault == "rogue" else [["north-f2-002", "north/f2", fault]]
    assert (record["check"], record["suspects"], record["aggregator"]) == ("guards", suspects, "agg1")
    assert record["members"] == ([] if suspects else world.meters("north/f2"))
    [alarm] = [each for each in caplog.records if "failed" in each.getMessage()]
    assert alarm.levelno == logging.ERROR
    # Nothing of the total but these words: no slots, no guards.
    assert record.keys() == {
        *("at", "kind", "n", "prev", "plan", "group", "window", "part", "of", "key", "aggregator"),
        *("check", "suspects", "excluded", "excused", "members"),
    }


def test_a_batch_that_no_list_names_is_recognised_if_another_total_has_brought_its_proof(
    world: World,
) -> None:
    for window, known in ((100, True), (101, False)):
        if known:
            assert world.run(world.total("north/f2", window))["north/f2", window, 0] == ""
        outcomes = world.run(world.total("north/f1", window, unnamed=["north-f2-001"]))
        assert outcomes["north/f1", window, 0] == "unsound"
    suspects = [record["suspects"] for record in world.records("unsound")]
    assert suspects == [[["north-f2-001", "north/f2", "not_claimed"]], []]


def test_a_failed_total_that_is_asked_for_again_is_counted_once(world: World) -> None:
    payload = world.total("north/f2", 100, fault="rogue")
    for _ in range(4):
        assert world.run(payload) == {("north/f2", 100, 0): "unsound"}
    assert len(world.records("unsound")) == 1
    assert len(world.records("decided")) == 1


def test_repro_three_spoilt_totals_suspend_the_aggregator_and_resume_goes_on(world: World) -> None:
    for window, group in enumerate(("north/f1", "north/f2", "south/f1")):
        assert set(world.run(world.total(group, 100 + window, fault="left_out")).values()) <= {"unsound"}
    good = world.total("south/f2", 100), world.total("south/f2", 101, aggregator="agg2")
    outcomes = world.run(*good)
    assert outcomes["south/f2", 100, 0] == "suspended"
    assert outcomes["south/f2", 101, 0] == ""
    decided = [(each["group"], each["window"]) for each in world.records("decided")]
    assert ("south/f2", 100) not in decided  # asked before the ledger's decision
    ask_resume(world.authority.paths, ["agg1"])
    assert world.run()["south/f2", 100, 0] == ""
    assert read_stops(world.authority.paths).aggregators == set()
    assert len(world.records("unsound")) == 3


def test_repro_three_windows_in_a_row_suspend_the_group(world: World) -> None:
    names = ("agg1", "agg2", "agg1")
    for window, name in enumerate(names):
        world.run(world.total("north/f2", 100 + window, fault="rogue", aggregator=name))
    outcomes = world.run(
        world.total("north/f2", 103, aggregator="agg2"), world.total("north/f1", 103, aggregator="agg2")
    )
    assert outcomes["north/f2", 103, 0] == "suspended"
    assert outcomes["north/f1", 103, 0] == ""
    ask_resume(world.authority.paths, ["north/f2"])
    assert world.run()["north/f2", 103, 0] == ""


def test_repro_64_spoilt_totals_stop_the_key(world: World) -> None:
    groups, failed = sorted(GROUPS), 0
    while failed < 64:
        batch = [world.total(groups[(failed + i) % 4], 100 + failed + i, fault="left_out") for i in range(4)]
        world.run(*batch)
        for _ in range(2):  # each resumes what the totals before have suspended
            stops = read_stops(world.authority.paths)
            if stops.aggregators | stops.groups:
                ask_resume(world.authority.paths, stops.aggregators | stops.groups)
                world.run()
        failed = len(world.records("unsound"))
    assert failed == 64
    assert world.run(world.total("south/f2", 900))["south/f2", 900, 0] == "suspended"
    assert world.run(world.total("south/f2", 901, aggregator="agg2"))["south/f2", 901, 0] == "suspended"
    assert read_stops(world.authority.paths).stopped_keys() == [world.plan.key_id]


@pytest.mark.parametrize("fault", ["without_guards", "other_window"])
def test_an_honest_faulty_meter_is_excluded_and_the_next_window_opens(world: World, fault: str) -> None:
    before = world.roster()
    assert world.run(world.total("north/f1", 100, fault=fault, at=3))["north/f1", 100, 0] == "unsound"
    assert world.roster() == before - {FAULTY}
    [record] = world.records("unsound")
    assert (record["excluded"], record["excused"]) == ([[FAULTY, "north/f1"]], True)
    others = [name for name in world.meters("north/f1") if name != FAULTY]
    assert world.run(world.total("north/f1", 101, members=others))["north/f1", 101, 0] == ""
    # A part that was folded before with the meter in it still has its place in the bitmap.
    assert world.run(world.total("north/f1", 102))["north/f1", 102, 0] == ""
    ask_resume(world.authority.paths, [FAULTY])
    world.run()
    assert world.roster() == before


def test_repro_the_victim_of_an_attack_stays_on_the_roster(world: World) -> None:
    before = world.roster()
    for window, fault in enumerate(("repeated", "left_out", "rogue")):
        world.run(world.total("north/f1", 100 + window, fault=fault, at=3))
    assert world.roster() == before
    assert [each["excused"] for each in world.records("unsound")] == [False, False, False]


@pytest.mark.parametrize("point", ["release.3.judged", "release.3.unsound"])
def test_repro_a_crash_around_the_failures_line_neither_loses_nor_doubles_it(
    world: World, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    payload = world.total("north/f1", 100, fault="without_guards", at=3)
    crash_at(monkeypatch, point)
    with pytest.raises(KeyboardInterrupt):
        world.run(payload)
    monkeypatch.undo()
    assert FAULTY in world.roster()
    assert len(world.records("unsound")) == (point == "release.3.unsound")
    assert world.run() == {("north/f1", 100, 0): "unsound"}
    assert len(world.records("unsound")) == 1
    assert FAULTY not in world.roster()


def test_strands_count_with_their_failed_part_and_the_good_ones_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rogue meter costs its group a strand; coverage was asked of the failed part."""
    monkeypatch.setattr("gridhe.keyring.release.register.STRANDED_METERS", 30)
    meters, rogue = world.meters("north/f1"), "north-f1-004"
    part = world.total("north/f1", 100, fault="rogue", at=4)
    assert world.run(part)["north/f1", 100, 0] == "unsound"
    key = strand_key(world.authority.vault.secrets.ingest_secret)
    by_strand = [[name for name in meters if strand_of(key, name, 100) == each] for each in range(STRANDS)]
    sets = [
        sorted(name for each in strands for name in by_strand[each])
        for strands in merged([len(each) for each in by_strand], world.plan.minimum_meters)
    ]
    assert len(sets) > 1
    payloads = [
        world.total(
            "north/f1",
            100,
            members=members,
            part=1 + i,
            fault="rogue" if rogue in members else "",
            at=members.index(rogue) if rogue in members else 0,
        )
        for i, members in enumerate(sets)
    ]
    outcomes = world.run(*payloads)
    [bad] = [members for members in sets if rogue in members]
    for i, members in enumerate(sets):
        assert outcomes["north/f1", 100, 1 + i] == ("unsound" if members is bad else "")
    assert [record["of"] for record in world.records("unsound")] == [0, 0]
    stops = read_stops(world.authority.paths)
    assert stops.failures == {world.plan.key_id: 2}
    assert stops.common == {"north/f1": (2, frozenset(bad))}
    # One incident for the aggregator: two more suspend it.
    world.run(world.total("north/f2", 101, fault="left_out"))
    assert not read_stops(world.authority.paths).aggregators
    world.run(world.total("south/f1", 101, fault="left_out"))
    assert read_stops(world.authority.paths).aggregators == {"agg1"}


def test_repro_a_spoilt_part_is_no_way_around_coverage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An aggregator lets a part fail, to send five members of its choice as a strand of it."""
    monkeypatch.setattr("gridhe.keyring.release.register.STRANDED_METERS", 30)
    meters = world.meters("north/f1")
    assert world.run(world.total("north/f1", 100, fault="rogue", at=4))["north/f1", 100, 0] == "unsound"
    picked = world.total("north/f1", 100, members=meters[10:16], part=1)
    assert world.run(picked)["north/f1", 100, 1] == "members_twice"


def test_repro_picked_company_is_not_opened_by_itself(world: World) -> None:
    """A household among 4 of 30 meters that the aggregator knows to be empty; and as a later part."""
    meters = world.meters("north/f1")
    assert world.run(world.total("north/f1", 100, members=meters[:14]))["north/f1", 100, 0] == "coverage"
    assert world.run(world.total("north/f1", 101, members=meters[:15]))["north/f1", 101, 0] == ""
    late = world.run(world.total("north/f1", 101, members=meters[15:], part=1))
    assert late["north/f1", 101, 1] == "coverage"
    assert len(world.records("decided")) == 1
    # Inside a wider group both parts are released; the refused ones bring their lists.
    outcomes = world.run(
        world.rollup("north", 101, opened=[("north/f1", 0)], listed=[("north/f1", 1, meters[15:])]),
        world.rollup(
            "north",
            100,
            listed=[("north/f1", 0, meters[:14]), ("north/f2", 0, world.meters("north/f2"))],
        ),
    )
    assert (outcomes["north", 101, 0], outcomes["north", 100, 0]) == ("", "")


def test_without_a_share_of_coverage_any_part_of_the_minimum_is_opened(tmp_path: Path) -> None:
    world = World(tmp_path, GROUPS, settings=small_plan(coverage=0.0))
    meters = world.meters("north/f1")
    outcomes = world.run(
        world.total("north/f1", 100, members=meters[:5]),
        world.total("north/f1", 100, members=meters[5:10], part=1),
    )
    assert set(outcomes.values()) == {""}
    world.authority.close()


def crash_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from gridhe.keyring.release import releaser

    def failpoint(point: str) -> None:
        if point == name:
            raise KeyboardInterrupt

    monkeypatch.setattr(releaser, "failpoint", failpoint)
