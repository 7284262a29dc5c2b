"""Runs one device at the home's broker: connects, decodes, and reports to the agent."""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from gridhe.base.files import read_private
from gridhe.broker.client.stream import tls_context
from gridhe.broker.client.url import BrokerUrl
from gridhe.errors import ConfigError, CredentialError, SourceError
from gridhe.meter_agent.sources.mqtt.decoder import QUIET_S, Arrival, MessageDecoder
from gridhe.meter_agent.sources.mqtt.home import HomeBroker, Lost, Refused
from gridhe.meter_agent.sources.mqtt.settings import Settings

if TYPE_CHECKING:
    from gridhe.meter_agent.sources.driver import Sink
    from gridhe.meter_agent.sources.settings import SourceSettings

__all__ = ["MqttDevice", "open_device"]

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
_STABLE_S = 60.0  # a connection that lasted this long begins the waits anew
_PASSWORD_MAX = 4_096  # bytes


def open_device(settings: "SourceSettings") -> "MqttDevice":
    """The device of these settings. Raises SourceError for an unusable address, password or CA file."""
    return MqttDevice(cast("Settings", settings))


class MqttDevice:
    """One device's topics at the home's broker."""

    def __init__(self, settings: Settings, *, wall: Callable[[], float] = time.time) -> None:
        """Check the settings; connect nothing yet. `wall` returns UTC epoch seconds. Raises SourceError."""
        self._settings, self._wall = settings, wall
        try:
            url = BrokerUrl.parse(settings.address)
        except ConfigError as error:
            raise SourceError(str(error).replace("broker.url", "source.address")) from None
        if settings.password_file and not (url.tls or url.loopback or settings.insecure):
            raise SourceError(
                f"source.address {url} would send the password in clear over the network; use mqtts://, or "
                "set source.insecure: true in a network that you trust"
            )
        self._broker = HomeBroker(
            url=url,
            tls=_tls(settings.ca_file) if url.tls else None,
            user=settings.user,
            password=_password(settings.password_file),
        )
        self._decoder = MessageDecoder(settings)
        self._reported: Counter[str] = Counter()
        self._heard_s = 0.0  # loop time of the last message
        self._was_open = False
        self._quiet: asyncio.TimerHandle | None = None

    async def run(self, sink: "Sink") -> None:
        """Run until cancelled; see `Device`. A broker that does not answer is tried again, also at first."""
        wait_s = _FIRST_WAIT_S
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                await self._listen(sink)
            except Refused as error:
                if not self._was_open:
                    raise SourceError(str(error)) from None
                sink.lost(str(error))
            except Lost as error:
                sink.lost(str(error))
            if loop.time() - began_s >= _STABLE_S:
                wait_s = _FIRST_WAIT_S
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def _listen(self, sink: "Sink") -> None:
        """One connection."""
        self._decoder.reset()
        topics = self._decoder.topics

        def on_open() -> None:
            self._was_open = True
            named = ", ".join(topics[:3]) + (", ..." if len(topics) > 3 else "")
            sink.opened(f"{self._broker.url}, {named}")

        silence = asyncio.get_running_loop().create_task(self._watch_silence(sink))
        try:
            await self._broker.listen(
                topics,
                on_open=on_open,
                on_message=lambda topic, payload, retained: self._take(sink, topic, payload, retained),
            )
        finally:
            silence.cancel()
            if self._quiet is not None:
                self._quiet.cancel()

    def _take(self, sink: "Sink", topic: str, payload: bytes, retained: bool) -> None:
        loop = asyncio.get_running_loop()
        self._heard_s = loop.time()
        self._give(sink, self._decoder.message(topic, payload, retained=retained, arrived_s=self._wall()))
        sink.bytes_seen(len(payload), self._decoder.waiting_for)
        if self._decoder.gathers:
            if self._quiet is not None:
                self._quiet.cancel()
            self._quiet = loop.call_later(QUIET_S, lambda: self._give(sink, self._decoder.pause()))

    def _give(self, sink: "Sink", arrivals: list[Arrival]) -> None:
        for each in arrivals:
            sink.reading(each.reading, arrived_s=each.arrived_s)
        faults = self._decoder.faults
        if faults != self._reported:
            for reason, count in (faults - self._reported).items():
                sink.fault(reason, self._decoder.details.get(reason, ""), count)
            self._reported = Counter(faults)

    async def _watch_silence(self, sink: "Sink") -> None:
        loop = asyncio.get_running_loop()
        self._heard_s = loop.time()
        while True:
            left_s = self._heard_s + self._settings.silence_s - loop.time()
            if left_s > 0:
                await asyncio.sleep(left_s)
                continue
            sink.fault(
                "silent",
                f"no message on {self._settings.topic} for {self._settings.silence_s:g} s; check the topic's "
                "spelling, that the device is on and publishes, and that this user may read it",
            )
            self._heard_s = loop.time()


def _password(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        text = read_private(Path(path), maximum_bytes=_PASSWORD_MAX).decode()
    except CredentialError as error:
        raise SourceError(f"source.password_file: {error}") from None
    except UnicodeDecodeError:
        raise SourceError(f"source.password_file {path} is not UTF-8 text") from None
    password = text.rstrip("\r\n")
    if not password:
        raise SourceError(f"source.password_file {path} is empty")
    return password


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        return tls_context(ca_file, None, None)
    except ConfigError as error:
        raise SourceError(str(error).replace("broker.ca_file", "source.ca_file")) from None
