"""A rogue meter, and others, against a real Mosquitto: a thousand attempts each, none accepted.

Every attack runs twice: against the broker's access rules, with payloads that would pass every later check
(so the rules alone stop them), and with a broker that lets anybody do anything, where tags and signatures
alone have to.
"""

import random
import socket
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gridhe.base import clock
from gridhe.broker.client.session import Message
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.broker.server.mosquitto_config import acl
from gridhe.wire import topics
from gridhe.wire.bundle import Bundle
from gridhe.wire.envelope import Header, envelope_key, seal_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.receipt import Receipt, TotalReceipt
from gridhe.wire.roster import Roster, RosterEntry
from gridhe.wire.signing import SigningKey, sign_record
from gridhe.wire.status import Status
from gridhe.wire.total import Piece
from gridhe_testing.attacked_broker import ATTEMPTS, ROGUE, USERS, VICTIM, WINDOW, World, password
from gridhe_testing.totals import folded, member_list, signed_total

pytestmark = pytest.mark.system

ROGUES_KEY = SigningKey.generate()
SHARE = 16  # batches of a meter between two commits
OPEN, GUARDED = "anybody may do anything", "with access rules"


@pytest.fixture(params=[GUARDED, OPEN])
def guarded(request: pytest.FixtureRequest) -> bool:
    return request.param == GUARDED


only_guarded = pytest.mark.parametrize("guarded", [GUARDED], indirect=True)


