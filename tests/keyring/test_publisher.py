"""`release/<group>` holds the newest released window, also after refusals, lost connections and restarts."""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Session
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.broker.server.mosquitto_config import acl
from gridhe.config.settings import BrokerSettings, ReleaseSettings, Settings
from gridhe.errors import BrokerError
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.policy import TotalKey
from gridhe.keyring.release.publisher import ReleasePublisher
from gridhe.keyring.release.queue import ReleaseOutcome
from gridhe.keyring.release.service import ReleaseService
from gridhe.wire import topics
from gridhe.wire.total import open_total

WAIT_S = 20.0


def arrive(small: Any, *payloads: bytes) -> None:
    inbox = Inbox(small.home / "inbox.db")
    inbox.store([(open_total(payload, len(payload)).header, payload) for payload in payloads], "now")
    inbox.close()


@pytest.fixture
def broker_of(small_authority: Any, tmp_path: Path, mosquitto: Path) -> Callable[..., EmbeddedBroker]:
    """Makes a Mosquitto with the small authority's users, its rules changed by `change`."""
    users = {
        "authority": small_authority.authority.broker_password,
        "operator": small_authority.authority.paths.operator_password.read_text().strip(),
    }

    def made(change: Callable[[str], str] = lambda rules: rules, **options: Any) -> EmbeddedBroker:
        rules = change(acl(small_authority.authority.enrolment.entries(), ["agg1"]))
        return EmbeddedBroker(tmp_path / "broker", prefer="mosquitto", users=users, acl=rules, **options)

    return made


def without_release(rules: str) -> str:
    """The rules of a broker that takes no releases."""
    assert "topic write gridhe/v1/release/#\n" in rules
    return rules.replace("topic write gridhe/v1/release/#\n", "")


def settings_of(small: Any, broker: EmbeddedBroker) -> Settings:
    url = BrokerSettings(url=broker.url, reconnect_min_s=0.05, reconnect_max_s=0.2)
    changed: Settings = small.settings.model_copy(
        update={"broker": url, "release": ReleaseSettings(publish=True)}
    )
    return changed


def release_once(small: Any, broker: EmbeddedBroker) -> list[ReleaseOutcome]:
    with ReleaseService(small.authority, settings_of(small, broker), emit=lambda outcome: None) as service:
        return service.online(idle_s=0.2, follow=False)


def operator(loop: EventLoop, small: Any, broker: EmbeddedBroker, heard: dict[str, Any]) -> Session:
    session = Session(
        settings=settings_of(small, broker).broker,
        client_id="operator",
        username="operator",
        password=small.authority.paths.operator_password.read_text().strip(),
        on_message=lambda topic, payload: heard.__setitem__(topic, json.loads(payload)),
        subscriptions=(f"{topics.PREFIX}/release/#",),
    )
    loop.add(session)
    return session


def retained(small: Any, broker: EmbeddedBroker, *groups: str) -> dict[str, int]:
    """The window that stands on each release/<group>, as the operator reads it."""
    heard: dict[str, Any] = {}
    with EventLoop() as loop:
        session = operator(loop, small, broker, heard)
        loop.run_until(lambda: len(heard) >= len(groups), WAIT_S)
        session.close()
    return {record["group"]: record["window"] for record in heard.values()}


def test_repro_what_a_broker_refused_is_published_by_the_next_start(
    small_authority: Any, broker_of: Callable[..., EmbeddedBroker]
) -> None:
    arrive(small_authority, small_authority.total("north/f1"), small_authority.total("south/f1"))
    with (
        broker_of(without_release) as broker,
        pytest.raises(BrokerError, match=r"did not accept release/north/f1 \(2 in all\)"),
    ):
        release_once(small_authority, broker)
    with broker_of() as broker:
        assert release_once(small_authority, broker) == []  # nothing new
        assert retained(small_authority, broker, "north/f1", "south/f1") == {"north/f1": 100, "south/f1": 100}


def test_repro_a_release_larger_than_the_broker_takes_ends_nothing_and_is_published_later(
    small_authority: Any, broker_of: Callable[..., EmbeddedBroker]
) -> None:
    arrive(small_authority, *(small_authority.total("north/f1", window=window) for window in (100, 101)))
    seen: list[ReleaseOutcome] = []
    with broker_of() as broker:
        settings = settings_of(small_authority, broker)
        with ReleaseService(small_authority.authority, settings, emit=seen.append) as service:
            real = Session.publish

            def too_large(self: Session, message: Any, on_puback: Any = None) -> bool:
                if message.topic.startswith(f"{topics.PREFIX}/release/"):
                    raise BrokerError(f"{message.topic} needs {message.packet_bytes}")
                return real(self, message, on_puback)

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(Session, "publish", too_large)
                with pytest.raises(BrokerError, match="did not accept release/north/f1"):
                    service.online(idle_s=0.2, follow=False)
        assert [outcome.stored.window for outcome in seen] == [100, 101]
        release_once(small_authority, broker)
        assert retained(small_authority, broker, "north/f1") == {"north/f1": 101}


