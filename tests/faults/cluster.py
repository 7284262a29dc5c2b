"""A whole grid in processes, with methods to kill and restart them.

Broker, aggregator and fleets are processes; the authority and the oracle run here, on the cluster's loop,
which turns whenever the cluster waits for something.
"""

import json
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from faults.authority import Authority
from faults.backlog import Backlog, Drains
from faults.oracle import Oracle
from faults.outcome import CaseOutcome
from faults.program import Program, ProgramFailed
from faults.world import World
from gridhe.broker.client.loop import EventLoop
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import AggregatorSettings, BrokerSettings, MeterSettings

__all__ = ["Cluster"]

_WATCH_S = 0.05
_DRAIN_S = 0.2
_READY_MOST_S = 30.0
FLEET, AGGREGATOR = "gridhe.meter_agent.cli", "gridhe.aggregator.cli"


class Cluster:
    """Use as a context manager. `start`, then `after`, `kill_...`, then `finish` for the outcome."""

    def __init__(
        self,
        world: World,
        *,
        case: str,
        seed: int,
        say: Callable[[str], None] = lambda line: None,
        fleets: int = 1,
        persistence: bool = False,
        meter: MeterSettings | None = None,
        aggregator: AggregatorSettings | None = None,
        broker: BrokerSettings | None = None,
        broker_conf: BrokerSettings | None = None,
        connections: str = "each",
        mutate: dict[str, str] | None = None,
        listens_to: tuple[str, ...] = (),
        on_message: Callable[[str, bytes], None] | None = None,
        device: bool = False,
        speed: float | None = None,
    ) -> None:
        """`mutate` maps a program's name to the safeguard that is removed from it (faults.mutants).

        `speed`: simulated seconds per second; default: as fast as receipts arrive. `device`: one meter runs
        as `gridhe-meter run`, with samples and a journal, in the last fleet's place.
        """
        self.world, self.case, self.seed, self.say = world, case, seed, say
        self.rng = random.Random(seed)
        self._fleets, self._connections, self._device = fleets, connections, device
        self._speed = "max" if speed is None else f"{speed:g}"
        self._mutate = mutate or {}
        self.oracle = Oracle(world)
        self.backlog = Backlog(world.folder, [f"fleet{number}" for number in range(fleets)])
        self.drains = Drains(self.backlog)
        self.recoveries: list[float] = []
        self.figures: dict[str, Any] = {}
        self._begun = time.monotonic()
        self.meter_settings = meter or MeterSettings(unreceipted_max=2)
        self.aggregator_settings = aggregator or AggregatorSettings(commit_interval_s=0.3, redeliver_s=3.0)
        self.broker_settings = broker or BrokerSettings()
        self.broker = EmbeddedBroker(
            world.folder / "broker",
            prefer="mosquitto",
            persistence=persistence,
            settings=broker_conf or self.broker_settings,
        )
        self._listens_to, self._on_extra = listens_to, on_message
        self.loop = EventLoop()
        self.fleets: list[Program] = []
        self.aggregator: Program
        self.authority: Authority

    # -- life --------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in [*self.fleets, *([self.aggregator] if hasattr(self, "aggregator") else [])]:
            program.signal(signal.SIGCONT)
            program.kill()
        self.loop.close()
        self.broker.stop()

    def prepare(self, *, url: str | None = None) -> None:
        """Broker and authority, and everything written that the processes read; none of them started yet."""
        self.broker.start()
        broker = self.broker_settings.model_copy(update={"url": url or self.broker.url})
        own = self.broker_settings.model_copy(update={"url": self.broker.url, "reconnect_max_s": 0.5})
        settings = self.world.settings.model_copy(
            update={"broker": broker, "meter": self.meter_settings, "aggregator": self.aggregator_settings}
        )
        self.world.write(settings)
        folder = self.world.folder
        self.authority = Authority(
            self.world, self.oracle, self.loop, own, listens_to=self._listens_to, on_message=self._on_extra
        )
        self.loop.every(_DRAIN_S, self.drains.look)
        if not self.loop.run_until(lambda: self.authority.session.connected, _READY_MOST_S):
            raise ProgramFailed(f"no broker: {self.authority.session.last_error}")
        arguments = [
            "--credential",
            "aggregator.json",
            "--state-dir",
            "aggregator",
            "--config",
            "gridhe.yaml",
        ]
        self.aggregator = Program(
            "aggregator",
            AGGREGATOR,
            [*arguments, "--no-live"],
            folder,
            mutation=self._mutate.get("aggregator"),
        )
        for number in range(self._fleets):
            self.fleets.append(self._fleet(number))

    def _fleet(self, number: int) -> Program:
        world, folder = self.world, self.world.folder
        mine = world.meters[number :: self._fleets]
        name = f"fleet{number}"
        common = [
            "--state-dir", name, "--config", "gridhe.yaml", "--source", "replay", "--csv", "meters.csv",
            "--windows", str(world.windows), "--start", str(world.start_s), "--speed", self._speed, "--json",
        ]  # fmt: skip
        if self._device and number == self._fleets - 1:
            # A single device, with samples, windows and a journal.
            world.device(mine[0]).save(folder / f"{name}.json")
            arguments = ["run", "--credential", f"{name}.json", *common]
        else:
            if self._device:
                devices = world.meters[self._fleets - 1 :: self._fleets][:1]
                mine = [m for m in world.meters if m not in devices][number :: self._fleets - 1]
            world.write_fleet(name, mine)
            arguments = [
                "fleet",
                "--credentials",
                f"{name}.json",
                "--connections",
                self._connections,
                *common,
            ]
        return Program(name, FLEET, arguments, folder, mutation=self._mutate.get("fleet"))

    def start(self) -> None:
        """Start all processes; return when the aggregator is online and the fleets run."""
        self.prepare()
        self.start_aggregator()
        for fleet in self.fleets:
            fleet.start()

    def start_aggregator(self, *, fault_point: str | None = None) -> float:
        """Start it and wait until it says that it is online; the seconds that took."""
        begun = time.monotonic()
        known = len(self.authority.online_at)
        self.aggregator.start(fault_point=fault_point)
        self.wait(
            lambda: len(self.authority.online_at) > known or not self.aggregator.running,
            _READY_MOST_S,
            "the aggregator online",
        )
        return time.monotonic() - begun

    # -- waiting -----------------------------------------------------------------------------------

    def wait(self, predicate: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Run the loop until the condition is true. Raises ProgramFailed at the timeout."""
        if not self.reaches(predicate, timeout_s):
            logs = "".join(p.tail(5) for p in [self.aggregator, *self.fleets])
            raise ProgramFailed(f"{self.case}, seed {self.seed}: no {what} within {timeout_s:.0f} s{logs}")

    def reaches(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Run the loop until the condition is true or the timeout; return whether it is."""
        with self._ticking():
            return self.loop.run_until(predicate, timeout_s)

    def idle(self, seconds: float) -> None:
        """Run the loop for this time."""
        with self._ticking():
            self.loop.run_until(lambda: False, seconds)

    @contextmanager
    def _ticking(self) -> Iterator[None]:
        tick = self.loop.every(_WATCH_S, lambda: None)  # so that the condition is checked regularly
        try:
            yield
        finally:
            tick.cancel()

    # -- how far things are ------------------------------------------------------------------------

    def sealed(self) -> int:
        """Batches that ever reached an outbox."""
        return self.backlog.sealed()

    def waiting(self) -> int:
        """Batches in outboxes without a receipt."""
        return self.backlog.waiting()

    def settled(self) -> int:
        """Batches that were receipted (or refused)."""
        return self.backlog.settled()

    def after(self, batches: int, timeout_s: float = 120.0) -> None:
        """Wait until this many batches are settled, or no more can come."""
        self.wait(
            lambda: self.settled() >= batches or not any(fleet.running for fleet in self.fleets),
            timeout_s,
            f"{batches} settled batches",
        )
        for fleet in self.fleets:
            fleet.check()

    def moments(self, count: int) -> list[int]:
        """This many random points of the run, in batches, ascending; none in the last twentieth."""
        return sorted(self.rng.randrange(self.world.batches * 19 // 20) for _ in range(count))

    # -- faults ------------------------------------------------------------------------------------

    def kill_aggregator(self, *, fault_point: str | None = None) -> None:
        """SIGKILL, restart, and measure the time until it is online."""
        self.aggregator.kill()
        self.recoveries.append(self.start_aggregator(fault_point=fault_point))

    def kill_fleet(self, number: int = 0, *, fault_point: str | None = None) -> None:
        """SIGKILL and start again."""
        fleet = self.fleets[number]
        if fleet.running:
            fleet.kill()
        fleet.start(fault_point=fault_point)

    def kill_broker(self, *, gently: bool = False, away_s: float = 0.0) -> None:
        """SIGKILL (or SIGTERM) and start again after a while.

        From then on the cluster measures how long it takes until the batches that wait now have receipts: the
        recovery time. If the broker is killed again, the measurement starts again.
        """
        if gently:
            self.broker.stop()
        else:
            self.broker.kill()
        if away_s:
            self.idle(away_s)
        marks = self.backlog.newest()
        self.broker.start()
        self.drains.begin(marks)

    # -- the end -----------------------------------------------------------------------------------

    def finish(
        self, *, timeout_s: float = 300.0, quiet_s: float = 10.0, expect_all: bool = True
    ) -> CaseOutcome:
        """Wait until every batch is settled and released, stop, and return the outcome.

        It stops waiting after `quiet_s` without a total, which is longer than the aggregator's `redeliver_s`.
        """
        self.reaches(lambda: not any(f.running or self._revive(f) for f in self.fleets), timeout_s)
        unfinished = [f"{f.name} did not finish in {timeout_s:.0f} s" for f in self.fleets if f.running]
        for fleet in self.fleets:
            if fleet.running:
                fleet.stop()
            fleet.check()
        wanted = self.world.batches

        def done() -> bool:
            everything = self.oracle.held() >= wanted and all(
                self.oracle.held(group) >= len(self.world.members(group)) * self.world.windows
                for group in self.oracle.groups
            )
            return everything or time.monotonic() - self.authority.last_total_at > quiet_s

        self.authority.last_total_at = time.monotonic()
        self.reaches(done, timeout_s)
        self.idle(0.3)
        code = self.aggregator.stop()
        faults = [*unfinished, *self.oracle.faults]
        if code not in (0, -signal.SIGKILL):
            faults.append(f"the aggregator ended with {code}{self.aggregator.tail()}")
        return self.outcome(faults, expect_all=expect_all)

    def _revive(self, fleet: Program) -> bool:
        """Restart a fleet that a fault point has killed; return whether it was killed."""
        if fleet.exit_code == -signal.SIGKILL:
            fleet.start()
            return True
        return False

    def outcome(self, faults: Sequence[str] = (), *, expect_all: bool = True) -> CaseOutcome:
        """The outcome of the run."""
        lost = self.oracle.lost() if expect_all else []
        doubled = self.oracle.duplicated()
        if lost:
            self.say(f"lost: {lost[:8]}")
        if doubled:
            self.say(f"duplicated: {doubled[:8]}")
        for fault in faults[:8]:
            self.say(f"fault: {fault}")
        slowest = max([*self.recoveries, *self.drains.taken], default=0.0)
        for name, taken in (("recovery", self.recoveries), ("drained", self.drains.taken)):
            if taken:
                self.figures[f"{name}_p50"] = round(_percentile(taken, 0.5), 2)
                self.figures[f"{name}_p99"] = round(_percentile(taken, 0.99), 2)
        self.figures["load"] = round(os.getloadavg()[0], 1)  # of the whole machine: figures are only as good
        return CaseOutcome(
            case=self.case,
            seed=self.seed,
            sent=self.world.batches,
            accepted=self.oracle.held(),
            lost=len({(m, w) for _, m, w in lost}),
            duplicated=len({(m, w) for _, m, w in doubled}),
            released=len(self.oracle.totals),
            recovery_s=round(slowest, 3),
            rejected=self.rejected(),
            faults=tuple(faults),
            figures=self.figures,
            seconds=round(time.monotonic() - self._begun, 1),
        )

    def rejected(self) -> dict[str, int]:
        """The aggregator's rejects by reason, as far as each process had logged them."""
        counts: Counter[str] = Counter()
        latest: dict[str, int] = {}
        for line in _lines(self.aggregator.log):
            if line.get("event") == "progress":
                now = {str(reason): int(count) for reason, count in (line.get("rejected") or {}).items()}
                if sum(now.values()) < sum(latest.values()):
                    counts.update(latest)
                latest = now
        counts.update(latest)
        return dict(counts)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
