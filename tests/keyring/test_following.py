"""`release --follow` against a real broker."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.keyring.release.queue import ReleaseOutcome
from gridhe.keyring.release.service import ReleaseService
from gridhe.wire import topics
from gridhe.wire.credential import load_aggregator
from gridhe.wire.roster import Roster
from gridhe.wire.status import Status
from gridhe_testing.authority_peer import Peer, with_broker

WAIT_S = 20.0


def test_following_releases_as_totals_come_publishes_them_and_takes_up_enrolments_until_sigterm(
    small_authority: Any, broker: EmbeddedBroker, peer_of: Callable[[EventLoop], Peer]
) -> None:
    import json

    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    authority = small_authority.authority
    first, second = (small_authority.total("north/f1", window=window) for window in (100, 101))
    released: dict[str, Any] = {}
    versions: list[int] = []
    steps: list[str] = []
    listener = paho.Client(CallbackAPIVersion.VERSION2, client_id="aggregator-agg1")
    password = load_aggregator(small_authority.home / "credentials" / "aggregator-agg1.json").password
    listener.username_pw_set("aggregator-agg1", password)
    online, roster_changed = threading.Event(), threading.Event()

    def on_message(_client: Any, _userdata: Any, message: Any) -> None:
        if message.topic == topics.STATUS_AUTHORITY and Status.decode(message.payload).online:
            online.set()
        if message.topic == topics.ROSTER_CURRENT:
            versions.append(Roster.decode(message.payload, authority.verify_key).version)
            if len(set(versions)) > 1:
                roster_changed.set()

    listener.on_message = on_message
    listener.connect("127.0.0.1", broker.port)
    listener.subscribe([(f"{topics.PREFIX}/status/#", 1), (f"{topics.PREFIX}/roster/#", 1)])
    listener.loop_start()
    enrolled = threading.Event()

    def script() -> None:
        if not online.wait(WAIT_S):
            steps.append("never online")
        listener.publish(topics.total("north/f1"), first, qos=1)

    def emit(outcome: ReleaseOutcome) -> None:
        released[f"{outcome.stored.group}/{outcome.stored.window}"] = outcome.record
        if outcome.stored.window == 100:
            authority.enrolment.enrol_meters([("anna", "north/f1")])
            enrolled.set()
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    def second_part() -> None:
        enrolled.wait(WAIT_S)
        if not roster_changed.wait(WAIT_S):
            steps.append("roster never changed")
        listener.publish(topics.total("north/f1"), second, qos=1)

    threads = [threading.Thread(target=each) for each in (script, second_part)]
    watchdog = threading.Timer(4 * WAIT_S, lambda: os.kill(os.getpid(), signal.SIGTERM))
    watchdog.start()
    try:
        for thread in threads:
            thread.start()
        settings = with_broker(small_authority.settings, broker, publish=True)
        with ReleaseService(authority, settings, emit=emit) as service:
            assert service.online(idle_s=0.3, follow=True) == []
    finally:
        watchdog.cancel()
        for thread in threads:
            thread.join()
        listener.loop_stop()
        listener.disconnect()
    assert steps == []
    assert sorted(released) == ["north/f1/100", "north/f1/101"]
    assert json.dumps(released["north/f1/101"])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_repro_a_follower_drops_a_retired_key_and_tells_the_aggregators(
    small_authority: Any, broker: EmbeddedBroker, peer_of: Callable[[EventLoop], Peer]
) -> None:
    """The key is retired beside it, as another gridhe-keyring does, once it has released a total."""
    from gridhe.keyring.home.authority import AuthorityHome

    authority, old = small_authority.authority, small_authority.plan
    first, second = (small_authority.total("north/f1", window=window) for window in (100, 101))
    authority.rotate(small_authority.settings, 1_000, now_s=0.0)
    settings = with_broker(small_authority.settings, broker)
    outcomes: list[ReleaseOutcome] = []

    def retire() -> None:
        beside = AuthorityHome.open(small_authority.home, small_authority.passphrase.encode())
        beside.retire(old.key_id, now_s=1e9)
        beside.close()

    def emit(outcome: ReleaseOutcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 1:
            retire()
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    with EventLoop() as loop:
        peer = peer_of(loop)
        assert loop.run_until(lambda: peer.session.connected, WAIT_S)

        def send() -> None:
            roster = peer.heard.get(topics.ROSTER_CURRENT)
            retired = roster is not None and any(
                plan.plan_id == old.plan_id and plan.retired
                for plan in Roster.decode(roster, authority.verify_key).plans
            )
            peer.send("north/f1", second if retired else first)

        loop.every(0.2, send)
        thread = threading.Thread(target=loop.run)
        watchdog = threading.Timer(2 * WAIT_S, lambda: os.kill(os.getpid(), signal.SIGTERM))
        thread.start()
        watchdog.start()
        try:
            with ReleaseService(authority, settings, emit=emit) as service:
                service.online(idle_s=0.3, follow=True)
                assert service._releaser._opener._decryptors == {}
        finally:
            watchdog.cancel()
            loop.stop()
            thread.join()
    assert [(outcome.stored.window, outcome.rule) for outcome in outcomes] == [(100, ""), (101, "key")]
    assert old.key_id not in authority.vault.secrets.contexts


def test_a_follower_releases_although_totals_never_pause(
    small_authority: Any, broker: EmbeddedBroker, peer_of: Callable[[EventLoop], Peer]
) -> None:
    payload = small_authority.total("north/f1")
    settings = with_broker(small_authority.settings, broker)
    released: list[str] = []

    def emit(outcome: ReleaseOutcome) -> None:
        released.append(outcome.stored.group)
        os.kill(os.getpid(), signal.SIGTERM)

    with EventLoop() as loop:
        peer = peer_of(loop)
        assert loop.run_until(lambda: peer.session.connected, WAIT_S)
        loop.every(0.05, lambda: peer.send("north/f1", payload))  # the quiet time below never comes
        thread = threading.Thread(target=loop.run)
        watchdog = threading.Timer(2 * WAIT_S, lambda: os.kill(os.getpid(), signal.SIGTERM))
        thread.start()
        watchdog.start()
        try:
            with ReleaseService(small_authority.authority, settings, emit=emit) as service:
                service.online(idle_s=0.3, follow=True)
        finally:
            watchdog.cancel()
            loop.stop()
            thread.join()
    assert released == ["north/f1"]
