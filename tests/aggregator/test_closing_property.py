"""Closing over any tree, limit and order of arrival: exactly once, disjoint, and never too few."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe_testing.closing_world import LATER, WINDOW, Place, World, plan_of

LEAVES = ("a/x", "a/y", "b/x/p", "b/x/q", "b/y", "c")


@dataclass(frozen=True)
class Scenario:
    sizes: dict[str, int]
    minimum: int
    largest_group: int
    largest_rollup: int
    steps: list[tuple[str, int]]


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    sizes = draw(st.dictionaries(st.sampled_from(LEAVES), st.integers(1, 7), min_size=1))
    minimum = draw(st.integers(2, 5))
    largest_rollup = draw(st.integers(minimum, 16))
    meters = sum(sizes.values())
    order = draw(st.permutations(range(meters)))
    steps: list[tuple[str, int]] = []
    for meter in order:
        steps.append(("send", meter))
        kind = draw(st.sampled_from(["", "", "commit", "commit", "wait", "restart", "leave"]))
        if kind == "wait":
            steps.append(("wait", draw(st.sampled_from([30, 61, 601, 5_000]))))
        elif kind:
            steps.append((kind, meter))
    return Scenario(
        sizes=sizes,
        minimum=minimum,
        largest_group=draw(st.integers(1, largest_rollup)),
        largest_rollup=largest_rollup,
        steps=steps,
    )


@settings(max_examples=40, deadline=None)
@given(scenarios())
def test_closing_ends_counts_each_batch_once_a_level_and_isolates_nobody(scenario: Scenario) -> None:
    with tempfile.TemporaryDirectory() as directory:
        numbers = iter(range(100))
        groups = {leaf: [f"m{next(numbers)}" for _ in range(n)] for leaf, n in scenario.sizes.items()}
        plan = plan_of(
            minimum_meters=scenario.minimum,
            largest_group=scenario.largest_group,
            largest_rollup=scenario.largest_rollup,
        )
        world = World(Path(directory) / "state", groups, plan)
        try:
            play(world, scenario)
        finally:
            world.stop()


def play(world: World, scenario: Scenario) -> None:
    names, now = list(world.number), world.now
    waiting: list[str] = []
    gone: list[str] = []

    def commit() -> None:
        """Commit; what was refused for want of room comes again."""
        world.receipts.clear()
        world.commit(now)
        done = {receipt.meter for receipt in world.receipts if receipt.committed}
        refused = {reason for receipt in world.receipts for _, reason in receipt.refused}
        assert refused <= {"capacity"}
        again = [meter for meter in waiting if meter not in done]
        waiting.clear()
        for meter in again:
            send(meter)

    def send(meter: str) -> None:
        waiting.append(meter)
        world.send(meter, now=now)

    for kind, number in scenario.steps:
        if kind == "send":
            send(names[number])
        elif kind == "wait":
            now += number
        else:
            commit()
        if kind == "restart":
            world.start()
            again, waiting[:] = list(waiting), []
            for meter in again:
                send(meter)
        elif kind == "leave" and names[number] not in waiting:  # it has reported, and leaves
            gone.append(names[number])
            world.enrol(without=gone)
    rounds = 0
    while waiting:  # as many as the fullest leaf has parts
        rounds += 1
        assert rounds <= len(names) + 1
        commit()
    for step in (61, 601, 601):  # the grace, twice the time for late batches
        now += step
        commit()
    # Meters go on, so that the first window is outdated some day.
    now = world.plan.window_start_s(LATER + 1) + 1.0
    for _ in range(max(map(len, world.groups.values()))):  # as often as the fullest leaf has parts
        for meter in names:
            if meter not in gone:
                world.send(meter, LATER, now)
        world.commit(now)
    for step in (61, 3_601):
        world.commit(now + step)
    check(world, scenario)


def check(world: World, scenario: Scenario) -> None:
    totals = {place: total for place, total in world.totals.items() if place[1] == WINDOW}
    open_meters = sum(part.meters for part in world.engine._parts if part.key.window == WINDOW)
    if len(totals) < len(world.totals):  # a later window is published
        assert open_meters == 0, "nothing is open for ever"
    # Each total holds exactly the batches that its pieces name, each once.
    pieces_of: dict[Place, frozenset[tuple[str, int]]] = {}
    meters_of: dict[tuple[str, int], int] = {}
    for place, total in totals.items():
        held = world.members(total)
        assert set(held.values()) == {1}
        assert held.total() == total.header.meters
        limit = scenario.largest_group if place[0] in LEAVES else scenario.largest_rollup
        assert scenario.minimum <= total.header.meters <= limit
        pieces_of[place] = frozenset((piece.group, piece.part) for piece in total.header.pieces)
        meters_of |= {(piece.group, piece.part): piece.meters for piece in total.header.pieces}
    # Parts of one group are disjoint, and what is in a group is in the groups around it.
    for group in {place[0] for place in pieces_of}:
        parts = [pieces for place, pieces in pieces_of.items() if place[0] == group]
        assert len(frozenset().union(*parts)) == sum(map(len, parts)), group
    for level in {group for leaf in world.groups for group in prefixes(leaf)}:
        inside: Counter[str] = Counter()
        for place, total in totals.items():
            if place[0] == level:
                inside += world.members(total)
        assert not inside or max(inside.values()) == 1
        if level == "grid":
            # Nothing is lost: a batch is in a total of the widest group, or has expired, and is counted so.
            left = world.expired + open_meters
            assert inside.total() + left == len(world.number)
            # (Two small rests may stay apart only where they are too many for one part.)
            assert left < scenario.minimum or scenario.largest_rollup < 2 * scenario.minimum - 2
    # Whatever is added and subtracted: pieces that lie in the same totals can only be told apart from others
    # together, and are enough.
    alike: Counter[frozenset[Place]] = Counter()
    for piece, meters in meters_of.items():
        alike[frozenset(place for place, pieces in pieces_of.items() if piece in pieces)] += meters
    assert all(meters >= scenario.minimum for meters in alike.values()), alike
    assert world.engine.counters.rejected.keys() <= {"capacity"}


def prefixes(leaf: str) -> list[str]:
    levels = leaf.split("/")
    return ["grid", *("/".join(levels[:i]) for i in range(1, len(levels) + 1))]