def test_repro_an_older_window_released_after_a_restart_does_not_replace_a_newer_one(
    small_authority: Any, broker_of: Callable[..., EmbeddedBroker]
) -> None:
    with broker_of() as broker:
        for window in (101, 100):
            arrive(small_authority, small_authority.total("north/f1", window=window))
            [outcome] = release_once(small_authority, broker)
            assert outcome.record is not None
            assert retained(small_authority, broker, "north/f1") == {"north/f1": 101}


def test_a_total_refused_after_decryption_is_not_published(
    small_authority: Any, broker_of: Callable[..., EmbeddedBroker]
) -> None:
    other = small_authority.total("north/f2")
    foreign = open_total(other, len(other)).ciphertext
    garbage = small_authority.total("north/f1", window=101, ciphertext=foreign)
    arrive(small_authority, small_authority.total("north/f1"), garbage)
    with broker_of() as broker:
        for _ in range(2):
            release_once(small_authority, broker)
            assert retained(small_authority, broker, "north/f1") == {"north/f1": 100}


def test_repro_a_broker_that_lost_its_state_gets_the_newest_windows_again(
    small_authority: Any, broker_of: Callable[..., EmbeddedBroker]
) -> None:
    arrive(small_authority, small_authority.total("north/f1"))
    broker = broker_of()  # without persistence: a restart forgets retained messages
    failures: list[BaseException] = []

    def script() -> None:
        try:
            assert retained(small_authority, broker, "north/f1") == {"north/f1": 100}
            broker.restart()
            assert retained(small_authority, broker, "north/f1") == {"north/f1": 100}
        except BaseException as error:
            failures.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    with broker:
        thread = threading.Thread(target=script)
        with ReleaseService(
            small_authority.authority,
            settings_of(small_authority, broker),
            emit=lambda outcome: thread.start(),
        ) as service:
            service.online(idle_s=0.2, follow=True)
        thread.join()
    assert not failures


def test_repro_a_publisher_sends_until_the_broker_has_acknowledged(
    small_authority: Any, broker_of: Callable[..., EmbeddedBroker]
) -> None:
    first, later, older, part = (
        TotalKey("p", "north/f1", window, part) for window, part in ((100, 0), (101, 0), (99, 0), (101, 1))
    )
    heard: dict[str, Any] = {}

    def window_and_part() -> list[int] | None:
        record = heard.get(topics.release("north/f1"))
        return record and [record["window"], record["part"]]

    refusing = broker_of(without_release)
    with refusing, EventLoop() as loop:
        session = Session(
            settings=settings_of(small_authority, refusing).broker,
            client_id="authority",
            username="authority",
            password=small_authority.authority.broker_password,
            on_message=lambda topic, payload: None,
            on_connect=lambda present: publisher.on_connect(present),
        )
        publisher = ReleasePublisher(
            session,
            [first, older],
            start_of=lambda total: total.window * 3_600,
            payload_of=lambda total: json.dumps({"window": total.window, "part": total.part}).encode(),
        )
        publisher.note(older)  # not connected
        assert publisher.unpublished == ["north/f1"]
        loop.add(session)
        assert loop.run_until(lambda: session.refused > 0 and publisher.at_rest, WAIT_S)
        assert publisher.unpublished == ["north/f1"]
        publisher.note(later)
        publisher.note(older)
        assert loop.run_until(lambda: session.refused > 1 and publisher.at_rest, WAIT_S)
        (refusing.directory / "acl").write_text(acl(small_authority.authority.enrolment.entries(), ["agg1"]))
        assert refusing.pid is not None
        os.kill(refusing.pid, signal.SIGHUP)
        reader = operator(loop, small_authority, refusing, heard)
        assert loop.run_until(lambda: reader.connected, WAIT_S)
        loop.every(0.2, publisher.retry)
        assert loop.run_until(lambda: window_and_part() == [101, 0] and not publisher.unpublished, WAIT_S)
        publisher.note(part)
        assert loop.run_until(lambda: window_and_part() == [101, 1] and not publisher.unpublished, WAIT_S)
        publisher.note(older)
        assert publisher.unpublished == []
        session.close()
        reader.close()
