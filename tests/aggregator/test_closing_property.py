"""Closing over any tree, limit, order of arrival and verdicts: exactly once, disjoint, and never too few."""

import random
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe.aggregator.fold import closing, parts
from gridhe_testing.closing_world import LATER, WINDOW, Place, World, plan_of

LEAVES = ("a/x", "a/y", "b/x/p", "b/x/q", "b/y", "c")
# What the authority says about a total; "" for `stored`. The second is what an authority says that asks for
# more meters than the plan.
MOODS = {
    "opens all": [""],
    "refuses some as too small": ["", "", "minimum", "coverage"],
    "refuses some as unsound": ["", "", "", "unsound"],
    "refuses some for any reason": ["", "", "minimum", "unsound", "coverage", "suspended"],
}


@dataclass(frozen=True)
class Scenario:
    sizes: dict[str, int]
    minimum: int
    largest_group: int
    largest_rollup: int
    mood: str
    seed: int
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
        kind = draw(
            st.sampled_from(["", "", "commit", "commit", "judge", "judge", "wait", "restart", "leave"])
        )
        if kind == "wait":
            steps.append(("wait", draw(st.sampled_from([30, 61, 601, 5_000]))))
        elif kind:
            steps.append((kind, meter))
    return Scenario(
        sizes=sizes,
        minimum=minimum,
        largest_group=draw(st.integers(1, largest_rollup)),
        largest_rollup=largest_rollup,
        mood=draw(st.sampled_from(sorted(MOODS))),
        seed=draw(st.integers(0, 2**32)),
        steps=steps,
    )


@dataclass
class Judge:
    """An authority that answers each total with the same word each time, when it likes."""

    world: World
    scenario: Scenario
    verdicts: dict[Place, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.scenario.seed)

    def decide(self) -> None:
        """Decide on the totals that have come."""
        for place, total in self.world.totals.items():
            if place not in self.verdicts:
                words = MOODS[self.scenario.mood] if place[1] == WINDOW else [""]
                word = self.random.choice(words)
                if word == "coverage" and any(piece.part for piece in total.header.pieces):
                    word = ""
                self.verdicts[place] = word

    def answer_some(self) -> None:
        """Send receipts in any order, some twice; some are lost."""
        self.decide()
        answers = [each for each in self.verdicts.items() if self.random.random() < 0.6]
        answers += [each for each in answers if self.random.random() < 0.3]
        self.random.shuffle(answers)
        while answers:
            count = self.random.randint(1, len(answers))
            if self.random.random() < 0.8:
                self.world.judge(answers[:count])
            answers = answers[count:]

    def answer_all(self, now: float) -> None:
        """Answer whatever comes, also what was lost, until nothing comes any more."""
        for _ in range(200):
            self.world.commit(now)
            again = self.world.take(self.world.engine.send_again())
            if not again:
                return
            self.decide()
            self.world.judge((place, self.verdicts[place]) for place in again)
        raise AssertionError("this does not end")

    @property
    def opened(self) -> set[Place]:
        return {place for place, word in self.verdicts.items() if not word}


@settings(max_examples=80, deadline=None)
@given(scenarios())
def test_closing_ends_counts_each_batch_once_a_level_and_isolates_nobody(scenario: Scenario) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        patch.object(parts, "STRANDED_METERS", 4),  # so that parts of few meters have strands
        patch.object(closing, "STRANDED_METERS", 4),
    ):
        numbers = iter(range(100))
        groups = {leaf: [f"m{next(numbers)}" for _ in range(n)] for leaf, n in scenario.sizes.items()}
        plan = plan_of(
            minimum_meters=scenario.minimum,
            largest_group=scenario.largest_group,
            largest_rollup=scenario.largest_rollup,
        )
        world = World(Path(directory) / "state", groups, plan)
        try:
            judge = Judge(world, scenario)
            play(world, scenario, judge)
            check(world, scenario, judge)
        finally:
            world.stop()


