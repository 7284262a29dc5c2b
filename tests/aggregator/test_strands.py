"""Strands: what becomes of a part that the authority refuses as unsound."""

import logging
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.aggregator.fold import verdicts
from gridhe.aggregator.fold.strands import merged
from gridhe.config.settings import AggregatorSettings
from gridhe.errors import StateError
from gridhe.wire.strands import STRANDED_METERS, STRANDS, strand_of
from gridhe_testing.closing_world import WINDOW, Place, World, plan_of

ROGUE = "m7"


@pytest.fixture
def make_world(tmp_path: Path) -> Iterable[Callable[..., World]]:
    worlds: list[World] = []

    def made(meters: int = 48, settings: AggregatorSettings | None = None, **changes: Any) -> World:
        groups = {"a": [f"m{i}" for i in range(meters)], "b": [f"b{i}" for i in range(3)]}
        plan = plan_of(**{"largest_group": 60, "largest_rollup": 100, **changes})
        given = {} if settings is None else {"settings": settings}
        worlds.append(World(tmp_path / f"state{len(worlds)}", groups, plan, **given))
        return worlds[-1]

    yield made
    for world in worlds:
        world.stop()


def send_all(world: World) -> dict[Place, Any]:
    for meter in world.number:
        world.send(meter)
    return world.commit()


def members(world: World, place: Place) -> set[str]:
    """The meters that a leaf total lists, which must be those that it holds."""
    [piece] = world.totals[place].header.pieces
    listed = world.listed(piece, place[1])
    assert world.members(world.totals[place]) == dict.fromkeys(listed, 1)
    return listed


