"""Closing over any tree, limit and order of arrival: exactly once, disjoint, and never too few.

Here every meter's ciphertext is a vector with one 1 at the meter's own place, in a real plan's planes. So a
total shows which meters it holds without a key.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe.aggregator.engine import Engine, Outgoing
from gridhe.aggregator.fold.closing import due_at
from gridhe.aggregator.fold.parts import Part
from gridhe.aggregator.state.database import Database
from gridhe.config.settings import AggregatorSettings
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity
from gridhe.wire import topics
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.credential import AggregatorCredential
from gridhe.wire.envelope import Header, seal_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.planes import Planes
from gridhe.wire.receipt import Receipt, TotalReceipt
from gridhe.wire.roster import Roster, RosterEntry
from gridhe.wire.signing import SigningKey, authority_id
from gridhe.wire.total import Piece, Total, TotalKey, open_total

WINDOW, LATER = 480_000, 480_100
PUBLIC_KEY = b"what the aggregator never looks into"
RING = CkksParameters(2048, (40, 14))
PLANES = Planes(RING)
AUTHORITY = SigningKey.from_private_bytes(bytes([1]) * 32)
SECRET = bytes([3]) * 32
Place = tuple[str, int, int]  # group, window, part


def plan_of(**changes: Any) -> Plan:
    """A plan of windows of an hour, with a horizon of a day."""
    fields: dict[str, Any] = {
        "authority": authority_id(AUTHORITY.verify_key),
        "key_id": key_id_of(PUBLIC_KEY),
        "first_window": WINDOW,
        "window_s": 3_600,
        "interval_s": 3_600,
        "quantities": (Quantity(name="import_wh", unit="Wh", largest=1_000, statistics=("sum",)),),
        "largest_group": 40,
        "largest_rollup": 50,
        "minimum_meters": 3,
        "grace_s": 60.0,
        "late_s": 600.0,
        "early_s": 0.0,
        "horizon_s": 86_400.0,
        "parameters": RING,
        "scale_bits": 20,
        "flooding_bits": 0,
        "decryptions": 1_000,
    }
    return Plan(**{**fields, **changes})


@dataclass
class World:
    """An engine on a real database, and meters `m0`, `m1`, ... by group."""

    directory: Path
    groups: dict[str, list[str]]
    plan: Plan = field(default_factory=plan_of)
    aggregator_key: SigningKey = field(default_factory=SigningKey.generate)
    database: Database | None = None
    version: int = 0
    expired_before: int = 0
    totals: dict[Place, Total] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.number = {meter: i for i, meter in enumerate(m for each in self.groups.values() for m in each)}
        self.engine = self.start()
        self.engine.take_bundle(Bundle(plan=self.plan, public_key=PUBLIC_KEY).encode(AUTHORITY))
        self.enrol()

    def start(self) -> Engine:
        """A new engine on the state directory, with the credential of now."""
        self.stop()
        credential = AggregatorCredential(
            aggregator="main",
            password="x" * 16,
            ingest_secret=SECRET,
            signing_key=self.aggregator_key.private_bytes(),
            authority_key=AUTHORITY.verify_key,
        )
        self.database = Database(self.directory, authority=credential.authority, aggregator="main")
        self.engine = Engine(database=self.database, credential=credential, settings=AggregatorSettings())
        return self.engine

    @property
    def expired(self) -> int:
        """Batches in parts that ended unpublished, in this engine and those before it."""
        return self.expired_before + self.engine.counters.expired_batches

    def stop(self) -> None:
        if self.database is not None:
            self.expired_before = self.expired
            self.database.close()
            self.database = None

    def enrol(self, without: Iterable[str] = ()) -> None:
        """Publish the roster, without some meters."""
        self.version += 1
        gone = set(without)
        entries = [
            RosterEntry(m, group) for group, each in self.groups.items() for m in each if m not in gone
        ]
        self.engine.take_roster(Roster.of(self.version, entries).encode(AUTHORITY), self.now)

    @property
    def now(self) -> float:
        """Just after the first window."""
        return float(self.plan.window_start_s(WINDOW + 1) + 1)

    def group_of(self, meter: str) -> str:
        return next(group for group, meters in self.groups.items() if meter in meters)

    def send(self, meter: str, window: int = WINDOW, now: float | None = None) -> None:
        residues = np.zeros(PLANES.shape, np.uint64)
        residues[0, 0, self.number[meter]] = 1
        residues[1] = 1  # else it would be a plaintext
        header = Header(
            plan=self.plan.plan_id,
            key=self.plan.key_id,
            meter=meter,
            group=self.group_of(meter),
            window=window,
        )
        payload = seal_envelope(header, PLANES.pack(residues), derive_key(SECRET, meter))
        moment = self.now if now is None else now
        self.engine.receive(topics.batch(header.group, meter), payload, moment)

    def commit(self, now: float | None = None) -> dict[Place, Total]:
        """Commit, and check and keep what comes out."""
        return self.take(self.engine.commit(self.now if now is None else now))

    def take(self, outgoing: Iterable[Outgoing]) -> dict[Place, Total]:
        """The totals among these messages."""
        found = {}
        for one in outgoing:
            if one.topic.startswith(f"{topics.PREFIX}/total/"):
                total = open_total(one.payload, len(one.payload))
                total.check_signature(self.aggregator_key.verify_key)
                found[total.header.group, total.header.window, total.header.part] = total
            else:
                meter = one.topic.rpartition("/")[2]
                self.receipts.append(Receipt.decode(one.payload, derive_key(SECRET, meter)))
        self.totals |= found
        return found

    def answer(
        self, stored: Iterable[Place] = (), refused: Iterable[Place] = (), reason: str = "size"
    ) -> None:
        """The authority's receipt."""
        plan = self.plan.plan_id
        receipt = TotalReceipt(
            aggregator="main",
            stored=tuple((plan, *place) for place in stored),
            refused=tuple((plan, *place, reason) for place in refused),
        )
        self.engine.take_total_receipt(receipt.encode(derive_key(SECRET, "aggregator/main")))

    def members(self, total: Total) -> Counter[str]:
        """How often each meter is in a total."""
        counts = PLANES.unpack(total.ciphertext)[0, 0]
        return Counter({meter: int(counts[i]) for meter, i in self.number.items() if counts[i]})


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


