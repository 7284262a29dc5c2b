"""Brokers that misbehave: scripted bytes over a real socket, served by the session's own loop."""

import socket
from collections.abc import Callable, Iterator

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message
from gridhe.config.settings import BrokerSettings
from gridhe.errors import BrokerError

_CONNACK_5 = bytes.fromhex("2003000000")
_CONNACK_311 = bytes.fromhex("20020000")


class Script:
    """A listener that answers each packet it receives, by its type, with the bytes of `answers`."""

    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop
        self.answers: Callable[[int, bytes], bytes | None] = lambda _count, _packet: b""
        self.accepted_at: list[float] = []
        self.packets: list[bytes] = []
        self.hang_ups = 0  # connections that the session has closed
        self._socks = [socket.create_server(("127.0.0.1", 0))]
        self.url = f"mqtt://127.0.0.1:{self._socks[0].getsockname()[1]}"
        loop.add_reader(self._socks[0].fileno(), lambda: self._accept())

    def _accept(self) -> None:
        peer, _ = self._socks[0].accept()
        self._socks.append(peer)
        count = len(self.accepted_at)
        self.accepted_at.append(self.loop.clock())
        self.loop.add_reader(peer.fileno(), lambda: self._hear(count, peer))

    def _hear(self, count: int, peer: socket.socket) -> None:
        packet = peer.recv(65536)
        answer = self.answers(count, packet) if packet else None
        if packet:
            self.packets.append(packet)
        else:
            self.hang_ups += 1
        if answer is None:
            self.loop.remove_reader(peer.fileno())
            peer.close()
        else:
            peer.sendall(answer)

    def close(self) -> None:
        for sock in self._socks:
            self.loop.remove_reader(sock.fileno())
            sock.close()


@pytest.fixture
def script(loop: EventLoop) -> Iterator[Script]:
    one = Script(loop)
    yield one
    one.close()


def _level(packet: bytes) -> int:
    """The protocol level of a CONNECT with a one-byte remaining length: 5, or 4 for 3.1.1."""
    return packet[8]


_REFUSALS = ["20020001", "2003008400"]  # "unsupported protocol version", as 3.1.1 and as 5 say it


def _without_mqtt_5(refusal: str | None) -> Callable[[int, bytes], bytes | None]:
    def answers(_count: int, packet: bytes) -> bytes | None:
        if packet[0] != 0x10:
            return b""
        if _level(packet) == 5:
            return None if refusal is None else bytes.fromhex(refusal)
        return _CONNACK_311

    return answers


@pytest.mark.parametrize("refusal", _REFUSALS)
def test_the_client_falls_back_to_3_1_1_if_the_broker_refuses_mqtt_5_and_logs_it(
    script: Script, client: Callable, loop: EventLoop, refusal: str, caplog: pytest.LogCaptureFixture
) -> None:
    script.answers = _without_mqtt_5(refusal)
    meter = client(script.url, "m1")
    assert loop.run_until(lambda: meter.session.connected, 10.0)
    assert meter.session.protocol == "3.1.1"
    assert "refuses MQTT 5" in caplog.text
    connect = script.packets[-1]
    assert connect[9] & 0x02 == 0, "clean session must be off"


