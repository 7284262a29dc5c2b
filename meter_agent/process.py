"""The process of `gridhe-meter run` and `gridhe-meter fleet`: build the parts, run, clean up."""

import logging
import random
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gridhe import __version__
from gridhe.base.clock import PlausibleClock
from gridhe.base.memory import release_memory
from gridhe.broker.client.loop import EventLoop
from gridhe.errors import CredentialError, EnvelopeError
from gridhe.meter_agent.agent import Agent, AgentCounts
from gridhe.meter_agent.batches import BatchSealer
from gridhe.meter_agent.connections import close_all, connect_each, connect_shared
from gridhe.meter_agent.outbox import DamagedBatch, Outbox
from gridhe.meter_agent.plans import PlanBook
from gridhe.meter_agent.policy import ReadingPolicy
from gridhe.meter_agent.publisher import MeterUnit, Publisher
from gridhe.meter_agent.readings import Readings, SourceOptions
from gridhe.meter_agent.service import MeterService
from gridhe.meter_agent.sources.live import LiveSource
from gridhe.plan.names import FLEET_USER
from gridhe.wire.envelope import open_envelope

if TYPE_CHECKING:
    from gridhe.broker.client.session import Session
    from gridhe.config.settings import Settings
    from gridhe.wire.credential import DeviceCredential

__all__ = ["MeterProcess", "odd_samples"]

_LOG = logging.getLogger(__name__)
_REPORT_S = 5.0
_SETTLED_S = 30.0  # after a start, when the plan is known


