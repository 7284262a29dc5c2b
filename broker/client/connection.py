"""One connection to the broker: a paho client on a stream, from CONNECT until it breaks.

paho speaks MQTT here and does nothing else. It is made afresh for every connection, so whatever it
queues in memory dies with that connection. Nothing an owner wrote runs inside paho, which holds
locks that are not re-entrant there: events are collected and handed out once paho has returned.
"""

import selectors
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.stream import Stream

__all__ = ["ConnectOptions", "Connection", "ConnectionListener", "Message", "OnPuback"]

_TURN_BYTES, _TURN_S = 4 * 1024 * 1024, 0.02  # what one turn may read, and its time, handlers included
_WINDOW_MAXIMUM = 1_000  # QoS 1 messages sent and not acknowledged; fewer where the broker says so
_PACKET_MAXIMUM = 268_435_455  # bytes: MQTT's own limit; less where the broker says so
_INCOMING_MAXIMUM = (
    32 * 1024 * 1024
)  # bytes: larger than any plan's envelope; MQTT 5 brokers keep such packets


OnPuback = Callable[[bool], None]  # whether the broker accepted the message


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is published."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False

    @property
    def packet_bytes(self) -> int:
        """The size of its PUBLISH packet, or a few bytes more."""
        return len(self.payload) + len(self.topic.encode()) + 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """What CONNECT says."""

    client_id: str
    username: str | None
    password: str | None
    will: Message | None
    mqtt5: bool  # MQTT 5; else 3.1.1
    keepalive_s: int
    session_expiry_s: int
    receive_maximum: int

    def __repr__(self) -> str:  # a password in a traceback is a password in a log
        return f"ConnectOptions(client_id={self.client_id!r}, five={self.mqtt5})"


class ConnectionListener(Protocol):
    """Who is told what happens (a Session). Called outside paho; may close the connection."""

    def on_connack(self, code: ReasonCode, session_present: bool) -> None: ...
    def on_message(self, topic: str, payload: bytes) -> None: ...
    def on_puback_refused(self, topic: str, code: ReasonCode) -> None: ...
    def on_suback_refused(self, code: ReasonCode) -> None: ...
    def on_strange_topic(self) -> None: ...
    def on_lost(self, why: str) -> None: ...


class _Client(paho.Client):
    """paho, on a stream that is connected already: its own connect would block for seconds."""

    stream: Any
    take: Callable[[bytes, bytes], None]  # topic, payload

    def _create_socket(self) -> Any:
        return self.stream

    def _handle_publish(self) -> MQTTErrorCode:
        """Take a PUBLISH apart with one copy of its payload.

        paho's own makes five, and for MQTT 5 a table of all properties there are: a quarter of what an
        aggregator does for a batch of 96 KB. Nothing we receive has properties that mean something to us.
        """
        command, packet = self._in_packet["command"], self._in_packet["packet"]
        qos = command >> 1 & 3
        if qos > 1:  # never subscribed to, and a conversation of its own
            return super()._handle_publish()
        at = 2 + int.from_bytes(packet[:2], "big")
        topic = bytes(packet[2:at])
        mid = 0
        if qos:
            mid = int.from_bytes(packet[at : at + 2], "big")
            at += 2
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            size, at = _variable_number(packet, at)
            at += size
        if at > len(packet) or not topic:
            raise ValueError("a PUBLISH that is cut short, or without a topic")
        self.take(topic, bytes(memoryview(packet)[at:]))
        return self._send_puback(mid) if qos else MQTTErrorCode.MQTT_ERR_SUCCESS


