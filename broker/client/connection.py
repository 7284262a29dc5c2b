"""One connection to the broker: a paho client on a stream, from CONNECT until it breaks.

paho only encodes and decodes MQTT. Every connection has a new paho client, so its queues end with the
connection. No callback of ours runs inside paho, which holds non-reentrant locks there: events are collected
and delivered after paho has returned.
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

from gridhe.broker.client.stream import Stream

__all__ = ["ConnectOptions", "Connection", "ConnectionListener", "ConnectionLoop", "Message", "OnPuback"]

_TURN_BYTES, _TURN_S = 4 * 1024 * 1024, 0.02  # limits of one turn: bytes read, and time with handlers
_WINDOW_MAXIMUM = 1_000  # unacknowledged QoS 1 messages; fewer if the broker's Receive Maximum is smaller
_PACKET_MAXIMUM = 268_435_455  # bytes: MQTT's limit; less if the broker's Maximum Packet Size is smaller
_INCOMING_MAXIMUM = 32 * 1024 * 1024  # bytes: our Maximum Packet Size, larger than any plan's envelope


OnPuback = Callable[[bool], None]  # whether the broker accepted the message


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to publish."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False

    @property
    def packet_bytes(self) -> int:
        """An upper bound of the size of its PUBLISH packet, a few bytes above it."""
        return len(self.payload) + len(self.topic.encode()) + 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """The fields of CONNECT."""

    client_id: str
    username: str | None
    password: str | None
    will: Message | None
    mqtt5: bool  # MQTT 5; else 3.1.1
    keepalive_s: int
    session_expiry_s: int
    receive_maximum: int
    incoming_maximum: int = _INCOMING_MAXIMUM  # bytes of a packet that the broker may send (MQTT 5 only)
    clean_start: bool = False  # the broker forgets an earlier session of this client id

    def __repr__(self) -> str:  # without the password, because tracebacks are logged
        return f"ConnectOptions(client_id={self.client_id!r}, mqtt5={self.mqtt5})"


class ConnectionLoop(Protocol):
    """The loop that calls a connection back: an `EventLoop`, or a few methods around asyncio's."""

    clock: Callable[[], float]

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None: ...
    def remove_reader(self, fd: int) -> None: ...
    def add_writer(self, fd: int, callback: Callable[[], object]) -> None: ...
    def remove_writer(self, fd: int) -> None: ...
    def soon(self, callback: Callable[[], object]) -> None: ...


class ConnectionListener(Protocol):
    """Receives the events of a connection (a Session). Called outside paho; may close the connection."""

    def on_connack(self, code: ReasonCode, session_present: bool) -> None: ...
    def on_message(self, topic: str, payload: bytes, retained: bool) -> None: ...
    def on_puback_refused(self, topic: str, code: ReasonCode) -> None: ...
    def on_suback(self) -> None: ...
    def on_suback_refused(self, code: ReasonCode) -> None: ...
    def on_strange_topic(self) -> None: ...
    def on_lost(self, why: str) -> None: ...


class _Client(paho.Client):
    """paho on a connected stream: paho's own connect would block for seconds."""

    stream: Any
    take: Callable[[bytes, bytes, bool], None]  # topic, payload, whether the broker had retained it

    def _create_socket(self) -> Any:
        return self.stream

    def _handle_publish(self) -> MQTTErrorCode:
        """Decode a PUBLISH with one copy of its payload.

        paho's own method makes five copies, and for MQTT 5 a table of all properties: a quarter of an
        aggregator's time for a batch of 96 KB. We use no properties of received messages.
        """
        command, packet = self._in_packet["command"], self._in_packet["packet"]
        qos = command >> 1 & 3
        if qos > 1:  # QoS 2, which we never subscribe with, has its own handshake
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
            raise ValueError("the PUBLISH is truncated, or has no topic")
        self.take(topic, bytes(memoryview(packet)[at:]), bool(command & 1))
        return self._send_puback(mid) if qos else MQTTErrorCode.MQTT_ERR_SUCCESS