@pytest.fixture
def world(
    make_grid: Any, guarded: bool, tmp_path: Path, mosquitto: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.setattr(
        clock, "BUILT", datetime(2001, 1, 1, tzinfo=UTC)
    )  # the grid's time is earlier than ours
    groups = {"north/f1": ["a0", "a1"], "north/f2": ["b0"], "south/f1": ["c0"]}
    grid = make_grid(
        groups=groups,
        ring=(2048, (40, 14)),
        largest=20,
        largest_group=10,
        largest_rollup=10,
        minimum_meters=2,
    )
    entries = [RosterEntry(meter, grid.group_of(meter)) for meter in grid.meters]
    users = {user: password(user) for user in USERS} | {"aggregator-main": grid.credential.password}
    rules = {"users": users, "acl": acl(entries, ["main"])}
    with EmbeddedBroker(tmp_path / "broker", prefer="mosquitto", **(rules if guarded else {})) as broker:
        made = World(grid, broker, tmp_path)
        yield made
        made.close()


def own_key_for(world: World, meter: str, **changes: Any) -> Iterator[bytes]:
    """Envelopes in another meter's name, sealed with the rogue's key."""
    grid, window = world.grid, WINDOW
    ciphertext, key = grid.ciphertext(ROGUE), envelope_key(derive_key(grid.secret, ROGUE))
    while True:
        header = {
            "plan": grid.plan.plan_id,
            "key": grid.plan.key_id,
            "meter": meter,
            "group": grid.group_of(meter),
            "window": window,
            "proof": bytes(grid.plan.proof_bytes),
            **changes,
        }
        yield seal_envelope(Header(**header), ciphertext, key)
        window -= 1


def again(payload: bytes) -> Iterator[bytes]:
    while True:
        yield payload


def check_batches(world: World, guarded: bool, topic: str, payloads: Iterator[bytes], reason: str) -> None:
    world.attempt(topic, payloads)
    world.settle(passed=0 if guarded else ATTEMPTS)
    rejected = world.engine.counters.rejected
    if guarded:
        assert world.rogue.refused == ATTEMPTS
        assert not rejected
    elif reason == "tag" or reason == "topic":  # from anybody
        assert rejected == {reason: ATTEMPTS}
    else:  # authentic: a meter has a share of batches between two commits
        assert rejected == {reason: SHARE, "rate": ATTEMPTS - SHARE}


def test_another_meters_topic(world: World, guarded: bool) -> None:
    # Its own sound envelope, only elsewhere.
    payloads = again(world.grid.envelope(ROGUE))
    check_batches(world, guarded, topics.batch("north/f1", VICTIM), payloads, "topic")


def test_another_meters_name_with_ones_own_key(world: World, guarded: bool) -> None:
    check_batches(world, guarded, topics.batch("north/f1", VICTIM), own_key_for(world, VICTIM), "tag")


def test_another_groups_topic(world: World, guarded: bool) -> None:
    payloads = again(
        world.grid.forged(ROGUE, group="south/f1", ciphertext=world.grid.ciphertext(ROGUE))
    )  # its own, and authentic
    check_batches(world, guarded, topics.batch("south/f1", ROGUE), payloads, "group")


def test_an_old_envelope_of_another_meter_sent_again(world: World, guarded: bool) -> None:
    payload = world.grid.envelope(VICTIM)
    world.engine.receive(topics.batch("north/f1", VICTIM), payload, world.grid.now)
    world.attempt(topics.batch("north/f1", VICTIM), again(payload))
    world.settle(passed=0 if guarded else ATTEMPTS + 1)
    counters = world.engine.counters
    assert counters.rejected == ({} if guarded else {"rate": ATTEMPTS + 1 - SHARE})
    assert counters.duplicates == (1 if guarded else SHARE)  # one is the honest meter's own repeat
    assert counters.folded == len(world.grid.meters)


def test_ones_own_envelope_under_another_plan(world: World, guarded: bool) -> None:
    # On its own topic with its own key: no rule of the broker's can see it.
    payloads = again(world.grid.forged(ROGUE, plan="p" + "0" * 16, ciphertext=world.grid.ciphertext(ROGUE)))
    world.attempt(topics.batch("north/f1", ROGUE), payloads)
    world.settle(passed=ATTEMPTS)
    assert world.engine.counters.rejected == {"plan": SHARE, "rate": ATTEMPTS - SHARE}


def forged_bundles(world: World) -> Iterator[bytes]:
    """The genuine bundle with a bit changed, and records that the rogue signed, in turn."""
    grid = world.grid
    genuine, rng = grid.bundle.encode(grid.authority), random.Random(5)
    while True:
        at = rng.randrange(len(genuine))
        yield genuine[:at] + bytes([genuine[at] ^ 1]) + genuine[at + 1 :]
        yield sign_record(ROGUES_KEY, "bundle", b"\x92" + rng.randbytes(20))


def test_a_forged_plan_that_is_retained(world: World, guarded: bool) -> None:
    before = world.book.latest
    world.attempt(topics.PLAN_CURRENT, forged_bundles(world), retain=True)
    world.settle(passed=0)
    if guarded:
        assert world.rogue.refused == ATTEMPTS
    else:
        world.until(lambda: world.engine.counters.rejected["bundle"] == ATTEMPTS)
        assert world.engine.counters.rejected == {"bundle": ATTEMPTS}
        world.until(lambda: world.book.junk > 0)
    assert world.book.latest == before
    assert len(world.book) == 1
    if guarded:  # and a meter that comes now is given the genuine one
        found: list[bytes] = []
        world.session("c0", lambda topic, payload: found.append(payload), topics.PLAN_CURRENT)
        world.until(lambda: bool(found))
        assert Bundle.decode(found[0], world.grid.authority.verify_key).plan == world.grid.plan


def test_a_forged_roster_that_is_retained(world: World, guarded: bool) -> None:
    payload = Roster.of(99, [RosterEntry(ROGUE, "south/f1")]).encode(ROGUES_KEY)
    world.attempt(topics.ROSTER_CURRENT, again(payload), retain=True)
    world.settle(passed=0)
    if guarded:
        assert world.rogue.refused == ATTEMPTS
    else:
        assert world.engine.counters.rejected == {"roster": ATTEMPTS}
    assert world.engine.snapshot(world.grid.now).meters == len(world.grid.meters)


def test_a_forged_receipt_makes_no_meter_delete_a_batch(world: World, guarded: bool) -> None:
    plan = world.grid.plan.plan_id
    key = derive_key(world.grid.secret, ROGUE)
    payload = Receipt(plan=plan, meter=VICTIM, committed=(WINDOW,)).encode(key)
    world.attempt(topics.receipt(VICTIM), again(payload))
    if guarded:
        assert world.rogue.refused == ATTEMPTS
    else:
        world.until(lambda: world.agent.counts.junk_receipts == ATTEMPTS)
    assert world.agent.outstanding == 1
    assert world.agent.counts.receipted == 0


def test_a_forged_receipt_makes_no_aggregator_delete_a_total(world: World, guarded: bool) -> None:
    plan = world.grid.plan.plan_id
    stored = ((plan, "grid", WINDOW, 0),)
    key = derive_key(world.grid.secret, ROGUE)
    world.attempt(topics.receipt("main"), again(TotalReceipt(aggregator="main", stored=stored).encode(key)))
    if guarded:
        assert world.rogue.refused == ATTEMPTS
    else:
        world.until(lambda: world.engine.counters.rejected["receipt"] == ATTEMPTS)
    assert world.engine.counters.delivered == 0


def test_a_forged_total(world: World, guarded: bool) -> None:
    grid = world.grid
    members = [grid.batch(meter) for meter in (ROGUE, VICTIM)]
    listed = member_list(grid.groups["north/f1"], {batch.meter: batch.proof for batch in members})
    forged = signed_total(
        grid.plan,
        ROGUES_KEY,
        [Piece("north/f1", 0, 2, listed)],
        folded(grid.plan, [batch.ciphertext for batch in members]),
        group="north/f1",
        window=WINDOW,
        roster=1,
    )
    world.attempt(topics.total("north/f1"), again(forged))
    if guarded:
        assert world.rogue.refused == ATTEMPTS
    else:
        world.until(lambda: world.authority.counts["signature"] == ATTEMPTS)
    world.authority.commit()
    assert world.inbox.totals() == []


def test_a_false_word_of_being_the_aggregator(world: World, guarded: bool) -> None:
    statuses = (Status(online=True, version="1", incarnation=f"i{i}").encode() for i in range(ATTEMPTS + 1))
    world.attempt(topics.status_aggregator("main"), statuses, retain=True)
    # Without the broker's rules this costs repeats, and nothing else: it is a hint, and not signed.
    assert world.rogue.refused == (ATTEMPTS if guarded else 0)
    world.settle(passed=0)


def random_filters(rng: random.Random) -> Iterator[str]:
    """Filters over real topics, some levels of them turned into wildcards."""
    real = [
        topics.batch("north/f1", VICTIM),
        topics.batch("north/f2", "b0"),
        topics.receipt(VICTIM),
        topics.total("north/f1"),
        topics.total("grid"),
        topics.ROSTER_CURRENT,
        topics.status_meter(VICTIM),
        topics.release("grid"),
    ]
    yield from ("#", "+/#", "gridhe/#", "gridhe/v1/#", "gridhe/v1/batch/#", "gridhe/v1/+/+/+/+")
    while True:
        levels = rng.choice(real).split("/")
        levels = [level if rng.random() < 0.6 else "+" for level in levels]
        if rng.random() < 0.4:
            levels = [*levels[: rng.randrange(len(levels))], "#"]
        shared = rng.random() < 0.1
        yield ("$share/mine/" if shared else "") + "/".join(levels)


@pytest.mark.parametrize(
    ("user", "may_hear"),
    [
        (ROGUE, ("gridhe/v1/plan/", f"gridhe/v1/receipt/{ROGUE}", "gridhe/v1/status/aggregator/")),
        ("authority", ("gridhe/v1/total/", "gridhe/v1/status/")),
    ],
)
@only_guarded
def test_a_thousand_wildcard_subscriptions_hear_nothing_of_others(
    world: World, user: str, may_hear: tuple[str, ...]
) -> None:
    heard: list[str] = []
    rng = random.Random(7)
    filters = random_filters(rng)
    if user == "authority":
        world.loop.remove(world.authority.session)
    reader = world.session(
        user, lambda topic, _: heard.append(topic), *(next(filters) for _ in range(ATTEMPTS))
    )
    # What there is to overhear: batches, receipts, totals, the roster.
    probes: dict[str, list[str]] = {
        VICTIM: [topics.batch("north/f1", VICTIM), topics.status_meter(VICTIM)],
        "aggregator-main": [topics.receipt(VICTIM), topics.total("north/f1"), topics.total("grid")],
    }
    senders = {VICTIM: world.victim, "aggregator-main": world.service._session}
    for _ in range(100):
        for sender, sent in probes.items():
            for topic in sent:
                assert senders[sender].publish(Message(topic=topic, payload=b"overheard"))
    world.until(lambda: all(session.in_flight == 0 for session in senders.values()))
    allowed = topics.receipt(ROGUE) if user == ROGUE else topics.total("grid")
    world.service._session.publish(Message(topic=allowed, payload=b"fence"))
    world.until(lambda: allowed in heard)
    assert [topic for topic in heard if not topic.startswith(may_hear)] == []
    assert reader.connected


@only_guarded
def test_the_aggregator_cannot_read_what_is_the_authoritys(world: World) -> None:
    heard: list[str] = []
    session = world.service._session
    session._on_message = lambda topic, _: heard.append(topic)
    session.subscribe("gridhe/v1/total/#", "gridhe/v1/release/#", "gridhe/v1/receipt/+", "#")
    for _ in range(ATTEMPTS):
        world.authority.session.publish(Message(topic=topics.release("grid"), payload=b"numbers"))
        world.authority.session.publish(Message(topic=topics.receipt(VICTIM), payload=b"not main's"))
    world.authority.session.publish(Message(topic=topics.receipt("main"), payload=b"fence"))
    world.until(lambda: topics.receipt("main") in heard)
    assert not [topic for topic in heard if topic.startswith(("gridhe/v1/total", "gridhe/v1/release"))]
    assert topics.receipt(VICTIM) not in heard


def connack(port: int, user: str, secret: str) -> int | None:
    """The code of the answer to an MQTT 3.1.1 CONNECT; None: it hung up."""

    def text(value: str) -> bytes:
        return struct.pack(">H", len(value)) + value.encode()

    body = text("MQTT") + bytes([4, 0xC2]) + struct.pack(">H", 60) + text(user) + text(user) + text(secret)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(bytes([0x10, len(body)]) + body)
        answer = sock.recv(4)
    return answer[3] if len(answer) == 4 else None


@only_guarded
def test_a_stolen_name_with_a_wrong_password(world: World) -> None:
    rng = random.Random(3)
    port = world.rogue.url.port
    for i in range(ATTEMPTS):
        user = rng.choice([VICTIM, "aggregator-main", "authority", "nobody"])
        wrong = ["", password(user)[:-1], password(user) + "x", password(ROGUE), rng.randbytes(9).hex()][
            i % 5
        ]
        assert connack(port, user, wrong) in (4, 5, None)
    assert world.victim.connected  # a refused connection throws nobody off
    assert connack(port, "c0", password("c0")) == 0