def test_one_rogue_costs_its_group_one_strand(
    make_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world()
    assert set(send_all(world)) == {("a", WINDOW, 0), ("b", WINDOW, 0)}
    whole = members(world, ("a", WINDOW, 0))
    assert len(whole) == 48
    world.judge([(("a", WINDOW, 0), "unsound"), (("b", WINDOW, 0), "")])
    strands = world.commit()
    listed = {place: members(world, place) for place in strands}
    # Exactly a partition of the refused list (with the same proofs: `listed` checks them), each large enough.
    assert [place[2] for place in sorted(listed)] == list(range(1, len(listed) + 1))
    assert sum(map(len, listed.values())) == 48
    assert set().union(*listed.values()) == whole
    assert min(map(len, listed.values())) >= world.plan.minimum_meters
    bad = next(place for place, each in listed.items() if ROGUE in each)
    with caplog.at_level(logging.ERROR):
        world.judge((place, "unsound" if place == bad else "") for place in listed)
        totals = world.commit()
    lost = len(listed[bad])
    assert world.given_up == lost
    [record] = [each for each in caplog.records if each.getMessage().startswith("given up")]
    assert (record.group, record.window, record.meters) == ("a", WINDOW, lost)  # type: ignore[attr-defined]
    # The others are in the widest total, by reference; the lost ones in none, and stay counted.
    assert set(totals) == {("grid", WINDOW, 0)}
    grid = totals["grid", WINDOW, 0]
    assert set(world.members(grid)) == set(world.number) - listed[bad]
    assert {piece.members for piece in grid.header.pieces} == {None}
    world.send(ROGUE)
    world.commit()
    assert world.engine.counters.duplicates == 1
    assert world.database is not None
    assert world.database.query("SELECT COUNT(*) FROM strands") == [(0,)]


def test_a_strand_is_sent_once_and_never_split_again(make_world: Callable[..., World]) -> None:
    world = make_world()
    send_all(world)
    world.answer(refused=[("a", WINDOW, 0)], reason="unsound")
    strands = world.commit()
    world.answer(refused=[("a", WINDOW, 0)], reason="unsound")  # the receipt comes again
    assert world.commit() == {}
    world.answer(refused=strands, reason="unsound")
    assert world.commit() == {}
    assert world.given_up == 48
    assert world.engine.counters.strands == len(strands)
    world.answer(stored=strands)
    assert world.commit() == {}


def test_a_part_of_few_meters_is_given_up(make_world: Callable[..., World]) -> None:
    world = make_world(meters=STRANDED_METERS - 1)
    send_all(world)
    world.answer(refused=[("a", WINDOW, 0)], reason="unsound")
    assert world.commit() == {}
    assert world.given_up == STRANDED_METERS - 1


def test_a_part_that_stays_small_though_many_are_enrolled_has_no_strands(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    few = world.groups["a"][: STRANDED_METERS - 1]
    for meter in few:
        world.send(meter)
    assert world.commit() == {}
    [total] = world.commit(world.now + 61).values()
    assert set(world.members(total)) == set(few)
    assert world.database is not None
    assert world.database.query("SELECT COUNT(*) FROM strands") == [(0,)]
    world.answer(refused=[("a", WINDOW, 0)], reason="unsound")
    assert world.commit() == {}
    assert world.given_up == len(few)


def test_strands_of_few_meters_are_merged_to_the_minimum(make_world: Callable[..., World]) -> None:
    world = make_world(minimum_meters=11)
    send_all(world)
    world.answer(refused=[("a", WINDOW, 0)], reason="unsound")
    listed = [members(world, place) for place in world.commit()]
    assert 2 <= len(listed) <= 4
    assert min(map(len, listed)) >= 11
    assert sum(map(len, listed)) == len(set().union(*listed)) == 48


def test_repro_members_that_are_not_those_of_the_strands_are_damage(make_world: Callable[..., World]) -> None:
    world = make_world()
    for meter in world.number:
        world.send(meter)
        if meter == "m20":
            world.engine.commit(world.now)
    world.commit()
    assert world.database is not None
    with world.database.transaction():
        assert world.database.write("DELETE FROM members WHERE id = 1") == 1
    world.answer(refused=[("a", WINDOW, 0)], reason="unsound")
    with pytest.raises(StateError, match="are not those of its strands"):
        world.commit()


class Killed(Exception):
    """Stands for SIGKILL inside a transaction: nothing after it runs, and the database rolls back."""


@pytest.mark.parametrize("passage", range(1, 6))
def test_a_crash_between_any_two_strands_leaves_the_whole_part(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, passage: int
) -> None:
    world = make_world()
    send_all(world)
    whole = members(world, ("a", WINDOW, 0))
    left = passage

    def point(name: str) -> None:
        nonlocal left
        left -= name == "commit.1.strand"
        if left == 0:
            raise Killed

    monkeypatch.setattr(verdicts, "failpoint", point)
    world.answer(refused=[("a", WINDOW, 0)], reason="unsound")
    with pytest.raises(Killed):
        world.commit()
    monkeypatch.undo()
    world.start()
    again = world.take(world.engine.send_again())
    assert set(again) == {("a", WINDOW, 0), ("b", WINDOW, 0)}
    world.answer(refused=[("a", WINDOW, 0)], reason="unsound")
    strands = world.commit()
    listed = [members(world, place) for place in strands]
    assert set().union(*listed) == whole
    assert sum(map(len, listed)) == len(whole)
    world.start()  # and after the transaction
    assert world.take(world.engine.send_again()).keys() == strands.keys() | {("b", WINDOW, 0)}
    assert [members(world, place) for place in strands] == listed


def test_an_open_part_in_strands_survives_restarts_and_memory_limits(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    for at, meter in enumerate(world.number):
        world.send(meter)
        if at % 5 == 4:
            world.commit()
        if at % 20 == 19:
            world.start()
    world.commit()
    assert members(world, ("a", WINDOW, 0)) == set(world.groups["a"])
    world.answer(refused=[("a", WINDOW, 0)], reason="unsound")
    listed = [members(world, place) for place in world.commit()]
    assert set().union(*listed) == set(world.groups["a"])


@pytest.mark.parametrize("column", ["meters", "ciphertext"])
def test_a_damaged_strand_is_an_error_and_never_a_wrong_total(
    make_world: Callable[..., World], column: str
) -> None:
    world = make_world()
    for meter in world.groups["a"][:30]:
        world.send(meter)
    world.commit()
    world.stop()
    with closing(sqlite3.connect(world.directory / "aggregator.db", isolation_level=None)) as db:
        (value,) = db.execute(f"SELECT {column} FROM strands LIMIT 1").fetchone()  # noqa: S608
        value = value[:-1] + bytes([value[-1] ^ 1]) if isinstance(value, bytes) else value ^ 1
        db.execute(f"UPDATE strands SET {column} = ?", (value,))  # noqa: S608

    def go_on() -> None:
        world.start()
        send_all(world)

    with pytest.raises(StateError, match="is damaged"):
        go_on()


def test_strands_take_no_memory_that_the_sums_of_other_groups_need(make_world: Callable[..., World]) -> None:
    # A sum of this ring takes 48 KB in memory, 8 strands 384 KB. Two groups need 96 KB of the megabyte.
    world = make_world(settings=AggregatorSettings(open_totals_mb=1))
    late = world.plan.window_start_s(WINDOW + 4) + 1.0
    for window in range(WINDOW, WINDOW + 3):
        for meter in world.groups["a"][:20]:
            world.send(meter, window, late)
    assert [part.stranded for part in world.engine._parts] == [True, True, False]
    assert world.engine.snapshot(late).stranded_parts == 2
    for window, strands in ((WINDOW, True), (WINDOW + 1, True), (WINDOW + 2, False)):
        for meter in world.number:
            world.send(meter, window, late)
        world.commit(late)
        world.answer(refused=[("a", window, 0)], reason="unsound")
        assert bool(world.commit(late)) is strands
    # The first parts have closed, so the next one has room.
    world.send("m0", WINDOW + 3, late)
    assert [part.stranded for part in world.engine._parts if part.key.window == WINDOW + 3] == [True]


def test_strands_are_other_ones_in_each_window_and_under_each_key() -> None:
    meters = [f"m{i}" for i in range(800)]

    def strands(key: bytes, window: int) -> list[int]:
        return [strand_of(key, meter, window) for meter in meters]

    first = strands(bytes(32), WINDOW)
    assert set(first) == set(range(STRANDS))
    assert min(first.count(strand) for strand in range(STRANDS)) > 60  # of 100 each
    for other in (strands(bytes(32), WINDOW + 1), strands(bytes(31) + b"\1", WINDOW)):
        same = sum(one == two for one, two in zip(first, other, strict=True))
        assert 60 < same < 150  # an eighth by chance


@given(st.lists(st.integers(0, 30), min_size=STRANDS, max_size=STRANDS), st.integers(2, 60))
def test_merged_strands_are_a_partition_and_large_enough(sizes: list[int], minimum: int) -> None:
    sets = merged(sizes, minimum)
    assert [strand for each in sets for strand in each] == [i for i, size in enumerate(sizes) if size]
    if len(sets) > 1:
        assert min(sum(sizes[strand] for strand in each) for each in sets) >= minimum
    elif sum(sizes) >= 2 * minimum + 60:  # the last set can be as large as the largest strand and a minimum
        raise AssertionError(sets)