# -- any tree, limit and order --------------------------------------------------------------------

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
        ([part(6, END_S - 9)], {}, END_S + 60),  # or from the window's end
        ([part(6, END_S + 900)], {"closed_meters": 3}, END_S + 900 + 600),  # later ones
        ([part(6)], {"children_closed": True}, float("-inf")),
        ([part(1)], {"closed_meters": 3, "children_closed": True}, END_S + 5 + 600),
        ([part(8, leaf=True)], {}, float("-inf")),  # full
        ([part(8)], {}, END_S + 5 + 60),  # a roll-up has more room
        ([part(2), part(2)], {"widest": True, "expected": 4}, float("inf")),  # too few, and nothing to join
        ([part(2), part(3)], {"widest": True, "expected": 4}, float("-inf")),
    ],
)
def test_when_a_groups_open_parts_are_due(parts: list[Part], situation: dict[str, Any], due: float) -> None:
    known = {"expected": 10, "closed_meters": None, "children_closed": False, "widest": False}
    assert due_at(plan_of(largest_group=8), WINDOW, parts, **{**known, **situation}) == due


# -- found faults ---------------------------------------------------------------------------------


def test_repro_a_rest_that_does_not_fit_its_group_closes_without_recursion(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"n/a": 6, "n/b": 2, "n/c": 2, "s/a": 3}, largest_rollup=8, largest_group=8)
    for meter in world.groups["n/a"] + world.groups["n/b"] + world.groups["n/c"]:
        world.send(meter)
    totals = world.commit()
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
        ("grid", WINDOW, 0): (Piece("a", 0, 2), Piece("c", 0, 1))
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
    assert world.commit(world.now).keys() == {("a", WINDOW, 0), ("grid", WINDOW, 0)}


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
    for moment in (0, 61, 700, 800):
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