def _variable_number(packet: bytearray, at: int) -> tuple[int, int]:
    """MQTT's variable byte integer at `at`, and the offset of its end. Raises IndexError, ValueError."""
    value = shift = 0
    while True:
        byte = packet[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 21:
            raise ValueError("a variable byte integer longer than four bytes")


class Connection:
    """Sends CONNECT when constructed, and reports events to `listener`, but none after `close`."""

    def __init__(
        self, *, stream: Stream, options: ConnectOptions, loop: ConnectionLoop, listener: ConnectionListener
    ) -> None:
        self._stream, self._loop, self._listener = stream, loop, listener
        self._events: deque[Callable[[], None]] = deque()
        self._open = True
        self._reading_soon = self._writing_soon = self._writer_watched = False
        self._disconnect_reason: str | None = None  # from the broker's DISCONNECT
        self._unacknowledged: dict[int, tuple[Message, OnPuback | None]] = {}  # by packet id
        self._waiting: deque[tuple[Message, OnPuback | None]] = deque()
        self._window = _WINDOW_MAXIMUM
        self.packet_maximum = _PACKET_MAXIMUM
        self.owed_bytes = 0
        self._client = self._new_client(options)
        self._client.reconnect()
        loop.add_reader(stream.fileno(), self._on_readable)

    def _new_client(self, options: ConnectOptions) -> _Client:
        mqtt5 = options.mqtt5
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if mqtt5 else options.clean_start,
            reconnect_on_failure=False,
        )
        client.stream = self._stream
        # paho's window is off: it scans its whole queue at every PUBACK and ignores Receive Maximum.
        client.max_inflight_messages = 0
        client.username_pw_set(options.username, options.password)
        if options.will is not None:
            will = options.will
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        add_event = self._events.append
        client.on_connect = lambda _c, _u, flags, code, properties: add_event(
            lambda: self._on_connack(code, flags.session_present, properties)
        )
        client.on_disconnect = lambda _c, _u, flags, code, _p: self._on_disconnect(flags, code)
        client.take = lambda *message: add_event(lambda: self._on_message(*message))
        client.on_publish = lambda _c, _u, mid, code, _p: add_event(lambda: self._on_puback(mid, code))
        client.on_subscribe = lambda _c, _u, _mid, codes, _p: add_event(lambda: self._on_suback(codes))
        client.on_socket_register_write = lambda _c, _u, _s: self._write_soon()
        client.on_socket_close = lambda _c, _u, _s: self._unwatch()
        # Host and port are not used: the stream is connected already.
        if mqtt5:
            properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no types there
            properties.SessionExpiryInterval = options.session_expiry_s
            properties.ReceiveMaximum = options.receive_maximum
            properties.MaximumPacketSize = options.incoming_maximum
            clean = options.clean_start
            client.connect_async("broker", 1, options.keepalive_s, clean_start=clean, properties=properties)
        else:
            client.connect_async("broker", 1, options.keepalive_s)
        return client

    # -- for the session -----------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Accepted messages that the broker has not acknowledged."""
        return len(self._unacknowledged) + len(self._waiting)

    @property
    def waiting(self) -> int:
        """Accepted messages that are not sent yet, because the broker's window is full."""
        return len(self._waiting)

    def publish(self, message: Message, on_puback: OnPuback | None = None) -> None:
        """Send now, or as soon as the window has room."""
        self.owed_bytes += len(message.payload)
        if not self._waiting and len(self._unacknowledged) < self._window:
            self._send(message, on_puback)
        else:
            self._waiting.append((message, on_puback))

    def subscribe(self, filters: list[str]) -> None:
        """Subscribe to `filters` with QoS 1."""
        if filters and self._open:
            self._client.subscribe([(name, 1) for name in filters])

    def tick(self) -> None:
        """Send and check keepalives; call it several times in a keepalive period."""
        if self._open:
            self._client.loop_misc()
            self._settle("no answer within the keepalive time")

    def disconnect(self, timeout_s: float) -> None:
        """Send queued packets, then DISCONNECT, and wait `timeout_s` at most for the broker to close."""
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
        """Drop the connection without DISCONNECT, and report no more events."""
        self._open = False
        self._events.clear()
        self._unacknowledged.clear()
        self._waiting.clear()
        self.owed_bytes = 0
        self._unwatch()
        self._stream.close()
        client = self._client
        client.on_connect = client.on_disconnect = None
        client.take = lambda _topic, _payload, _retained: None
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
            self._disconnect_reason = f"the broker sent DISCONNECT: {code}"

    def _on_message(self, topic: bytes, payload: bytes, retained: bool) -> None:
        try:
            name = topic.decode()
        except UnicodeDecodeError:
            self._listener.on_strange_topic()
            return
        self._listener.on_message(name, payload, retained)

    def _on_puback(self, mid: int, code: ReasonCode) -> None:
        """QoS 1: the broker has answered. QoS 0: the packet is written."""
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
        self._listener.on_suback()

    # -- reading and writing -------------------------------------------------------------------

    def _send(self, message: Message, on_puback: OnPuback | None) -> None:
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        self._unacknowledged[info.mid] = (message, on_puback)

    def _on_readable(self) -> None:
        if not self._reading_soon:
            self._read_and_answer()

    def _read_and_answer(self) -> None:
        self._reading_soon = False
        self._writing_soon = True  # packets of handlers and acknowledgements are written below
        try:
            self._read()
        finally:
            self._write()

    def _read(self) -> None:
        """Read the bytes that have arrived, up to a turn's limits; the rest is read in the next turn."""
        if not self._open:
            return
        stream, clock = self._stream, self._loop.clock
        stream.open_turn(_TURN_BYTES)
        deadline = clock() + _TURN_S
        while True:
            try:
                self._client.loop_read()
            except Exception as error:
                # Only paho runs in the `try`, so the broker sent bytes that paho cannot decode.
                self._listener.on_lost(f"the broker sent bytes that are not MQTT ({type(error).__name__})")
                return
            if not self._settle("the broker closed the connection"):
                return
            if stream.starved:
                return
            if stream.spent or clock() >= deadline:
                self._reading_soon = True
                self._loop.soon(self._read_and_answer)
                return

    def _write_soon(self) -> None:
        """Write in the next turn, together with everything that is gathered until then."""
        if not self._writing_soon:
            self._writing_soon = True
            self._loop.soon(self._write)

    def _write(self) -> None:
        self._writing_soon = False
        if not self._open:
            return
        self._client.loop_write()
        if self._settle("the broker closed the connection"):
            try:
                written = self._stream.flush() and not self._client.want_write()
            except OSError as error:
                self._listener.on_lost(f"the broker closed the connection ({error.strerror or error})")
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
        """Deliver the events. Returns False, after reporting the reason, if the connection is gone."""
        while self._events:
            self._events.popleft()()
        if self._open and self._client.socket() is None:
            error = self._stream.error
            self._listener.on_lost(
                self._disconnect_reason or (why if error is None else f"{why} ({error.strerror or error})")
            )
        return self._open

    def _unwatch(self) -> None:
        """Stop watching, before the stream is closed: the kernel may reuse its number for another socket."""
        self._watch_writer(False)
        self._loop.remove_reader(self._stream.fileno())
