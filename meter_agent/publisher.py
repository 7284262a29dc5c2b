"""Publishes due batches and statuses in short slices, no faster than the broker acknowledges them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gridhe.base.failpoints import failpoint
from gridhe.broker.client.session import Message
from gridhe.errors import EnvelopeError
from gridhe.meter_agent.outbox import DamagedBatch
from gridhe.wire import topics
from gridhe.wire.envelope import envelope_key, open_envelope
from gridhe.wire.status import Status

if TYPE_CHECKING:
    from gridhe.broker.client.session import Session
    from gridhe.meter_agent.agent import Agent
    from gridhe.meter_agent.feeders import Feeder
    from gridhe.meter_agent.outbox import Outbox, Settled
    from gridhe.wire.credential import DeviceCredential

__all__ = ["MeterUnit", "Publisher"]

_SLICE_S = 0.010
# After a connect, wait for retained plans and statuses: a batch published before the aggregator's
# incarnation is known would be published a second time.
_SETTLE_S = 0.25
_IN_FLIGHT_MAX_BYTES = 64 << 20  # per process: published and not yet acknowledged by the broker


@dataclass(slots=True)
class MeterUnit:
    """One meter of this process."""

    credential: "DeviceCredential"
    agent: "Agent"
    session: "Session | None" = None
    feeder: "Feeder | None" = None
    hold_until_s: float = 0.0  # no publishing before (the loop's clock)
    events: Callable[[], Mapping[str, int]] = field(default=dict)  # of its device, for its status

    @property
    def meter(self) -> str:
        """The meter's name."""
        return self.credential.meter


def _intact(payload: bytes, ingest_key: bytes) -> bool:
    """Whether the envelope opens with this meter's key. Takes some 30 us for 96 KB."""
    try:
        open_envelope(payload, len(payload)).open(envelope_key(ingest_key))
    except EnvelopeError:
        return False
    return True


class Publisher:
    """Publishes for all units of a process."""

    def __init__(
        self,
        units: Sequence[MeterUnit],
        outbox: "Outbox",
        *,
        clock: "Callable[[], float]",
        version: str,
        incarnation: str,
    ) -> None:
        self._units, self._outbox, self._clock = units, outbox, clock
        self._version, self._incarnation = version, incarnation
        self._at = 0  # index of the unit that the next slice starts with
        self._told: dict[str, tuple[int, Mapping[str, int]]] = {}  # last published, by meter
        self._batch_bytes = 0  # the largest payload seen
        self.damaged: list[Settled] = []  # damaged batches; the caller settles and clears them
        self.bytes = 0  # total size of published batches, including resent ones

    def on_connect(self, unit: MeterUnit) -> None:
        """The unit's session is connected: all outstanding batches are due in `_SETTLE_S`."""
        unit.hold_until_s = self._clock() + _SETTLE_S
        unit.agent.hurry()
        self._publish_status(unit, online=True)

    # -- statuses ------------------------------------------------------------------------------

    def _publish_status(self, unit: MeterUnit, *, online: bool) -> None:
        backlog, events = self._state(unit)
        status = Status(
            online=online,
            version=self._version,
            incarnation=self._incarnation,
            backlog=max(0, backlog),
            events=events,
        )
        message = Message(topic=topics.status_meter(unit.meter), payload=status.encode(), retain=True)
        if unit.session is not None and unit.session.publish(message):
            self._told[unit.meter] = backlog, events

    def _state(self, unit: MeterUnit) -> tuple[int, Mapping[str, int]]:
        return self._outbox.backlog(unit.meter), dict(unit.events())

    def publish_changes(self) -> None:
        """Publish the status of every unit whose backlog or events changed since its last status."""
        for unit in self._units:
            if self._told.get(unit.meter) not in (None, self._state(unit)):
                self._publish_status(unit, online=True)

    def publish_offline(self) -> None:
        """Publish that every unit is offline: after a clean DISCONNECT the broker publishes no will."""
        for unit in self._units:
            self._publish_status(unit, online=False)

    # -- batches -------------------------------------------------------------------------------

    def publish(self, now_s: float) -> bool:
        """Publish for one slice, from where the last one stopped. Returns True if more can be sent."""
        until_s = now_s + _SLICE_S
        room: int | None = None
        count = len(self._units)
        for step in range(count):
            at = (self._at + step) % count
            unit = self._units[at]
            session = unit.session
            if session is None or now_s < unit.hold_until_s or not session.writable:
                continue
            for batch in unit.agent.due(now_s):
                # Without room, the next tick tries again: the broker may have acknowledged some by then.
                room = self._room() if room is None else room
                if room <= 0:
                    self._at = at
                    return False
                if not session.writable:
                    break
                try:
                    payload = self._outbox.payload(batch.id)
                except DamagedBatch:
                    payload = b""
                if payload is None:
                    unit.agent.remove(batch.id)
                    continue
                if not _intact(payload, unit.credential.ingest_key):
                    # No aggregator answers a batch that does not open, so it would wait without end.
                    self.damaged.append(unit.agent.set_aside(batch, "damaged"))
                    continue
                topic = topics.batch(unit.credential.group, unit.meter)
                failpoint("meter.4.before")
                if not session.publish(Message(topic=topic, payload=payload)):
                    break
                failpoint("meter.4.after")
                unit.agent.published(batch, now_s)
                self.bytes += len(payload)
                self._batch_bytes = max(self._batch_bytes, len(payload))
                room -= len(payload)
                if self._clock() >= until_s:
                    self._at = at
                    return True
        return False

    def _room(self) -> int:
        """Bytes that may be sent before the broker acknowledges more."""
        sessions = {id(unit.session): unit.session for unit in self._units if unit.session is not None}
        return _IN_FLIGHT_MAX_BYTES - self._batch_bytes * sum(s.in_flight for s in sessions.values())
