"""When parts close, and what becomes of small ones."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from gridhe.aggregator.fold.closing import due_at
from gridhe.aggregator.fold.parts import Part
from gridhe.wire.total import Piece, TotalKey
from gridhe_testing.closing_world import WINDOW, World, plan_of


@pytest.fixture
def make_world(tmp_path: Path) -> Iterable[Callable[..., World]]:
    worlds: list[World] = []

    def made(groups: dict[str, int], **changes: Any) -> World:
        numbers = iter(range(10_000))
        names = {group: [f"m{next(numbers)}" for _ in range(count)] for group, count in groups.items()}
        worlds.append(World(tmp_path / f"state{len(worlds)}", names, plan_of(**changes)))
        return worlds[-1]

    yield made
    for world in worlds:
        world.stop()


# -- when ----------------------------------------------------------------------------------------

END_S = 3_600.0 * (WINDOW + 1)


def part(meters: int, first_at: float = END_S + 5, *, leaf: bool = False) -> Part:
    """An open part."""
    pieces = [] if leaf else [Piece("a/x", 0, meters)]
    return Part(key=TotalKey("p", "a", WINDOW, 0), first_at=first_at, meters=meters, pieces=pieces)


@pytest.mark.parametrize(
    ("parts", "situation", "due"),
    [
        ([part(7), part(3)], {}, float("-inf")),  # all are in
        ([part(7)], {"closed_meters": 3}, float("-inf")),
        ([part(6), part(3)], {}, END_S + 5 + 60),  # one is missing: the grace, from the first batch
        ([part(6)], {"graces": 3}, END_S + 5 + 180),  # a roll-up, while narrower groups are under way
        ([part(6, END_S - 9)], {}, END_S + 60),  # or from the window's end
        ([part(6, END_S + 900)], {"closed_meters": 3}, END_S + 900 + 600),  # later ones
        ([part(6)], {"graces": 0}, float("-inf")),
        ([part(1)], {"closed_meters": 3, "graces": 0}, END_S + 5 + 600),
        ([part(8, leaf=True)], {}, float("-inf")),  # full
        ([part(8)], {}, END_S + 5 + 60),  # a roll-up has more room
        ([part(2), part(2)], {"widest": True, "expected": 4}, float("inf")),  # too few, and nothing to join
        ([part(2), part(3)], {"widest": True, "expected": 4}, float("-inf")),
    ],
)
def test_when_a_groups_open_parts_are_due(parts: list[Part], situation: dict[str, Any], due: float) -> None:
    known = {"expected": 10, "closed_meters": None, "graces": 1, "widest": False}
    assert due_at(plan_of(largest_group=8), WINDOW, parts, **{**known, **situation}) == due


# -- found faults ---------------------------------------------------------------------------------


def test_repro_a_rest_that_does_not_fit_its_group_closes_without_recursion(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"n/a": 6, "n/b": 2, "n/c": 2, "s/a": 3}, largest_rollup=8, largest_group=8)
    for meter in world.groups["n/a"] + world.groups["n/b"] + world.groups["n/c"]:
        world.send(meter)
    totals = world.settle()
    # n holds 6 meters, and its rest 4: 10 are too many for one part, so n has two.
    assert {place: total.header.meters for place, total in totals.items()} == {
        ("n/a", WINDOW, 0): 6,
        ("n", WINDOW, 0): 6,
        ("n", WINDOW, 1): 4,
        **{place: total.header.meters for place, total in totals.items() if place[0] == "grid"},
    }
    assert world.receipts


def test_a_rest_without_room_has_a_second_one_beside_it(make_world: Callable[..., World]) -> None:
    world = make_world({"a": 2, "b": 2, "c": 1, "d": 4}, minimum_meters=3, largest_rollup=3, largest_group=3)
    for meter in world.groups["a"] + world.groups["b"]:
        world.send(meter)
    world.commit()
    assert sorted((part.key.group, part.meters) for part in world.engine._parts) == [
        ("grid~", 2),
        ("grid~~", 2),
    ]
    world.send(world.groups["c"][0])
    world.commit()
    totals = world.commit(world.now + 61)
    assert {place: total.header.pieces for place, total in totals.items()} == {
        ("grid", WINDOW, 0): (world.piece("a", 0, ["m0", "m1"]), world.piece("c", 0, ["m4"]))
    }
    assert [(part.key.group, part.meters) for part in world.engine._parts] == [("grid~~", 2)]


def test_repro_a_full_part_refuses_for_now_and_the_batch_has_a_place_in_the_next(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a": 7, "b": 3}, largest_group=4, largest_rollup=50)
    for meter in world.number:
        world.send(meter)
    assert world.engine.counters.rejected == {"capacity": 3}
    world.commit()
    refused = {receipt.meter: receipt.refused for receipt in world.receipts if receipt.refused}
    assert refused == dict.fromkeys(("m4", "m5", "m6"), ((WINDOW, "capacity"),))
    for meter in refused:
        world.send(meter)
    world.commit()
    assert {place: total.header.meters for place, total in world.totals.items() if place[0] == "a"} == {
        ("a", WINDOW, 0): 4,
        ("a", WINDOW, 1): 3,
    }


def test_repro_a_meter_that_left_within_a_window_takes_no_place_from_another(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a": 5}, largest_group=4, largest_rollup=50, minimum_meters=2)
    world.enrol(without=["m4"])
    for meter in ("m0", "m1", "m2", "m3"):
        world.send(meter)
    world.enrol(without=["m0"])  # it has reported; m4 is enrolled in its place
    world.send("m4")
    world.commit()
    world.send("m4")
    world.commit(world.now + 10)
    assert world.engine.counters.rejected == {"capacity": 1}
    assert world.engine.counters.folded == 5


def test_repro_the_total_of_a_group_that_all_meters_have_left_is_rolled_up(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a/x": 3, "b": 3})
    for meter in world.groups["a/x"]:
        world.send(meter)
    totals = world.commit()
    world.enrol(without=world.groups["a/x"])  # between the total and the authority's verdict
    world.answer(stored=totals)
    assert set(world.settle(world.now + 61)) == {("a", WINDOW, 0), ("grid", WINDOW, 0)}


def test_repro_a_roll_up_waits_for_the_verdicts_on_leaves_that_closed_at_the_end_of_their_grace(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"r/a": 5, "r/b": 3, "s/c": 4})
    for meter in ("m0", "m1", "m2", "m5", "m6", "m7", "m8", "m9", "m10"):  # all of r/b only
        world.send(meter)
    assert set(world.settle()) == {("r/b", WINDOW, 0)}
    late = world.commit(world.now + 61)
    assert set(late) == {("r/a", WINDOW, 0), ("s/c", WINDOW, 0)}
    assert world.commit(world.now + 65) == {}
    world.answer(stored=late)
    totals = world.settle(world.now + 66)
    assert {place: total.header.meters for place, total in totals.items()} == {
        ("r", WINDOW, 0): 6,
        ("s", WINDOW, 0): 3,
        ("grid", WINDOW, 0): 9,
    }


def test_a_roll_up_waits_for_a_silent_group_and_for_a_silent_authority_a_limited_time(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a": 3, "b": 3, "c": 3})
    for meter in (*world.groups["a"], *world.groups["b"]):
        world.send(meter)
    totals = world.commit()
    world.answer(stored=[("a", WINDOW, 0)])
    assert world.commit() == {}
    assert world.commit(world.now + 119) == {}  # the verdict on b has not come, and c is silent
    [total] = world.commit(world.now + 121).values()
    assert total.header.meters == 3
    world.answer(stored=totals)
    assert world.commit(world.now + 130) == {}
    [later] = world.commit(world.now + 130 + 601).values()  # late_s after it came
    assert (later.header.part, set(world.members(later))) == (1, set(world.groups["b"]))


def test_repro_parts_of_stragglers_end_when_their_window_is_outdated_and_are_counted(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a/x": 4, "b/x": 4})
    windows = range(WINDOW, WINDOW + 10)
    for window in windows:
        late = world.plan.window_start_s(window + 1) + 4_000.0
        for meter in world.number:
            if meter != "m0":
                world.send(meter, window, late)
        world.commit(late)
        world.commit(late + 61)
        world.send("m0", window, late + 62)
        world.commit(late + 62)
        world.commit(late + 800)
    now = world.plan.window_start_s(windows[-1] + 1) + 4_800.0
    assert world.engine.snapshot(now).open_parts == 10
    # A later window of which enough meters have sent, and a clock far ahead: the horizon is a day, or 24
    # windows, and one window more is remembered.
    for later, left in ((WINDOW + 29, 5), (WINDOW + 40, 0)):
        now = world.plan.window_start_s(later + 1) + 1.0
        for meter in world.number:
            world.send(meter, later, now)
        world.commit(now)
        world.commit(now + 40 * 86_400)
        assert world.engine.snapshot(now).open_parts == left
        assert world.engine.counters.expired_batches == world.engine.counters.expired_parts == 5
        world.start()
    assert not [place for place, total in world.totals.items() if total.header.meters < 3]


def test_what_a_commit_without_a_clock_has_touched_closes_once_the_clock_is_believed(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a": 3})
    for meter in world.number:
        world.send(meter)
    assert world.take(world.engine.commit(None)) == {}
    assert world.commit(world.now).keys() == {("a", WINDOW, 0)}


def lines_run(function: Callable[[], object]) -> int:
    """Lines of Python that a call runs: a cost that no other process changes."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def commit_costs(world: World, stragglers: int) -> tuple[int, int]:
    """What a commit costs with nothing to do, and with one batch, while so many parts are open."""
    now = world.plan.window_start_s(WINDOW + 60) + 1.0
    for window in range(WINDOW, WINDOW + stragglers):
        world.send("m0", window, now)
        world.commit(now)
    for moment in (61, 700, 800):
        world.commit(now + moment)
    assert world.engine.snapshot(now).open_parts == stragglers
    idle = lines_run(lambda: world.commit(now + 801))
    world.send("m1", WINDOW + 59, now + 802)
    return idle, lines_run(lambda: world.commit(now + 802))


def test_repro_what_is_open_costs_a_commit_nothing(make_world: Callable[..., World]) -> None:
    few, many = (
        commit_costs(make_world({"a/x": 4, "b/x": 4}, horizon_s=400 * 86_400.0), stragglers)
        for stragglers in (4, 40)
    )
    assert few == pytest.approx(many, rel=0.02)
