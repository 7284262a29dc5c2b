"""A connection to the home's broker: clean, for reading only, beside the agent's session with its own broker.

The broker forgets it at its end: messages that were queued for it meanwhile would be old readings without
a mark. MQTT 5 is tried first, because it bounds the size of packets; then 3.1.1, in turns while neither
answers.
"""

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable, Sequence

from paho.mqtt.reasoncodes import ReasonCode

from gridhe.broker.client.connection import Connection, ConnectOptions
from gridhe.broker.client.resolver import Resolver
from gridhe.broker.client.stream import dial
from gridhe.broker.client.url import BrokerUrl
from gridhe.errors import BrokerError

__all__ = ["HomeBroker", "Lost", "Refused"]

_CONNECT_S = 10.0
_KEEPALIVE_S = 60
_TICK_S = 5.0
_PACKET_MAX = 256 * 1024
_RECEIVE_MAX = 100
_PASSWORD = ("Bad user name or password", "Not authorized", "Banned", "Bad authentication method")
_OLD = "Unsupported protocol version"

OnMessage = Callable[[str, bytes, bool], None]  # topic, payload, whether the broker had retained it


class Lost(BrokerError):
    """The broker is gone or does not answer. It may come back by itself."""


class Refused(BrokerError):
    """The broker refuses us, or its certificate is not trusted: settings have to change."""


class _Loop:
    """The running asyncio loop, as a Connection uses it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.clock: Callable[[], float] = time.monotonic

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        self._loop.add_reader(fd, callback)

    def remove_reader(self, fd: int) -> None:
        if fd >= 0:
            self._loop.remove_reader(fd)

    def add_writer(self, fd: int, callback: Callable[[], object]) -> None:
        self._loop.add_writer(fd, callback)

    def remove_writer(self, fd: int) -> None:
        if fd >= 0:
            self._loop.remove_writer(fd)

    def soon(self, callback: Callable[[], object]) -> None:
        self._loop.call_soon(callback)


class HomeBroker:
    """The broker at `url`. Each `listen` is one connection."""

    def __init__(
        self, *, url: BrokerUrl, tls: ssl.SSLContext | None, user: str | None, password: str | None
    ) -> None:
        self.url = url
        self._tls, self._user, self._password = tls, user, password
        self._client_id = f"gridhe-{secrets.token_hex(6)}"
        self._mqtt5 = True

    async def listen(
        self, topics: Sequence[str], *, on_open: Callable[[], None], on_message: OnMessage
    ) -> None:
        """Connect, subscribe, and give messages to `on_message` until the connection is lost.

        `on_open` is called once the broker has confirmed the subscriptions. Raises Lost or Refused.
        """
        loop = asyncio.get_running_loop()
        listener = _Listener(loop, str(self.url), on_open, on_message)
        connection: Connection | None = None
        try:
            async with asyncio.timeout(_CONNECT_S):
                connection = await self._connect(loop, listener)
                await listener.accepted
                connection.subscribe(list(topics))
                await listener.subscribed
            on_open()
            while not listener.over.done():
                await asyncio.wait((listener.over,), timeout=_TICK_S)
                connection.tick()
            listener.over.result()
        except TimeoutError:
            raise Lost(f"no answer from {self.url} within {_CONNECT_S:g} s") from None
        except Lost as error:
            if listener.refused_version or (connection is not None and not listener.answered):
                self._mqtt5 = not self._mqtt5
            raise Lost(str(error)) from None
        finally:
            listener.close()
            if connection is not None:
                connection.close()

    async def _connect(self, loop: asyncio.AbstractEventLoop, listener: "_Listener") -> Connection:
        try:
            addresses = await Resolver(loop).resolve(self.url.host, self.url.port)
            stream = await dial(loop, addresses, self._tls, self.url.host)
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"the certificate of {self.url} is not trusted ({error.verify_message}); set ca_file to the "
                "CA of the home's broker, and address to a name in the certificate"
            ) from None
        except OSError as error:
            reason = f"TLS: {error.reason}" if isinstance(error, ssl.SSLError) else error.strerror
            raise Lost(f"cannot reach {self.url}: {reason or error}; check address") from None
        except BrokerError as error:  # no file descriptor is left
            raise Lost(str(error)) from None
        options = ConnectOptions(
            client_id=self._client_id,
            username=self._user,
            password=self._password,
            will=None,
            mqtt5=self._mqtt5,
            keepalive_s=_KEEPALIVE_S,
            session_expiry_s=0,
            receive_maximum=_RECEIVE_MAX,
            incoming_maximum=_PACKET_MAX,
            clean_start=True,
        )
        return Connection(stream=stream, options=options, loop=_Loop(loop), listener=listener)


class _Listener:
    """The connection's events, as futures."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: str,
        on_open: Callable[[], None],
        on_message: OnMessage,
    ) -> None:
        self._url, self._on_message = url, on_message
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.subscribed: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self.answered = False  # the broker, to CONNECT
        self.refused_version = False

    def close(self) -> None:
        for future in (self.accepted, self.subscribed, self.over):
            if future.done() and not future.cancelled():
                future.exception()  # seen
            future.cancel()

    def _fail(self, error: Exception) -> None:
        for future in (self.accepted, self.subscribed, self.over):
            if not future.done():
                future.set_exception(error)

    def on_connack(self, code: ReasonCode, session_present: bool) -> None:
        self.answered = True
        text = str(code)
        if not code.is_failure:
            if not self.accepted.done():
                self.accepted.set_result(None)
        elif text in _PASSWORD:
            self._fail(Refused(f"{self._url} refuses the user ({text}): check user and password_file"))
        else:
            self.refused_version = text == _OLD
            self._fail(Lost(f"{self._url} refuses the connection: {text}"))

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        self._on_message(topic, payload, retained)

    def on_suback(self) -> None:
        if not self.subscribed.done():
            self.subscribed.set_result(None)

    def on_suback_refused(self, code: ReasonCode) -> None:
        self._fail(
            Refused(f"{self._url} refuses the subscription ({code}): allow this user to read the topic")
        )

    def on_puback_refused(self, topic: str, code: ReasonCode) -> None:
        pass

    def on_strange_topic(self) -> None:
        pass

    def on_lost(self, why: str) -> None:
        self._fail(
            Lost(
                f"lost {self._url}: {why}"
                if self.answered
                else f"{self._url} does not answer as a broker: {why}"
            )
        )