def test_repro_a_broker_that_hangs_up_before_its_answer_is_not_spoken_to_in_3_1_1(
    script: Script, client: Callable, loop: EventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    script.answers = lambda count, packet: (
        None if count < 5 else (_CONNACK_5 if _level(packet) == 5 else _CONNACK_311)
    )
    settings = BrokerSettings(url=script.url, reconnect_min_s=0.01, reconnect_max_s=0.01)
    meter = client(settings, "m1")
    assert loop.run_until(lambda: meter.session.connected, 10.0)
    assert meter.session.protocol == "5"
    assert [_level(packet) for packet in script.packets if packet[0] == 0x10] == [5] * 6
    assert "set broker.protocol: 3.1.1" in caplog.text, "the way out, if the broker knows no other"


@pytest.mark.parametrize("refusal", [*_REFUSALS, None])
def test_a_broker_that_is_set_to_3_1_1_is_never_asked_for_5(
    script: Script, client: Callable, loop: EventLoop, refusal: str | None
) -> None:
    script.answers = _without_mqtt_5(refusal)
    meter = client(BrokerSettings(url=script.url, protocol="3.1.1"), "m1")
    assert loop.run_until(lambda: meter.session.connected, 10.0)
    assert len(script.accepted_at) == 1


@pytest.mark.parametrize("refusal", _REFUSALS)
def test_a_broker_that_is_set_to_5_and_refuses_it_ends_the_start(
    script: Script, client: Callable, loop: EventLoop, refusal: str
) -> None:
    script.answers = _without_mqtt_5(refusal)
    client(BrokerSettings(url=script.url, protocol=5), "m1")
    with pytest.raises(BrokerError, match=r"refuses MQTT 5.*broker\.protocol: auto"):
        loop.run_until(lambda: False, 10.0)


def test_connect_asks_for_a_session_that_persists(script: Script, client: Callable, loop: EventLoop) -> None:
    script.answers = lambda _count, _packet: _CONNACK_5
    settings = BrokerSettings(url=script.url, session_expiry_s=0x01020304, receive_maximum=0x0123)
    meter = client(settings, "m1")
    assert loop.run_until(lambda: meter.session.connected, 10.0)
    connect = script.packets[0]
    assert connect[9] & 0x02 == 0, "clean start must be off"
    assert bytes.fromhex("1101020304") in connect, "session expiry"
    assert bytes.fromhex("210123") in connect, "receive maximum"


@pytest.mark.parametrize(
    "junk",
    [
        "f000",  # AUTH, which nobody asked for
        "3002ffff",  # a topic longer than its packet
        "30ffffffffff",  # a remaining length of five bytes
        "900100",  # a SUBACK cut short
        "40020001",
        "3005000161" + "ff00",  # a property nobody knows
    ],
)
def test_bytes_that_are_no_mqtt_cost_the_connection_and_nothing_more(
    script: Script, client: Callable, loop: EventLoop, junk: str
) -> None:
    script.answers = lambda count, packet: (
        (_CONNACK_5 + (bytes.fromhex(junk) + b"\x00" * 9 if count == 0 else b""))
        if packet[0] == 0x10
        else b""
    )
    meter = client(script.url, "m1")
    assert loop.run_until(lambda: len(script.accepted_at) > 1 and meter.session.connected, 10.0)
    assert meter.inbox == []


def test_a_topic_that_is_no_utf_8_is_passed_over(script: Script, client: Callable, loop: EventLoop) -> None:
    bad, good = bytes.fromhex("30060002fffe0041"), bytes.fromhex("30060002612f0042")
    script.answers = lambda _count, packet: _CONNACK_5 + bad + good if packet[0] == 0x10 else b""
    meter = client(script.url, "m1")
    assert meter.receives(1) == [("a/", b"B")]
    assert meter.session.connected


def test_a_silent_broker_is_given_up_after_the_connect_timeout(
    script: Script, client: Callable, loop: EventLoop
) -> None:
    settings = BrokerSettings(
        url=script.url, connect_timeout_s=0.1, reconnect_min_s=0.01, reconnect_max_s=0.01
    )
    meter = client(settings, "m1")
    assert loop.run_until(lambda: len(script.accepted_at) > 1, 10.0)
    assert "within 0.1 s" in str(meter.session.last_error)


def test_a_broker_that_falls_silent_in_the_tls_handshake_is_given_up_and_its_socket_closed(
    script: Script, client: Callable, loop: EventLoop
) -> None:
    settings = BrokerSettings(
        url=script.url.replace("mqtt:", "mqtts:"),
        connect_timeout_s=0.1,
        reconnect_min_s=0.01,
        reconnect_max_s=0.01,
    )
    meter = client(settings, "m1")
    assert loop.run_until(lambda: script.hang_ups == 2, 10.0)
    assert script.packets[0][0] == 0x16, "TLS's handshake"
    assert "within 0.1 s" in str(meter.session.last_error)
    assert loop.run_until(lambda: len(script.packets) == 3, 10.0)
    loop.remove(meter.session)  # in the middle of a handshake
    assert loop.run_until(lambda: script.hang_ups == 3, 10.0)


def test_a_connection_without_answers_to_pings_is_dropped(
    script: Script, client: Callable, loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.answers = lambda _count, packet: _CONNACK_5 if packet[0] == 0x10 else b""
    meter = client(BrokerSettings(url=script.url, keepalive_s=5, reconnect_min_s=60), "m1")
    assert loop.run_until(lambda: meter.session.connected, 10.0)
    monkeypatch.setattr("paho.mqtt.client.time_func", lambda: loop.clock() * 20)  # paho's seconds fly
    assert loop.run_until(lambda: not meter.session.connected, 10.0)
    assert b"\xc0\x00" in script.packets
    assert "keepalive" in str(meter.session.last_error)


def test_reconnects_back_off_with_jitter_between_their_bounds(
    script: Script, client: Callable, loop: EventLoop
) -> None:
    script.answers = lambda _count, _packet: None
    client(BrokerSettings(url=script.url, reconnect_min_s=0.02, reconnect_max_s=0.1), "m1")
    assert loop.run_until(lambda: len(script.accepted_at) >= 12, 30.0)
    waits = [
        after - before for before, after in zip(script.accepted_at, script.accepted_at[1:], strict=False)
    ]
    assert all(wait >= 0.019 for wait in waits), waits
    assert max(waits[5:]) > 0.04, waits
    assert len({round(wait, 3) for wait in waits[3:]}) > 3, "no jitter"


def test_a_refused_subscription_ends_the_first_connection(
    script: Script, client: Callable, loop: EventLoop
) -> None:
    def answers(_count: int, packet: bytes) -> bytes:
        return (
            _CONNACK_5 if packet[0] == 0x10 else bytes.fromhex("9004") + packet[2:4] + bytes.fromhex("0087")
        )

    script.answers = answers
    client(script.url, "m1", subscriptions=["gridhe/v1/batch/#"])
    with pytest.raises(BrokerError, match=r"refuses a subscription.*Not authorized"):
        loop.run_until(lambda: False, 10.0)


def test_a_broker_that_is_busy_is_asked_again(script: Script, client: Callable, loop: EventLoop) -> None:
    script.answers = lambda count, _packet: bytes.fromhex("2003008900") if count == 0 else _CONNACK_5
    meter = client(script.url, "m1")
    assert loop.run_until(lambda: meter.session.connected, 10.0)
    assert len(script.accepted_at) == 2


def test_the_reason_in_a_disconnect_is_reported(script: Script, client: Callable, loop: EventLoop) -> None:
    script.answers = lambda count, _packet: (
        _CONNACK_5 + bytes.fromhex("e0068e041f000161") if count == 0 else _CONNACK_5
    )
    meter = client(script.url, "m1")
    assert loop.run_until(lambda: not meter.session.connected and bool(meter.session.last_error), 10.0)
    assert "Session taken over" in str(meter.session.last_error)
    assert loop.run_until(lambda: meter.session.connected, 10.0)


def test_a_message_that_the_broker_refuses_is_counted(
    script: Script, client: Callable, loop: EventLoop
) -> None:
    def answers(_count: int, packet: bytes) -> bytes:
        return _CONNACK_5 if packet[0] == 0x10 else bytes.fromhex("4003000187")

    script.answers = answers
    meter = client(script.url, "m1")
    assert loop.run_until(lambda: meter.session.connected, 10.0)
    meter.session.publish(Message(topic="gridhe/v1/x", payload=b"1"))
    assert loop.run_until(lambda: meter.session.refused == 1, 10.0)
    assert meter.session.in_flight == 0
    assert meter.session.connected


def test_messages_wait_while_the_socket_takes_no_more(
    script: Script, client: Callable, loop: EventLoop
) -> None:
    script.answers = lambda _count, packet: _CONNACK_5 if packet[0] == 0x10 else b""
    meter = client(script.url, "m1")
    assert loop.run_until(lambda: meter.session.connected, 10.0)
    payload = bytes(40_000_000)  # more than any socket buffer: it goes out in many turns
    meter.session.publish(Message(topic="gridhe/v1/x", payload=payload))
    assert loop.run_until(lambda: sum(map(len, script.packets)) > len(payload), 20.0)
    assert meter.session.in_flight == 1
