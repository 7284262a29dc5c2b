"""Sessions against real brokers: what is delivered, what survives, what is refused."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import BrokerSettings
from gridhe.errors import BrokerError, ConfigError


def test_a_message_reaches_its_subscriber_with_qos_1(any_broker: EmbeddedBroker, client: Callable) -> None:
    reader = client(any_broker.url, "reader", subscriptions=["gridhe/v1/batch/#"]).connected()
    writer = client(any_broker.url, "writer").connected()
    payload = bytes(range(256)) * 400
    writer.publish("gridhe/v1/batch/north/f1/m1", payload)
    assert reader.receives(1) == [("gridhe/v1/batch/north/f1/m1", payload)]
    assert writer.flushed().session.refused == 0
    assert reader.session.protocol == "5"


def test_a_retained_message_meets_a_later_subscriber(any_broker: EmbeddedBroker, client: Callable) -> None:
    writer = client(any_broker.url, "writer").connected()
    writer.publish("gridhe/v1/plan/current", b"bundle", retain=True)
    writer.flushed()
    reader = client(any_broker.url, "reader").connected()
    reader.session.subscribe("gridhe/v1/plan/+", "gridhe/v1/plan/+")
    assert reader.receives(1) == [("gridhe/v1/plan/current", b"bundle")]


def test_the_will_is_sent_when_a_client_vanishes(any_broker: EmbeddedBroker, client: Callable) -> None:
    reader = client(any_broker.url, "reader", subscriptions=["gridhe/v1/status/#"]).connected()
    will = Message(topic="gridhe/v1/status/m1", payload=b"offline", retain=True)
    meter = client(any_broker.url, "m1", will=will).connected()
    meter.loop.remove(meter.session)
    assert reader.receives(1) == [("gridhe/v1/status/m1", b"offline")]


def test_closing_a_session_delivers_published_messages_and_sends_no_will(
    any_broker: EmbeddedBroker, client: Callable
) -> None:
    reader = client(any_broker.url, "reader", subscriptions=["gridhe/v1/#"]).connected()
    will = Message(topic="gridhe/v1/status/m1", payload=b"vanished")
    # Its own messages come back to it unread: closing on unread bytes must not cut the last ones off.
    meter = client(any_broker.url, "m1", will=will, subscriptions=["gridhe/v1/#"]).connected()
    for number in range(50):
        meter.publish("gridhe/v1/batch/n/m1", number.to_bytes(2) * 20_000)
    meter.publish("gridhe/v1/status/m1", b"offline")
    meter.session.close()
    meter.session.close()
    assert not meter.session.connected
    assert not meter.session.publish(Message(topic="gridhe/v1/status/m1", payload=b"late"))
    inbox = reader.receives(51)
    assert [payload[:2] for _, payload in inbox[:50]] == [number.to_bytes(2) for number in range(50)]
    assert inbox[50] == ("gridhe/v1/status/m1", b"offline")
    client(any_broker.url, "later").connected().publish("gridhe/v1/end", b"")
    assert reader.receives(52)[-1] == ("gridhe/v1/end", b"")


def test_messages_for_a_client_that_is_away_wait_for_it(any_broker: EmbeddedBroker, client: Callable) -> None:
    reader = client(any_broker.url, "reader", subscriptions=["gridhe/v1/batch/#"]).connected()
    assert reader.greetings == [False]
    reader.session.close()
    writer = client(any_broker.url, "writer").connected()
    for number in range(30):
        writer.publish("gridhe/v1/batch/n/m1", bytes([number]) * 5_000)
    writer.flushed()
    again = client(any_broker.url, "reader", subscriptions=["gridhe/v1/batch/#"]).connected()
    assert again.greetings == [True]
    assert [payload[0] for _, payload in again.receives(30)] == list(range(30))


def test_a_killed_broker_is_found_again_and_filters_are_renewed(
    any_broker: EmbeddedBroker, client: Callable, loop: EventLoop
) -> None:
    reader = client(any_broker.url, "reader", subscriptions=["gridhe/v1/batch/#"]).connected()
    writer = client(any_broker.url, "writer").connected()
    writer.publish("gridhe/v1/batch/n/m1", bytes(3_000_000))
    any_broker.kill()
    assert loop.run_until(lambda: not (writer.session.connected or reader.session.connected), 10.0)
    assert writer.session.in_flight == 0
    assert not writer.session.publish(Message(topic="gridhe/v1/batch/n/m1", payload=b"kept by the caller"))
    assert not writer.session.writable
    assert any_broker.url in str(writer.session.last_error)
    reader.inbox.clear()
    any_broker.restart()
    reader.connected()
    writer.connected()
    assert reader.greetings == [False, False]
    writer.publish("gridhe/v1/batch/n/m1", b"after")
    assert reader.receives(1) == [("gridhe/v1/batch/n/m1", b"after")]


def test_a_broker_that_comes_late_is_waited_for(
    tmp_path: Path, mosquitto: Path, client: Callable, loop: EventLoop
) -> None:
    broker = EmbeddedBroker(tmp_path / "broker", prefer="mosquitto")
    with broker:
        url = broker.url
    early = client(url, "early")
    assert not loop.run_until(lambda: early.session.connected, 0.3)
    assert "refused" in str(early.session.unreachable())
    assert early.session.unreachable().exit_code == 7
    with broker:
        early.connected()
        assert early.session.last_error is None


def test_a_wrong_password_ends_a_first_connection_with_the_way_out(
    tmp_path: Path, mosquitto: Path, client: Callable, loop: EventLoop
) -> None:
    with EmbeddedBroker(tmp_path / "b", prefer="mosquitto", users={"m1": "right"}) as broker:
        client(broker.url, "m1", username="m1", password="right").connected()
        client(broker.url, "m2", username="m1", password="wrong-secret")
        with pytest.raises(BrokerError, match=r"refuses user 'm1'.*Not authorized.*enrol") as raised:
            loop.run_until(lambda: False, 10.0)
        assert "wrong-secret" not in str(raised.value)


def test_a_password_that_is_refused_later_is_tried_again(
    tmp_path: Path, mosquitto: Path, client: Callable, loop: EventLoop
) -> None:
    users = {"m1": "right"}
    with EmbeddedBroker(tmp_path / "b", prefer="mosquitto", users=users) as broker:
        meter = client(broker.url, "m1", username="m1", password="right").connected()
        users["m1"] = "changed"
        broker.restart()
        assert loop.run_until(lambda: "Not authorized" in str(meter.session.last_error), 10.0)
        users["m1"] = "right"
        broker.restart()
        meter.connected()


def test_iotcore_disconnects_on_a_wrong_password_and_the_session_names_possible_causes(
    tmp_path: Path, client: Callable, loop: EventLoop
) -> None:
    with EmbeddedBroker(tmp_path / "b", prefer="iotcore", users={"m1": "right"}) as broker:
        client(broker.url, "m1", username="m1", password="right").connected()
        wrong = client(broker.url, "m2", username="m1", password="wrong")
        assert not loop.run_until(lambda: wrong.session.connected, 0.5)
        assert "the user is unknown" in str(wrong.session.unreachable())


def test_what_on_message_raises_leaves_run(broker: EmbeddedBroker, client: Callable, loop: EventLoop) -> None:
    def full(_topic: str, _payload: bytes) -> None:
        raise OSError(28, "No space left on device")

    client(broker.url, "reader", subscriptions=["gridhe/v1/#"], on_message=full).connected()
    client(broker.url, "writer").connected().publish("gridhe/v1/x", b"1")
    with pytest.raises(OSError, match="No space left"):
        loop.run_until(lambda: False, 10.0)


def test_a_callback_may_publish_subscribe_and_close(
    broker: EmbeddedBroker, client: Callable, loop: EventLoop
) -> None:
    reader = client(broker.url, "reader", subscriptions=["gridhe/v1/receipt/#"]).connected()

    def answer(topic: str, _payload: bytes) -> None:
        echo.session.subscribe("gridhe/v1/more")
        assert echo.session.publish(Message(topic="gridhe/v1/receipt/m1", payload=topic.encode()))
        echo.session.close()

    echo = client(broker.url, "echo", subscriptions=["gridhe/v1/batch/#"], on_message=answer).connected()
    writer = client(broker.url, "writer").connected()
    for _ in range(3):
        writer.publish("gridhe/v1/batch/n/m1", b"")
    assert reader.receives(1) == [("gridhe/v1/receipt/m1", b"gridhe/v1/batch/n/m1")]
    assert not echo.session.connected
    assert not loop.run_until(lambda: len(reader.inbox) > 1, 0.1)


def test_more_messages_than_the_brokers_window_arrive_in_order(
    tmp_path: Path, mosquitto: Path, client: Callable
) -> None:
    narrow = BrokerSettings(receive_maximum=7)
    with EmbeddedBroker(tmp_path / "b", prefer="mosquitto", settings=narrow) as broker:
        reader = client(broker.url, "reader", subscriptions=["gridhe/v1/#"]).connected()
        writer = client(broker.url, "writer").connected()
        for number in range(2_000):
            writer.publish("gridhe/v1/x", number.to_bytes(4))
        assert writer.session.in_flight == 2_000
        inbox = reader.receives(2_000)
        assert [int.from_bytes(payload) for _, payload in inbox] == list(range(2_000))
        writer.flushed()


def test_a_session_that_owes_much_is_not_writable_until_it_is_acknowledged(
    any_broker: EmbeddedBroker, client: Callable, loop: EventLoop
) -> None:
    writer = client(any_broker.url, "writer").connected()
    assert writer.session.writable
    for _ in range(5):
        writer.publish("gridhe/v1/x", bytes(1_000_000))
    assert not writer.session.writable
    writer.flushed()
    assert writer.session.writable


def test_a_message_larger_than_the_broker_takes_is_refused_before_it_costs_the_connection(
    tmp_path: Path, mosquitto: Path, client: Callable
) -> None:
    with EmbeddedBroker(tmp_path / "b", prefer="mosquitto", largest_payload=100_000) as broker:
        writer = client(broker.url, "writer").connected()
        writer.publish("gridhe/v1/x", bytes(100_000))
        with pytest.raises(BrokerError, match="raise the broker's max_packet_size"):
            writer.publish("gridhe/v1/x", bytes(200_000))
        assert writer.flushed().session.connected


def test_qos_0_is_done_when_it_is_written(broker: EmbeddedBroker, client: Callable) -> None:
    writer = client(broker.url, "writer").connected()
    assert writer.session.publish(Message(topic="gridhe/v1/x", payload=b"1", qos=0))
    writer.flushed()


def test_two_hundred_sessions_share_one_reactor_and_survive_a_restart(
    tmp_path: Path, mosquitto: Path, client: Callable, loop: EventLoop
) -> None:
    with EmbeddedBroker(tmp_path / "b", prefer="mosquitto") as broker:
        meters = [client(broker.url, f"m{i}", subscriptions=[f"gridhe/v1/receipt/m{i}"]) for i in range(200)]
        assert loop.run_until(lambda: all(meter.session.connected for meter in meters), 30.0)
        broker.kill()
        assert loop.run_until(lambda: not any(meter.session.connected for meter in meters), 30.0)
        broker.restart()
        assert loop.run_until(lambda: all(meter.session.connected for meter in meters), 30.0)
        for i, meter in enumerate(meters):
            meter.publish(f"gridhe/v1/receipt/m{i}", b"%d" % i)
        assert loop.run_until(lambda: all(meter.inbox for meter in meters), 30.0)
        for i, meter in enumerate(meters):
            assert meter.inbox == [(f"gridhe/v1/receipt/m{i}", b"%d" % i)]


def test_two_clients_with_one_id_are_told_what_goes_on(
    broker: EmbeddedBroker, client: Callable, loop: EventLoop
) -> None:
    twins = [client(broker.url, "m1") for _ in range(2)]
    assert loop.run_until(lambda: any("another client" in str(t.session.last_error) for t in twins), 20.0)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mqtt://broker.example:1883", "in clear.*mqtts://broker.example:8883"),
        ("mqtt://192.0.2.7", "in clear"),
        ("mqtt://user:hidden@127.0.0.1", "credential file"),
        ("http://127.0.0.1", "mqtts://"),
        ("127.0.0.1:1883", "mqtt://host"),
        ("mqtt://127.0.0.1:70000", "not a URL"),
        ("mqtt://127.0.0.1:0", "port 0"),
        ("mqtt://127.0.0.1/path", "mqtt://host"),
        ("mqtt://", "mqtt://host"),
    ],
)
def test_an_address_that_will_not_do_is_refused_at_once(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        Session(settings=BrokerSettings(url=url), client_id="m1", on_message=lambda _t, _p: None)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["mqtt://localhost", "mqtt://127.9.9.9:1", "mqtt://[::1]:1883", "mqtts://x.example"]
)
def test_loopback_and_tls_need_no_permission(url: str) -> None:
    session = Session(
        settings=BrokerSettings(url=url), client_id="m1", on_message=lambda _t, _p: None, rng=random.Random(1)
    )
    assert str(session.url).startswith(url)


def test_clear_text_to_another_machine_is_allowed_with_the_setting() -> None:
    settings = BrokerSettings(url="mqtt://broker.example", insecure=True)
    assert Session(settings=settings, client_id="m1", on_message=lambda _t, _p: None).url.port == 1883


def test_a_session_needs_a_client_id_to_persist() -> None:
    with pytest.raises(ConfigError, match="client id"):
        Session(settings=BrokerSettings(), client_id="", on_message=lambda _t, _p: None)
