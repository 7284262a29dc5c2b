"""One client's session with the broker, on an EventLoop, from the start to the end of the process.

    waiting --timer--> dialling --TCP, TLS--> CONNECT sent --CONNACK--> connected
     ^                    |                      |                         |
     '------ back-off ----+----------------------+-------------------------'

- The session at the broker persists (clean start off, an expiry on MQTT 5). Filters are still subscribed
  on every connection: a broker that lost its state, or dropped a retained message from a full queue,
  then sends the retained messages again.
- Unacknowledged messages are dropped with the connection. The outbox and the aggregator's state send
  them again, so a second store here would only send duplicates.
- Callbacks may publish, subscribe and close; their exceptions leave `EventLoop.run`.
- If the broker refuses the first connection, `EventLoop.run` raises BrokerError. Later refusals are logged
  and retried, because a broker may be repaired.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Sequence

from paho.mqtt.reasoncodes import ReasonCode

from gridhe.broker.client.certificates import refused_certificate
from gridhe.broker.client.connection import Connection, ConnectOptions, Message, OnPuback
from gridhe.broker.client.loop import EventLoop, PeriodicTimer
from gridhe.broker.client.stream import dial, tls_context
from gridhe.broker.client.url import BrokerUrl
from gridhe.config.settings import BrokerSettings
from gridhe.errors import BrokerError, ConfigError

__all__ = ["Message", "Session"]

_LOG = logging.getLogger(__name__)
_STABLE_S = 10.0  # a connection that lasted this long resets the back-off
_WAITING_MAXIMUM = 20_000  # messages waiting for the broker's window above which publish() returns False
_WRITABLE_BYTES = 4 * 1024 * 1024  # unacknowledged bytes above which `writable` is False
_WARN_EVERY_S = 60.0
_DENIED = ("Bad user name or password", "Not authorized", "Banned", "Bad authentication method")


class Session:
    """A persistent session. After `EventLoop.add` it connects, and reconnects after every loss."""

    def __init__(
        self,
        *,
        settings: BrokerSettings,
        client_id: str,
        username: str | None = None,
        password: str | None = None,
        will: Message | None = None,
        on_message: Callable[[str, bytes], None],
        on_connect: Callable[[bool], None] | None = None,
        subscriptions: Sequence[str] = (),
        rng: random.Random | None = None,
    ) -> None:
        """Check the settings; connect nothing yet.

        `on_message(topic, payload)` and `on_connect(session_present)` are called from `EventLoop.run`;
        `on_connect` after every CONNACK, when SUBSCRIBE is sent but not confirmed. `rng` gives the jitter of
        reconnects. Raises ConfigError for a bad URL, unreadable TLS files, or clear text to another machine.
        """
        if not client_id:
            raise ConfigError("a persistent session needs a client id")
        self.url = BrokerUrl.parse(settings.url)
        self.url.check_secrecy(insecure=settings.insecure)
        self._tls = (
            tls_context(settings.ca_file, settings.client_cert_file, settings.client_key_file)
            if self.url.tls
            else None
        )
        self._settings = settings
        self.client_id = client_id
        self._username, self._password, self._will = username, password, will
        self._on_message, self._on_connect = on_message, on_connect
        self._filters = list(dict.fromkeys(subscriptions))
        self._rng = rng or random.Random()  # noqa: S311 - spreads reconnects, keeps no secret
        self._mqtt5 = settings.protocol != "3.1.1"
        self._loop: EventLoop | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._connected = False
        self._connections = 0
        self._connected_at = 0.0
        self._attempts = 0
        self._timer: asyncio.TimerHandle | None = None  # the next attempt, or the deadline of this one
        self._ticker: PeriodicTimer | None = None
        self._warned_at: float | None = None
        self.refused = 0  # our publishes that the broker answered with an error code (MQTT 5 only)
        self.last_error: str | None = None  # reason of the last failure; None while connected

    # -- for owners ----------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and the connection is up."""
        return self._connected

    @property
    def protocol(self) -> str:
        """The MQTT version in use, or tried next: "5" or "3.1.1"."""
        return "5" if self._mqtt5 else "3.1.1"

    @property
    def in_flight(self) -> int:
        """Messages accepted by `publish` and not yet acknowledged. They are dropped with the connection."""
        return self._connection.in_flight if self._connection is not None else 0

    @property
    def writable(self) -> bool:
        """Whether it is connected and has less than 4 MiB unacknowledged."""
        connection = self._connection
        return self._connected and connection is not None and connection.owed_bytes < _WRITABLE_BYTES

    def publish(self, message: Message, on_puback: OnPuback | None = None) -> bool:
        """Send `message`, or queue it. Returns False, without queuing it, when not connected or full.

        After True the message can still be lost: unacknowledged messages are dropped with the connection.
        `on_puback(accepted)` is called once the broker has answered (in 3.1.1 a broker cannot refuse).
        Raises BrokerError for a message larger than the broker's maximum, because retries cannot help.
        """
        connection = self._connection
        if not self._connected or connection is None or connection.waiting >= _WAITING_MAXIMUM:
            return False
        if message.packet_bytes > connection.packet_maximum:
            raise BrokerError(
                f"{self.url} takes packets of {connection.packet_maximum} bytes and {message.topic} needs "
                f"{message.packet_bytes}; raise the broker's max_packet_size"
            )
        connection.publish(message, on_puback)
        return True

    def subscribe(self, *filters: str) -> None:
        """Subscribe to more filters, now and on every later connection."""
        fresh = [name for name in dict.fromkeys(filters) if name not in self._filters]
        self._filters += fresh
        if self._connected and self._connection is not None:
            self._connection.subscribe(fresh)

    def unreachable(self) -> BrokerError:
        """The error to raise after waiting too long for a connection."""
        return BrokerError(
            f"no broker: {self.last_error or f'no answer from {self.url} yet'}; "
            "start it, or set broker.url to its address"
        )

    def close(self, timeout_s: float = 2.0) -> None:
        """Send all published messages, then DISCONNECT, so that the broker does not send the last will.

        Blocks `timeout_s` at most. Safe to call twice, when not connected, and in a callback.
        """
        if self._connected and self._connection is not None:
            self._connection.disconnect(timeout_s)
        self.detach()

    # -- for the EventLoop -----------------------------------------------------------------------

    def attach(self, loop: EventLoop) -> None:
        """Start to connect on `loop`."""
        self._loop = loop
        self._ticker = loop.every(min(5.0, self._settings.keepalive_s / 10), self._tick)
        self._timer = loop.call_later(0.0, self._begin)

    def detach(self) -> None:
        """Drop the connection without DISCONNECT and do not connect again."""
        self._drop()
        if self._ticker is not None:
            self._ticker.cancel()
        self._loop = None

    def _tick(self) -> None:
        if self._connection is not None:
            self._connection.tick()

    # -- connecting ----------------------------------------------------------------------------

    def _begin(self) -> None:
        loop = self._attached()
        self._set_timer(self._settings.connect_timeout_s, self._too_slow)
        self._dialling = loop.create_task(self._dial(loop))

    async def _dial(self, loop: EventLoop) -> None:
        host = self.url.host
        try:
            addresses = await loop.resolver.resolve(host, self.url.port)
            stream = await dial(loop.asyncio, addresses, self._tls, host)
        except ssl.SSLCertVerificationError as error:
            self._dialling = None
            self._refuse(refused_certificate(self.url, error))
        except OSError as error:
            self._dialling = None
            reason = f"TLS: {error.reason}" if isinstance(error, ssl.SSLError) else error.strerror
            self._failed(f"cannot reach {self.url}: {reason or error}")
        else:
            self._dialling = None
            self._connection = Connection(stream=stream, options=self._options(), loop=loop, listener=self)

    def _options(self) -> ConnectOptions:
        return ConnectOptions(
            client_id=self.client_id,
            username=self._username,
            password=self._password,
            will=self._will,
            mqtt5=self._mqtt5,
            keepalive_s=self._settings.keepalive_s,
            session_expiry_s=self._settings.session_expiry_s,
            receive_maximum=self._settings.receive_maximum,
        )

    def _too_slow(self) -> None:
        self._failed(f"no answer from {self.url} within {self._settings.connect_timeout_s:g} s")

    def _refuse(self, why: str) -> None:
        """Errors that need a configuration change: fatal before the first connection, retried later."""
        if self._connections <= (1 if self._connected else 0):
            self._drop()
            self.last_error = why
            raise BrokerError(why)
        self._failed(why)

    def _failed(self, why: str, *, at_once: bool = False) -> None:
        """Drop this connection or attempt, and try again after a back-off (exponential, with jitter)."""
        loop, settings = self._attached(), self._settings
        was_connected = self._connected
        if was_connected and loop.clock() - self._connected_at >= _STABLE_S:
            self._attempts = 0
        self._drop()
        minimum_s = min(settings.reconnect_min_s, settings.reconnect_max_s)
        cap_s = min(settings.reconnect_max_s, minimum_s * 2.0 ** min(self._attempts + 1, 30))
        wait_s = 0.0 if at_once else self._rng.uniform(minimum_s, cap_s)
        self._attempts += 1
        if was_connected or why != self.last_error:
            _LOG.warning("%s: %s; next attempt in %.1f s", self.client_id, why, wait_s)
        self.last_error = why
        self._set_timer(wait_s, self._begin)

    def _drop(self) -> None:
        self._cancel_timer()
        self._connected = False
        dialling, self._dialling = self._dialling, None
        if dialling is not None:
            dialling.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _set_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._attached().call_later(seconds, callback)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _attached(self) -> EventLoop:
        if self._loop is None:
            raise RuntimeError("this session has no event loop; call EventLoop.add first")
        return self._loop

    # -- for the Connection --------------------------------------------------------------------

    def on_connack(self, code: ReasonCode, session_present: bool) -> None:
        """The broker's answer to CONNECT."""
        if code.is_failure:
            self._denied(str(code))
            return
        self._cancel_timer()
        self._connected = True
        self._connections += 1
        self._connected_at = self._attached().clock()
        self.last_error = None
        state = "kept" if session_present else "new"
        _LOG.info("%s: connected to %s, MQTT %s, session %s", self.client_id, self.url, self.protocol, state)
        if self._connection is not None:
            self._connection.subscribe(self._filters)
        if self._on_connect is not None:
            self._on_connect(session_present)

    def _denied(self, code: str) -> None:
        if code == "Unsupported protocol version":
            self._refused_version()
        elif code in _DENIED:
            self._refuse(
                f"{self.url} refuses user {self._username!r} (client {self.client_id!r}): {code}; "
                "enrol it, and give the broker the password and ACL files of the same enrolment"
            )
        elif code == "Client identifier not valid":
            self._refuse(f"{self.url} refuses the client id {self.client_id!r}; it must be the enrolled name")
        else:  # busy, unavailable or over quota, which may pass
            self._failed(f"{self.url} refuses the connection: {code}")

    def _refused_version(self) -> None:
        """Change to 3.1.1 if the settings allow it. A closed connection does not: it has many causes."""
        if not self._mqtt5:
            self._refuse(f"{self.url} refuses MQTT 3.1.1; set broker.protocol: auto, or 5")
        elif self._settings.protocol == 5:
            self._refuse(f"{self.url} refuses MQTT 5; set broker.protocol: auto, or 3.1.1")
        else:
            self._mqtt5 = False
            self._failed(f"{self.url} refuses MQTT 5, so 3.1.1 is used from now on", at_once=True)

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """A PUBLISH arrived; whether the broker had retained it makes no difference here."""
        self._on_message(topic, payload)

    def on_suback(self) -> None:
        """The broker accepts a SUBSCRIBE."""

    def on_suback_refused(self, code: ReasonCode) -> None:
        """The broker refuses a filter."""
        self._refuse(
            f"{self.url} refuses a subscription of {self.client_id!r}: {code}; check the broker's ACL"
        )

    def on_puback_refused(self, topic: str, code: ReasonCode) -> None:
        """The broker refused a message. It is only counted, because the sender sends it again anyway."""
        self.refused += 1
        self._warn(f"{self.url} refuses messages on {topic}: {code}")

    def on_strange_topic(self) -> None:
        """A message arrived on a topic that is not UTF-8."""
        self._warn("a message was ignored: its topic is not UTF-8")

    def on_lost(self, why: str) -> None:
        """The connection is gone."""
        if self._connected:
            # Mosquitto 2.0 closes without a reason when another client connects with the same id.
            twin = f"; does another client use the id {self.client_id!r}?" if self._attempts >= 3 else ""
            self._failed(f"lost {self.url}: {why}{twin}")
            return
        causes = ["the user is unknown"]
        if self._tls and not self._settings.client_cert_file:
            causes.append("the broker requires a client certificate")
        causes.append(
            "the broker has no MQTT 5 (then set broker.protocol: 3.1.1)"
            if self._mqtt5
            else "this is not an MQTT port"
        )
        self._failed(f"{self.url} does not answer CONNECT: {why}; possible causes: {', or '.join(causes)}")

    def _warn(self, text: str) -> None:
        """Log at most once a minute, because refused messages are sent again and again."""
        now = self._attached().clock()
        if self._warned_at is None or now - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = now
            _LOG.warning("%s: %s", self.client_id, text)