def play(world: World, scenario: Scenario, judge: Judge) -> None:
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
        elif kind == "judge":
            judge.answer_some()
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
        judge.answer_some()
    for step in (61, 601, 601):  # the grace, twice the time for late batches
        now += step
        commit()
        judge.answer_all(now)
    # Meters go on, so that the first window is outdated some day.
    now = world.plan.window_start_s(LATER + 1) + 1.0
    for _ in range(max(map(len, world.groups.values()))):  # as often as the fullest leaf has parts
        for meter in names:
            if meter not in gone:
                world.send(meter, LATER, now)
        world.commit(now)
    for step in (61, 3_601):
        world.commit(now + step)
        judge.answer_all(now + step)


def check(world: World, scenario: Scenario, judge: Judge) -> None:
    totals = {place: total for place, total in world.totals.items() if place[1] == WINDOW}
    opened = {place: total for place, total in totals.items() if place in judge.opened}
    open_meters = sum(part.meters for part in world.engine._parts if part.key.window == WINDOW)
    if len(totals) < len(world.totals):  # a later window is published
        assert open_meters == 0, "nothing is open for ever"
    # The authority knows what an opened total has listed. A piece has one list, a meter is in one piece.
    lists: dict[tuple[str, int], set[str]] = {}
    for place, total in totals.items():
        for piece in total.header.pieces:
            if piece.members is not None:
                members = world.listed(piece, WINDOW)
                assert lists.setdefault((piece.group, piece.part), members) == members, place
    # An unsound leaf part is replaced by its strands, once, or given up.
    sent_again: set[Place] = set()
    for place in totals:
        if judge.verdicts[place] == "unsound" and place[0] in LEAVES:
            refused = lists[place[0], place[2]]
            strands = [
                members
                for (group, part), members in lists.items()
                if group == place[0] and part > place[2] and members < refused
            ]
            if strands:
                assert set().union(*strands) == refused
                assert sum(map(len, strands)) == len(refused)
                assert min(map(len, strands)) >= scenario.minimum
                sent_again.add(place)
                del lists[place[0], place[2]]
    given_up = sum(
        totals[place].header.meters
        for place in totals
        if judge.verdicts[place] == "unsound" and place not in sent_again
    )
    assert given_up == world.given_up
    totals = {place: total for place, total in totals.items() if place not in sent_again}
    assert len(set().union(*lists.values())) == sum(map(len, lists.values()))
    shown = {
        (piece.group, piece.part)
        for total in opened.values()
        for piece in total.header.pieces
        if piece.members is not None
    }
    # Each total holds exactly the batches that its pieces name, each once.
    pieces_of: dict[Place, frozenset[tuple[str, int]]] = {}
    meters_of: dict[tuple[str, int], int] = {}
    for place, total in totals.items():
        held = world.members(total)
        named = {(piece.group, piece.part): piece for piece in total.header.pieces}
        assert all(piece.members is not None or key in shown for key, piece in named.items())
        assert held == Counter(meter for key in named for meter in lists[key])
        assert held.total() == total.header.meters
        limit = scenario.largest_group if place[0] in LEAVES else scenario.largest_rollup
        assert scenario.minimum <= total.header.meters <= limit
        if place in opened:
            pieces_of[place] = frozenset(named)
            meters_of |= {key: piece.meters for key, piece in named.items()}
    # Parts of one group are disjoint, and what is in a group is in the groups around it.
    for group in {place[0] for place in pieces_of}:
        parts = [pieces for place, pieces in pieces_of.items() if place[0] == group]
        assert len(frozenset().union(*parts)) == sum(map(len, parts)), group
    for level in {group for leaf in world.groups for group in prefixes(leaf)}:
        inside: Counter[str] = Counter()
        for place, total in totals.items():
            # (What was refused as too small is in a wider total, or in another of the widest group.)
            if place[0] == level:
                inside += world.members(total)
        assert not inside or max(inside.values()) == 1
        if level == "grid":
            # Nothing is lost: a batch is in a total of the widest group, or it is counted why it is not.
            refused = sum(
                total.header.meters
                for place, total in totals.items()
                if judge.verdicts[place] == "suspended" and level != place[0]
            )
            below = world.given_up - sum(
                total.header.meters
                for place, total in totals.items()
                if judge.verdicts[place] == "unsound" and place[0] == level
            )
            left = world.expired + open_meters
            assert inside.total() + left + below + refused == len(world.number)
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
