"""The authority online, against a real broker: storing, receipting, publishing, releasing."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import BrokerSettings
from gridhe.keyring.home.inspection import inspect_home, lines_of
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.ledger import START
from gridhe.keyring.release.queue import ReleaseOutcome
from gridhe.keyring.release.receiver import Receiver
from gridhe.keyring.release.service import ReleaseService, publish_bundles, utc_now
from gridhe.wire import topics
from gridhe.wire.bundle import Bundle
from gridhe.wire.ingest import derive_key
from gridhe.wire.receipt import TotalReceipt
from gridhe.wire.roster import Roster
from gridhe.wire.signing import SigningKey
from gridhe.wire.status import Status
from gridhe.wire.total import TotalKey
from gridhe_testing.authority_peer import Peer, with_broker

WAIT_S = 20.0
VECTORS = Path(__file__).parents[1] / "wire" / "vectors"


@pytest.fixture
def receiver_of(small_authority: Any, broker: EmbeddedBroker) -> Callable[[EventLoop, Inbox], Receiver]:
    authority = small_authority.authority

    def made(loop: EventLoop, inbox: Inbox) -> Receiver:
        return Receiver(
            loop,
            settings=BrokerSettings(url=broker.url),
            password=authority.broker_password,
            inbox=inbox,
            bundles=list(authority.paths.read_bundles().values()),
            roster=authority.roster(),
            aggregators={each.name: each.verify_key for each in authority.enrolment.aggregators()},
            ingest_key=lambda name: derive_key(authority.vault.secrets.ingest_secret, name),
            now=utc_now,
        )

    return made


def test_an_authority_online_publishes_and_receipts_a_total_after_its_verdict(
    small_authority: Any,
    peer_of: Callable[[EventLoop], Peer],
    receiver_of: Callable[[EventLoop, Inbox], Receiver],
    tmp_path: Path,
) -> None:
    authority = small_authority.authority
    payload, other = small_authority.total("north/f1"), small_authority.total("north/f2")
    inbox = Inbox(tmp_path / "inbox.db")
    with EventLoop() as loop:
        peer = peer_of(loop)
        receiver = receiver_of(loop, inbox)
        receiver.connect(WAIT_S)
        assert loop.run_until(lambda: topics.STATUS_AUTHORITY in peer.heard, WAIT_S)
        assert Status.decode(peer.heard[topics.STATUS_AUTHORITY]).online
        bundle = Bundle.decode(peer.heard[topics.PLAN_CURRENT], authority.verify_key)
        assert peer.heard[topics.plan(bundle.plan.plan_id)] == peer.heard[topics.PLAN_CURRENT]
        assert Roster.decode(peer.heard[topics.ROSTER_CURRENT], authority.verify_key).version >= 1

        key = derive_key(authority.vault.secrets.ingest_secret, "aggregator/agg1")
        total = TotalKey(bundle.plan.plan_id, "north/f1", 100, 0)

        def receipt_after(act: Callable[[], None]) -> TotalReceipt:
            peer.heard.pop(topics.receipt("agg1"), None)
            act()
            assert loop.run_until(lambda: topics.receipt("agg1") in peer.heard, WAIT_S)
            return TotalReceipt.decode(peer.heard[topics.receipt("agg1")], key)

        for _ in range(2):  # also if it arrives again
            peer.send("north/f1", payload)
        peer.send("north/f2", other)
        assert loop.run_until(lambda: len(inbox.totals()) == 2, WAIT_S)
        [stored, _] = inbox.totals()
        assert receiver.receipts == 0  # it waits
        receipt = receipt_after(lambda: receiver.verdict("agg1", total, ""))
        assert receipt == TotalReceipt(aggregator="agg1", stored=(total,))
        receipt = receipt_after(lambda: receiver.verdict("agg1", total, "unsound"))
        assert receipt == TotalReceipt(aggregator="agg1", refused=((*total, "unsound"),))
        receiver.verdict("agg9", total, "")  # a revoked one

        inbox.mark(stored.digest, "refused", START, rule="minimum")  # the receipt was lost
        receipt = receipt_after(lambda: peer.send("north/f1", payload))
        assert receipt.refused == ((*total, "minimum"),)
        inbox.mark(stored.digest, "released", START)
        assert receipt_after(lambda: peer.send("north/f1", payload)).stored == (total,)
        assert (receiver.stored, receiver.receipts) == (2, 4)
        receiver.close()
        assert loop.run_until(lambda: not Status.decode(peer.heard[topics.STATUS_AUTHORITY]).online, WAIT_S)
    inbox.close()


def test_junk_is_counted_by_reason_and_never_stored(
    small_authority: Any,
    peer_of: Callable[[EventLoop], Peer],
    receiver_of: Callable[[EventLoop, Inbox], Receiver],
    tmp_path: Path,
) -> None:
    good = small_authority.total("north/f1")
    inbox = Inbox(tmp_path / "inbox.db")
    with EventLoop() as loop:
        peer = peer_of(loop)
        receiver = receiver_of(loop, inbox)
        receiver.connect(WAIT_S)
        assert loop.run_until(lambda: peer.session.connected, WAIT_S)
        peer.send("north/f1", b"junk")
        peer.send("north/f1", (VECTORS / "version1" / "total.bin").read_bytes())
        peer.send("north/f2", good)
        peer.send("north/f1", small_authority.total("north/f1", key=SigningKey.generate()))
        peer.send("north/f1", small_authority.total("north/f1", aggregator="agg9"))
        peer.send("north/f1", small_authority.total("north/f1", ciphertext=b"short"))
        peer.send("north/f1", good)
        assert loop.run_until(lambda: receiver.stored == 1, WAIT_S)
        once = ("malformed", "version", "topic", "signature", "not_enrolled", "size")
        assert receiver.counts == dict.fromkeys(once, 1)
        receiver.close()
    assert len(inbox.totals()) == 1
    inbox.close()


def test_repro_an_aggregator_gets_a_receipt_for_refused_totals(
    small_authority: Any,
    peer_of: Callable[[EventLoop], Peer],
    receiver_of: Callable[[EventLoop, Inbox], Receiver],
    tmp_path: Path,
) -> None:
    plan = small_authority.plan.plan_id
    told: set[tuple[str, str, int, int, str]] = set()
    inbox = Inbox(tmp_path / "inbox.db")
    key = derive_key(small_authority.authority.vault.secrets.ingest_secret, "aggregator/agg1")
    with EventLoop() as loop:
        peer = peer_of(loop)
        receiver = receiver_of(loop, inbox)
        receiver.connect(WAIT_S)
        assert loop.run_until(lambda: peer.session.connected, WAIT_S)

        def hear() -> bool:
            payload = peer.heard.pop(topics.receipt("agg1"), None)
            if payload is not None:
                told.update(TotalReceipt.decode(payload, key).refused)
            return len(told) == 2

        peer.send("north/f1", small_authority.total("north/f1", key=SigningKey.generate()))
        assert loop.run_until(lambda: hear() or bool(told), WAIT_S)
        peer.send("north/f2", small_authority.total("north/f2", ciphertext=b"short"))
        assert loop.run_until(hear, WAIT_S)
        receiver.close()
    assert told == {(plan, "north/f1", 100, 0, "signature"), (plan, "north/f2", 100, 0, "size")}
    assert inbox.totals() == []
    inbox.close()


def test_a_single_run_releases_narrow_groups_first_and_waits_for_the_wider_totals_that_follow(
    small_authority: Any, broker: EmbeddedBroker, peer_of: Callable[[EventLoop], Peer]
) -> None:
    """As an aggregator, the peer sends totals until their receipt, and wider ones when it has these."""
    leaves = {
        "north/f1": small_authority.total("north/f1", {"north/f1": 10}),
        "north/f2": small_authority.total("north/f2", {"north/f2": 6}),
        "north/f9": small_authority.total("north/f9", {"north/f9": 4}),
        "south/f3": small_authority.total("south/f3", key=SigningKey.generate()),
    }
    wider = {
        "north": small_authority.total("north", {"north/f1": 10, "north/f2": 6, "north/f3": 5}),
        "grid": small_authority.total("grid", {"north/f1": 10, "north/f2": 6, "north/f3": 5, "south/f1": 6}),
    }
    key = derive_key(small_authority.authority.vault.secrets.ingest_secret, "aggregator/agg1")
    receipts: dict[str, str] = {}  # group: the rule, or stored
    with EventLoop() as loop:
        peer = peer_of(loop)
        assert loop.run_until(lambda: peer.session.connected, WAIT_S)
        publish_bundles(small_authority.authority, with_broker(small_authority.settings, broker))
        assert loop.run_until(lambda: topics.ROSTER_CURRENT in peer.heard, WAIT_S)
        seen: list[ReleaseOutcome] = []
        settings = with_broker(small_authority.settings, broker)

        def act() -> None:
            if (payload := peer.heard.pop(topics.receipt("agg1"), None)) is not None:
                receipt = TotalReceipt.decode(payload, key)
                receipts.update({total.group: "stored" for total in receipt.stored})
                receipts.update({refused[1]: refused[4] for refused in receipt.refused})
            for group, payload in leaves.items():
                if group not in receipts:
                    peer.send(group, payload)
            if {"north/f1", "north/f2"} <= receipts.keys() and "north" not in receipts:
                peer.send("north", wider["north"])
            if "north" in receipts and "grid" not in receipts:
                peer.send("grid", wider["grid"])

        thread = threading.Thread(target=loop.run)
        loop.every(0.2, act)
        thread.start()
        try:
            with ReleaseService(small_authority.authority, settings, emit=seen.append) as service:
                outcomes = service.online(idle_s=1.0, follow=False)
        finally:
            loop.stop()
            thread.join()
    assert [(o.stored.group, o.rule) for o in outcomes] == [
        ("north/f1", ""),
        ("north/f2", ""),
        ("north/f9", "minimum"),
        ("north", ""),
        ("grid", ""),
    ]
    assert receipts == {
        "north/f1": "stored",
        "north/f2": "stored",
        "north/f9": "minimum",
        "north": "stored",
        "grid": "stored",
        "south/f3": "signature",
    }
    assert outcomes == seen
    found = inspect_home(small_authority.authority.paths)
    assert found["ledger"]["kinds"]["dropped"] == 1
    assert set(found["ledger"]["dropped"]) == {"signature"}
    assert any("not stored" in line for line in lines_of(found))