# -- totals on their way --------------------------------------------------------------------------


def many_totals(world: World, windows: int) -> float:
    """So many windows closed, each with a total of the only group `a`, and one of the grid."""
    now = world.plan.window_start_s(WINDOW + windows) + 1.0
    for window in range(WINDOW, WINDOW + windows):
        for meter in world.number:
            world.send(meter, window, now)
    world.commit(now)
    return now


def test_repro_totals_are_signed_with_the_key_of_the_day_they_are_sent(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a": 3})
    many_totals(world, 2)
    before = dict(world.totals)
    world.aggregator_key = SigningKey.generate()  # enrolled again: a new credential
    world.start()
    again = world.take(world.engine.send_again())  # (checks the signatures)
    assert again.keys() == before.keys()
    for place, total in again.items():
        assert total.header_bytes == before[place].header_bytes
        assert total.ciphertext == before[place].ciphertext
        assert total.signature != before[place].signature
    world.start()
    assert world.take(world.engine.send_again()) == again


def test_repro_totals_that_are_never_receipted_do_not_block_later_ones(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a": 3})
    many_totals(world, 20)
    oldest = [("a", window, 0) for window in range(WINDOW, WINDOW + 10)]
    sent: Counter[Place] = Counter()
    for _ in range(10):
        totals = world.take(world.engine.send_again(8))
        assert len(totals) == 8
        sent.update(totals.keys())
    assert set(sent.values()) == {2}
    assert len(sent) == 40
    world.answer(stored=[place for place in sent if place not in oldest])
    assert {(key.group, key.window, key.part) for key in world.engine.undelivered()} == set(oldest)


def test_repro_a_refused_total_is_not_sent_again_until_the_authority_starts_anew(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a": 3})
    now = many_totals(world, 3)
    wrong, for_now = [("a", WINDOW, 0)], [("grid", WINDOW, 0)]
    world.answer(refused=wrong)
    world.answer(refused=for_now, reason="signature")
    assert len(world.take(world.engine.send_again())) == 5
    snapshot = world.engine.snapshot(now)
    assert (snapshot.undelivered, snapshot.refused_totals) == (6, 1)
    assert snapshot.counters.refused == {"size": 1, "signature": 1}
    world.engine.offer_all()
    assert len(world.take(world.engine.send_again())) == 6
    world.answer(refused=[("a", WINDOW + 99, 0)])  # not one of ours
    assert world.engine.snapshot(now).refused_totals == 0


def test_too_many_refused_totals_are_dropped_oldest_first_and_counted(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gridhe.aggregator import delivery

    monkeypatch.setattr(delivery, "_REFUSED_MAX", 4)
    world = make_world({"a": 3})
    now = many_totals(world, 4)
    world.answer(refused=[("a", window, 0) for window in range(WINDOW, WINDOW + 4)])
    world.answer(refused=[("grid", WINDOW, 0)])
    snapshot = world.engine.snapshot(now)
    assert (snapshot.undelivered, snapshot.refused_totals, snapshot.counters.dropped) == (7, 4, 1)
    world.engine.offer_all()
    assert ("a", WINDOW, 0) not in world.take(world.engine.send_again())


def test_repro_a_fresh_total_is_sent_without_being_read_back(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gridhe.aggregator.state.totals import Totals

    world = make_world({"a": 3})
    read: list[object] = []
    before = Totals.total
    monkeypatch.setattr(Totals, "total", lambda self, key: read.append(key) or before(self, key))
    many_totals(world, 2)
    assert len(world.totals) == 4
    assert read == []