class MeterProcess:
    """One process of meters, from start to its summary."""

    def __init__(
        self,
        *,
        credentials: "Sequence[DeviceCredential]",
        state_dir: Path,
        settings: "Settings",
        options: SourceOptions,
        devices: bool,
        connections: Literal["each", "shared"] = "each",
        shared_password: str | None = None,
        stop_when_receipted: bool = False,
        skip_columns: int = 0,
        column: str | None = None,
        trust_clock: bool = False,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        """`on_progress(settled, expected)` is called twice a second.

        `trust_clock`: believe the clock at this start, however long after the last commit.
        """
        self._credentials, self._state_dir, self._settings = credentials, state_dir, settings
        self._options, self._devices = options, devices
        self._connections, self._shared_password = connections, shared_password
        self._stop_when_receipted = stop_when_receipted
        self._skip_columns, self._column = skip_columns, column
        self._on_progress, self._trust_clock = on_progress, trust_clock
        self._agents = AgentCounts()
        self._reported = ""

    def run(self) -> dict[str, Any]:
        """Run until stopped or done. Returns the summary. Raises GridHEError."""
        if not self._credentials:
            raise CredentialError(
                "the credential holds no meter; enrol at least one with gridhe-keyring enrol"
            )
        begun_s = time.monotonic()
        authority = self._credentials[0].authority
        meter_settings = self._settings.meter
        with ExitStack() as stack:
            outbox = stack.enter_context(
                Outbox(self._state_dir, authority=authority, settings=meter_settings)
            )
            loop = stack.enter_context(EventLoop())
            book = PlanBook(self._state_dir / "plans", self._credentials[0].authority_key)
            policy = ReadingPolicy(meter_settings)
            sealer = BatchSealer(book, policy)
            clock = PlausibleClock(known_s=None if self._trust_clock else outbox.known_s)
            units = [self._unit(credential, outbox) for credential in self._credentials]
            unknown = outbox.meters() - {unit.meter for unit in units}
            if unknown:
                _LOG.warning(
                    "the outbox holds batches of %d meters not in this credential (%s): they are not sent",
                    len(unknown),
                    ", ".join(sorted(unknown)[:3]),
                )
            live = self._live(units, clock, loop)
            readings = Readings(
                self._options,
                units=units,
                book=book,
                outbox=outbox,
                policy=policy,
                wall=clock.now,
                monotonic=loop.clock,
                devices=self._devices,
                live=live,
                journal_s=meter_settings.journal_s,
                skip_columns=self._skip_columns,
                column=self._column,
                follow=not self._stop_when_receipted,
            )
            incarnation = secrets.token_hex(8)
            publisher = Publisher(
                units, outbox, clock=loop.clock, version=__version__, incarnation=incarnation
            )
            service = MeterService(
                loop=loop,
                outbox=outbox,
                book=book,
                sealer=sealer,
                publisher=publisher,
                units=units,
                begin=readings.begin,
                clock=clock,
                settings=meter_settings,
                hold_back=self._options.speed is None,
                stop_when_receipted=self._stop_when_receipted,
            )
            sessions = self._connect(service, units, loop, incarnation)
            service.start()
            if live is not None and self._options.live is not None:
                loop.create_task(live.run(self._options.live.device))
            loop.call_later(_SETTLED_S, release_memory)
            loop.every(0.5, lambda: self._progress(readings, service))
            loop.every(_REPORT_S, lambda: self._report(service, readings))
            with loop.on_signals((signal.SIGTERM,), loop.stop):
                try:
                    loop.run()
                finally:
                    service.flush()
                    publisher.publish_offline()
                    close_all(sessions, loop)
            self._progress(readings, service)
            seconds = time.monotonic() - begun_s
            summary = self._summary(service, publisher, policy, sealer, outbox, seconds)
            return summary if live is None else {**summary, "source": live.summary()}

    def _live(self, units: list[MeterUnit], clock: PlausibleClock, loop: EventLoop) -> LiveSource | None:
        """The running device of this process's only meter."""
        opened = self._options.live
        if opened is None:
            return None
        (unit,) = units
        live = LiveSource(opened.settings, name=opened.name, wall=clock.now, monotonic=loop.clock)
        unit.events = lambda: live.events
        return live

    def _unit(self, credential: "DeviceCredential", outbox: Outbox) -> MeterUnit:
        def refill(after: int, limit: int) -> "list[Any]":
            return outbox.waiting(credential.meter, after=after, limit=limit)

        def moved(plan: str, window: int) -> bool:
            try:
                payload = outbox.payload_of(credential.meter, plan, window)
                return (
                    payload is None or open_envelope(payload, len(payload)).header.group != credential.group
                )
            except (DamagedBatch, EnvelopeError):
                return True  # set aside now, as the next send would do

        agent = Agent(
            credential.meter,
            credential.ingest_key,
            self._settings.meter,
            refill=refill,
            rng=random.Random(),  # noqa: S311 - spreads resends, keeps no secret
            counts=self._agents,
            moved=moved,
        )
        return MeterUnit(credential=credential, agent=agent)

    def _connect(
        self, service: MeterService, units: list[MeterUnit], loop: EventLoop, incarnation: str
    ) -> "list[Session]":
        if self._connections == "each":
            return connect_each(
                service, units, self._settings.broker, loop, version=__version__, incarnation=incarnation
            )
        return connect_shared(
            service, units, self._settings.broker, loop, user=FLEET_USER, password=self._shared_password
        )

    def _progress(self, readings: Readings, service: MeterService) -> None:
        if self._on_progress is not None:
            settled = self._agents.receipted + self._agents.refused + service.counts.dropped
            self._on_progress(settled, readings.expected)

    def _report(self, service: MeterService, readings: Readings) -> None:
        """Log the counts if they changed: a log on an SD card is written too."""
        if self._on_progress is not None:
            return
        counts = self._agents
        text = (
            f"sealed {service.counts.sealed}, published {counts.published}, receipted {counts.receipted}"
            f"{'' if readings.expected is None else f' of {readings.expected}'}, refused {counts.refused}, "
            f"resent {counts.resent}, dropped {service.counts.dropped}"
            f"{odd_samples(asdict(service.samples()))}"
        )
        if text != self._reported:
            self._reported = text
            _LOG.info("%s", text)

    def _summary(
        self,
        service: MeterService,
        publisher: Publisher,
        policy: ReadingPolicy,
        sealer: BatchSealer,
        outbox: Outbox,
        seconds: float,
    ) -> dict[str, Any]:
        counts, agents = service.counts, self._agents
        return {
            "meters": len(service.units),
            "sealed": counts.sealed,
            "published": agents.published,
            "receipted": agents.receipted,
            "refused": agents.refused,
            "deferred": agents.deferred,
            "resent": agents.resent,
            "dropped": counts.dropped,
            "repeated": counts.repeated,
            "resealed": counts.resealed,
            "waiting": sum(outbox.backlog(unit.meter) for unit in service.units),
            "bytes": publisher.bytes,
            "ms_per_batch": round(sealer.ms_median, 3),
            "seconds": round(seconds, 3),
            "junk": counts.junk + agents.junk_receipts,
            "readings": policy.counts.as_dict(),
            "samples": asdict(service.samples()),
        }


def odd_samples(samples: Mapping[str, int]) -> str:
    """Irregular samples as text, such as `; samples: 1 breaks, 2 gaps`; empty if there are none."""
    odd = [f"{count} {name}" for name, count in samples.items() if count and name != "samples"]
    return f"; samples: {', '.join(odd)}" if odd else ""
