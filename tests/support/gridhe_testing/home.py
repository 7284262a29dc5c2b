"""A home's devices, which publish to a real broker, and the `mqtt` driver that listens there."""

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from gridhe.broker.client.url import BrokerUrl
from gridhe.meter_agent.sources.mqtt.device import MqttDevice
from gridhe.meter_agent.sources.mqtt.settings import Settings
from gridhe.meter_agent.sources.reading import DeviceReading
from gridhe_testing.recording_sink import RecordingSink

__all__ = ["Heard", "HomeDevices", "HomeSink", "in_loop", "listening"]

P = ParamSpec("P")


def in_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@dataclass(frozen=True, slots=True)
class Heard:
    """What one message gave."""

    readings: list[DeviceReading] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)


class HomeSink(RecordingSink):
    """Also keeps what each message (or HTTP answer) gave, arrivals, and the details of faults."""

    def __init__(self) -> None:
        super().__init__()
        self.details: dict[str, str] = {}
        self.arrivals: list[float | None] = []
        self.messages: list[Heard] = []
        self._now = Heard()

    def reading(self, reading: DeviceReading, *, arrived_s: float | None = None) -> None:
        self.arrivals.append(arrived_s)
        self._now.readings.append(reading)
        super().reading(reading, arrived_s=arrived_s)

    def fault(self, reason: str, detail: str = "", count: int = 1) -> None:
        self.details[reason] = detail
        self._now.faults[reason] += count
        super().fault(reason, detail, count)

    def bytes_seen(self, count: int, hint: str | None) -> None:
        self.messages.append(self._now)
        self._now = Heard()
        super().bytes_seen(count, hint)


class HomeDevices:
    """A client that publishes as devices do; `publish` returns when the broker has the message."""

    def __init__(self, url: str, user: str | None = None, password: str | None = None) -> None:
        where = BrokerUrl.parse(url)
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        if user is not None:
            self._client.username_pw_set(user, password)
        self._client.connect(where.host, where.port)
        self._client.loop_start()

    def publish(self, topic: str, payload: str | bytes, *, retain: bool = False, qos: int = 1) -> None:
        self._client.publish(topic, payload, qos=qos, retain=retain).wait_for_publish(10)

    def __enter__(self) -> "HomeDevices":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@asynccontextmanager
async def listening(
    url: str, sink: RecordingSink, *, wall: Callable[[], float] | None = None, **options: Any
) -> AsyncIterator["asyncio.Task[None]"]:
    """The driver runs; it has subscribed when this begins."""
    opened = len(sink.names)
    settings = Settings(address=url, **options)
    device = MqttDevice(settings) if wall is None else MqttDevice(settings, wall=wall)
    task = asyncio.ensure_future(device.run(sink))
    try:
        await sink.until(lambda: len(sink.names) > opened or task.done())
        if task.done():
            task.result()
        yield task
    finally:
        failed = task.done() and not task.cancelled()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if failed:
            task.result()
