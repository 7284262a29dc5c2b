"""A running device as a source of samples: the `Sink` of its driver and the `DeviceSource` of its meter.

    driver --reading--> queue --> dated by `stamps` --> judged by `tracker` --> windows

Readings wait with their arrival in a bounded queue until the meter's windows ask for them. If nothing asks
(no plan yet, a full disk), every second waiting reading is dropped: a register is cumulative, so this costs
detail and no energy. A reading is dated and judged only when the windows take it, so `state()` and the
windows that hold its samples are of the same moment, and are committed together.

While this computer's clock is not believed, readings are not used.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgpack

from gridhe.errors import SourceError, StateError
from gridhe.meter_agent.sources.protocol import Kind, Sample
from gridhe.meter_agent.sources.reading import DeviceReading
from gridhe.meter_agent.sources.stamps import Stamps
from gridhe.meter_agent.sources.tally import Tally
from gridhe.meter_agent.sources.tracker import DIRECTIONS, EVENTS, Tracker

if TYPE_CHECKING:
    from gridhe.meter_agent.sources.driver import Device
    from gridhe.meter_agent.sources.settings import SourceSettings

__all__ = ["LiveDevice", "LiveSource"]

_LOG = logging.getLogger(__name__)
_QUEUE_MAX = 4_096  # readings; about an hour of one a second
_CLOCK = "the device's clock is more than a minute off: readings are dated by this computer's clock"
_AGAIN_S = 5.0
_VERSION = 1


class LiveSource:
    """One meter's device. Also the `Sink` of its driver."""

    def __init__(
        self,
        settings: "SourceSettings",
        *,
        name: str,
        wall: Callable[[], float | None],
        monotonic: Callable[[], float],
    ) -> None:
        """`name` is the driver's; `wall` returns UTC epoch seconds, None while the clock is not believed."""
        self._settings, self.name, self._wall = settings, name, wall
        self._faults = Tally(f"source {name}", monotonic)
        self._news = Tally(f"source {name}", monotonic)
        self._queue: deque[tuple[DeviceReading, float]] = deque()  # with their arrival
        self._ready: deque[Sample] = deque()  # judged, and perhaps not yet taken
        self._was_open = False  # whether the transport was open once
        self._start()

    def _start(self) -> None:
        self._stamps = Stamps(self._settings.clock)
        self._tracker = Tracker(largest_w=self._settings.largest_w)
        self._queue.clear()
        self._ready.clear()
        self._told: Counter[str] = Counter()  # events that are logged

    async def run(self, device: "Device") -> None:
        """Run the driver until cancelled. Raises SourceError if its transport cannot be opened at first."""
        while True:
            try:
                await device.run(self)
                self.lost("its driver ended")
            except SourceError as error:
                if not self._was_open:
                    raise
                self.lost(str(error))
            await asyncio.sleep(_AGAIN_S)

    def direction(self, quantity: str) -> str | None:
        """The direction that a plan's quantity means; None if its name does not say."""
        chosen: str | None = self._settings.quantities.get(quantity)
        if chosen is not None:
            return chosen
        return next((name for name in DIRECTIONS if quantity.startswith(name[:6])), None)

    # -- the driver's Sink ---------------------------------------------------------------------

    def reading(self, reading: DeviceReading, *, arrived_s: float | None = None) -> None:
        """Date a reading and let it wait. One without a register is for the installer's terminal only."""
        if not reading.imported and not reading.exported:
            return
        now_s = self._wall()
        if now_s is None:
            self.fault("no_clock", "this computer's clock is not believed")
            return
        wanted = self._settings.device_id
        if wanted is not None and reading.device != wanted:
            self.fault("other_device", "readings without the equipment id in source.device_id are not used")
            return
        if len(self._queue) >= _QUEUE_MAX:
            self.fault("thinned", "readings wait for the windows too long", len(self._queue) // 2)
            self._queue = deque(list(self._queue)[1::2])  # keeps the last one
        self._queue.append((reading, now_s if arrived_s is None else min(arrived_s, now_s)))

    def fault(self, reason: str, detail: str = "", count: int = 1) -> None:
        """Count what was dropped; log the first of a kind, then at most one line an hour."""
        self._faults.add(reason, f"{reason}: {detail}" if detail else reason, count)

    def opened(self, what: str) -> None:
        """Log that the device is connected."""
        self._was_open = True
        self._news.add("opened", f"connected to {what}", level=logging.INFO)

    def lost(self, why: str) -> None:
        """Log that the device is gone."""
        self._news.add("lost", f"the device is lost, trying again: {why}")

    def bytes_seen(self, count: int, hint: str | None) -> None:
        """For `gridhe-meter probe` only."""

    # -- samples -------------------------------------------------------------------------------

    def samples(self, after_s: float, until_s: float) -> Iterator[Sample]:
        """The samples after `after_s` up to `until_s`, by direction.

        A sample is given again by a later call, unless `after_s` has reached it.
        """
        while self._ready and self._ready[0].at_s <= after_s:
            self._ready.popleft()
        given = 0
        while True:
            if given < len(self._ready):
                if self._ready[given].at_s > until_s:  # a device's clock may be a little ahead
                    return
                yield self._ready[given]
                given += 1
            elif self._queue:
                self._judge(*self._queue.popleft())
            else:
                return

    def _judge(self, reading: DeviceReading, arrived_s: float) -> None:
        at_s = self._stamps.date(reading, arrived_s)
        sample = None if at_s is None else self._tracker.take(reading, at_s)
        self._tell()
        if sample is not None:
            self._ready.append(sample)

    # -- state ---------------------------------------------------------------------------------

    def state(self) -> bytes:
        """The state up to the samples that were given, as msgpack."""
        ready = [[each.at_s, dict(each.values), sorted(each.breaks)] for each in self._ready]
        record = [_VERSION, self._stamps.state(), self._tracker.state(), ready]
        # An id out of JSON may hold lone surrogates.
        packed: bytes = msgpack.packb(record, unicode_errors="surrogatepass")
        return packed

    def restore(self, state: bytes) -> None:
        """Continue from a `state()`; from nothing if it is empty. Raises StateError."""
        self._start()
        if not state:
            return
        try:
            version, stamps, tracker, ready = msgpack.unpackb(state, unicode_errors="surrogatepass")
            if version != _VERSION:
                raise StateError(f"the journal of the device is of version {version}, not {_VERSION}")
            self._stamps.restore(stamps)
            self._tracker.restore(tracker)
            self._ready.extend(
                Sample(at_s=at_s, values=values, breaks=frozenset(breaks)) for at_s, values, breaks in ready
            )
        except StateError:
            raise
        # Damaged bytes can raise any exception, depending on where they are first used.
        except Exception as error:
            raise StateError(f"the journal of the device is damaged ({type(error).__name__})") from None
        self._told = Counter(self.events)

    # -- what operators see --------------------------------------------------------------------

    @property
    def events(self) -> Mapping[str, int]:
        """Count of each event so far, also of earlier processes."""
        return self._tracker.events + self._stamps.events

    def _tell(self) -> None:
        """Log new events."""
        for event, count in (self._tracker.events + self._stamps.events - self._told).items():
            self._told[event] += count
            self._news.add(event, EVENTS.get(event, _CLOCK), count)

    def summary(self) -> dict[str, Any]:
        """Counts of faults and ignored readings, and of events; no readings."""
        ignored = self._tracker.counts + self._stamps.counts
        return {
            "driver": self.name,
            "clock": self._stamps.by,
            "faults": dict(self._faults.counts),
            "ignored": dict(ignored),
            "events": dict(self.events),
        }


class LiveDevice:
    """A LiveSource as the DeviceSource of one plan's quantities."""

    def __init__(self, live: LiveSource, quantities: Mapping[str, str]) -> None:
        """`quantities`: "imported" or "exported" for each quantity that the device measures."""
        self._live, self._quantities = live, quantities

    @property
    def kind(self) -> Kind:
        """Always register."""
        return "register"

    def read(self, after_s: float, until_s: float) -> Iterator[Sample]:
        """New samples."""
        for sample in self._live.samples(after_s, until_s):
            yield Sample(
                at_s=sample.at_s,
                values={
                    name: sample.values[direction]
                    for name, direction in self._quantities.items()
                    if direction in sample.values
                },
                breaks=frozenset(
                    name for name, direction in self._quantities.items() if direction in sample.breaks
                ),
            )

    def ended(self, at_s: float) -> bool:
        """Never."""
        return False

    def state(self) -> bytes:
        """The device's state, for the journal."""
        return self._live.state()