def _variable_number(packet: bytearray, at: int) -> tuple[int, int]:
    """MQTT's number of one to four bytes at `at`, and where it ends. Raises IndexError, ValueError."""
    value = shift = 0
    while True:
        byte = packet[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 21:
            raise ValueError("a number longer than four bytes")


class Connection:
    """Sends CONNECT when it is made, and reports to `listener`. After `close` it reports nothing more."""

    def __init__(
        self, *, stream: Stream, greeting: ConnectOptions, loop: EventLoop, listener: ConnectionListener
    ) -> None:
        self._stream, self._loop, self._listener = stream, loop, listener
        self._events: deque[Callable[[], None]] = deque()
        self._open = True
        self._reading_soon = self._writing_soon = self._writer_watched = False
        self._goodbye: str | None = None
        self._unacknowledged: dict[int, tuple[Message, OnPuback | None]] = {}  # by packet id
        self._waiting: deque[tuple[Message, OnPuback | None]] = deque()
        self._window = _WINDOW_MAXIMUM
        self.packet_maximum = _PACKET_MAXIMUM
        self.owed_bytes = 0
        self._client = self._new_client(greeting)
        self._client.reconnect()
        loop.add_reader(stream.fileno(), self._on_readable)

    def _new_client(self, greeting: ConnectOptions) -> _Client:
        mqtt5 = greeting.mqtt5
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=greeting.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if mqtt5 else False,
            reconnect_on_failure=False,
        )
        client.stream = self._stream
        # No window of paho's: it scans its whole queue at every PUBACK, and 5's Receive Maximum is not in it.
        client.max_inflight_messages = 0
        client.username_pw_set(greeting.username, greeting.password)
        if greeting.will is not None:
            will = greeting.will
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        tell = self._events.append
        client.on_connect = lambda _c, _u, flags, code, properties: tell(
            lambda: self._on_connack(code, flags.session_present, properties)
        )
        client.on_disconnect = lambda _c, _u, flags, code, _p: self._on_disconnect(flags, code)
        client.take = lambda topic, payload: tell(lambda: self._on_message(topic, payload))
        client.on_publish = lambda _c, _u, mid, code, _p: tell(lambda: self._on_puback(mid, code))
        client.on_subscribe = lambda _c, _u, _mid, codes, _p: tell(lambda: self._on_suback(codes))
        client.on_socket_register_write = lambda _c, _u, _s: self._write_soon()
        client.on_socket_close = lambda _c, _u, _s: self._unwatch()
        # The host only matters to a connect of paho's own.
        if mqtt5:
            wishes: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no types there
            wishes.SessionExpiryInterval = greeting.session_expiry_s
            wishes.ReceiveMaximum = greeting.receive_maximum
            wishes.MaximumPacketSize = _INCOMING_MAXIMUM
            client.connect_async("broker", 1, greeting.keepalive_s, clean_start=False, properties=wishes)
        else:
            client.connect_async("broker", 1, greeting.keepalive_s)
        return client

    # -- for the session -----------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Messages taken and not acknowledged by the broker."""
        return len(self._unacknowledged) + len(self._waiting)

    @property
    def waiting(self) -> int:
        """Messages taken that the broker's window has no room for yet."""
        return len(self._waiting)

    def publish(self, message: Message, on_puback: OnPuback | None = None) -> None:
        """Send now, or as soon as the window has room."""
        self.owed_bytes += len(message.payload)
        if not self._waiting and len(self._unacknowledged) < self._window:
            self._send(message, on_puback)
        else:
            self._waiting.append((message, on_puback))

    def subscribe(self, filters: list[str]) -> None:
        """Ask for `filters` with QoS 1."""
        if filters and self._open:
            self._client.subscribe([(name, 1) for name in filters])

    def tick(self) -> None:
        """Keep alive; to be called several times in a keepalive period."""
        if self._open:
            self._client.loop_misc()
            self._settle("it has been silent for too long")

    def say_goodbye(self, timeout_s: float) -> None:
        """Send what is queued, then DISCONNECT, and wait for the broker to close; `timeout_s` at most."""
        if not self._open:
            return
        deadline = self._loop.clock() + timeout_s
        self._stream.linger_until = deadline
        self._client.disconnect()
        with selectors.DefaultSelector() as selector:
            selector.register(self._stream.fileno(), selectors.EVENT_WRITE)
            while self._client.socket() is not None and (left := deadline - self._loop.clock()) > 0:
                if selector.select(left):
                    self._client.loop_write()
        self._stream.linger_until = None
        self.close()

    def close(self) -> None:
        """Drop the connection without a goodbye, and report nothing any more."""
        self._open = False
        self._events.clear()
        self._unacknowledged.clear()
        self._waiting.clear()
        self.owed_bytes = 0
        self._unwatch()
        self._stream.close()
        client = self._client
        client.on_connect = client.on_disconnect = None
        client.take = lambda _topic, _payload: None
        client.on_publish = client.on_subscribe = None
        client.on_socket_register_write = client.on_socket_close = None

    # -- events from paho ----------------------------------------------------------------------

    def _on_connack(self, code: ReasonCode, session_present: bool, properties: Properties | None) -> None:
        if not code.is_failure:
            self._window = min(_WINDOW_MAXIMUM, getattr(properties, "ReceiveMaximum", _WINDOW_MAXIMUM))
            self.packet_maximum = getattr(properties, "MaximumPacketSize", _PACKET_MAXIMUM)
        self._listener.on_connack(code, session_present)

    def _on_disconnect(self, flags: paho.DisconnectFlags, code: ReasonCode) -> None:
        if flags.is_disconnect_packet_from_server:
            self._goodbye = f"it said {code}"

    def _on_message(self, topic: bytes, payload: bytes) -> None:
        try:
            name = topic.decode()
        except UnicodeDecodeError:
            self._listener.on_strange_topic()
            return
        self._listener.on_message(name, payload)

    def _on_puback(self, mid: int, code: ReasonCode) -> None:
        """QoS 1: the broker has answered. QoS 0: it is written."""
        message, on_puback = self._unacknowledged.pop(mid, (None, None))
        if message is not None:
            self.owed_bytes -= len(message.payload)
        while self._waiting and len(self._unacknowledged) < self._window:
            self._send(*self._waiting.popleft())
        if code.is_failure:
            self._listener.on_puback_refused(message.topic if message is not None else "", code)
        if on_puback is not None:
            on_puback(not code.is_failure)

    def _on_suback(self, codes: list[ReasonCode]) -> None:
        for code in codes:
            if code.is_failure:
                self._listener.on_suback_refused(code)
                return

    # -- reading and writing -------------------------------------------------------------------

    def _send(self, message: Message, on_puback: OnPuback | None) -> None:
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        self._unacknowledged[info.mid] = (message, on_puback)

    def _on_readable(self) -> None:
        if not self._reading_soon:
            self._read_and_answer()

    def _read_and_answer(self) -> None:
        self._reading_soon = False
        self._writing_soon = True  # what handlers and acknowledgements write goes out below, at once
        try:
            self._read()
        finally:
            self._write()

    def _read(self) -> None:
        """Read what has arrived, up to a turn's allowance; the rest is read in the next turn."""
        if not self._open:
            return
        stream, clock = self._stream, self._loop.clock
        stream.open_turn(_TURN_BYTES)
        deadline = clock() + _TURN_S
        while True:
            try:
                self._client.loop_read()
            except Exception as error:
                # Only paho ran in there, so the broker sent what paho cannot take apart.
                self._listener.on_lost(f"it sent what is no MQTT ({type(error).__name__})")
                return
            if not self._settle("it closed the connection"):
                return
            if stream.starved:
                return
            if stream.spent or clock() >= deadline:
                self._reading_soon = True
                self._loop.soon(self._read_and_answer)
                return

    def _write_soon(self) -> None:
        """Write in the next turn, everything that was gathered by then; most writes fit at once."""
        if not self._writing_soon:
            self._writing_soon = True
            self._loop.soon(self._write)

    def _write(self) -> None:
        self._writing_soon = False
        if not self._open:
            return
        self._client.loop_write()
        if self._settle("it closed the connection"):
            try:
                written = self._stream.flush() and not self._client.want_write()
            except OSError as error:
                self._listener.on_lost(f"it closed the connection ({error.strerror or error})")
                return
            self._watch_writer(not written)

    def _watch_writer(self, wanted: bool) -> None:
        if wanted is not self._writer_watched:
            self._writer_watched = wanted
            if wanted:
                self._loop.add_writer(self._stream.fileno(), self._write)
            else:
                self._loop.remove_writer(self._stream.fileno())

    def _settle(self, why: str) -> bool:
        """Hand out the events. Returns False, after reporting the reason, if the connection is gone."""
        while self._events:
            self._events.popleft()()
        if self._open and self._client.socket() is None:
            error = self._stream.error
            self._listener.on_lost(
                self._goodbye or (why if error is None else f"{why} ({error.strerror or error})")
            )
        return self._open

    def _unwatch(self) -> None:
        """Stop watching before the stream is closed: the kernel may give its number to another socket."""
        self._watch_writer(False)
        self._loop.remove_reader(self._stream.fileno())
