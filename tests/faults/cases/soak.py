"""All faults at once, for a given time: random faults of all kinds under a steady stream of batches."""

import signal
import statistics
import time
from collections import Counter

from faults.cluster import Cluster
from faults.options import Options
from faults.outcome import CaseOutcome
from faults.processes import open_files, resident_mb
from faults.program import Program
from faults.proxy import Proxy
from gridhe.config.settings import AggregatorSettings, MeterSettings

__all__ = ["soak"]

_METERS = 40
_FLAT_MB, _FLAT_FILES = (
    1.15,
    3,
)  # limits for the last third of the run: times the first third; files more than it
_SETTLED_S = 6.0  # a process of this age has finished the growth of its start


def soak(options: Options) -> CaseOutcome:
    """One window a second of `minutes`; a fault every few seconds; rotations; every total checked."""
    seconds = max(30, int(options.minutes * 60))
    with options.cluster(
        "soak",
        batches=_METERS * seconds,
        meters=_METERS,
        whole=True,
        fleets=2,
        speed=float(_METERS),  # a window has as many seconds as there are meters
        aggregator=AggregatorSettings(commit_interval_s=0.5, redeliver_s=3.0),
        meter=MeterSettings(),
    ) as cluster:
        cluster.broker.start()
        with Proxy(cluster.broker.port) as proxy:
            cluster.prepare(url=proxy.url)
            cluster.start_aggregator()
            for fleet in cluster.fleets:
                fleet.start()
            watch = _Watch(cluster)
            counts: Counter[str] = Counter()
            begun = time.monotonic()
            while any(fleet.running for fleet in cluster.fleets) and time.monotonic() - begun < seconds * 1.5:
                cluster.idle(cluster.rng.uniform(2.0, 8.0))
                kind = cluster.rng.choices(*zip(*_FAULTS.items(), strict=True))[0]
                _strike(kind, cluster, proxy)
                counts[kind] += 1
                passed_s = time.monotonic() - begun
                cluster.say(f"{passed_s:5.0f} of {seconds} s, {cluster.settled()} settled: {kind}")
            proxy.restore()
            outcome = cluster.finish(timeout_s=300)
            cluster.figures |= {**counts, **watch.figures()}
    return options.require(outcome, watch.flat(), f"not flat: {watch.figures()}")


# Kind -> weight. Restarts are rarer than faults that a process survives, so that growth is visible.
_FAULTS = {
    "kill aggregator": 1.0,
    "kill fleet": 1.0,
    "kill broker": 0.7,
    "stop broker": 0.3,
    "cut": 2.0,
    "reset": 3.0,
    "half-open": 2.0,
    "latency": 2.0,
    "chunks": 1.0,
    "freeze aggregator": 1.0,
    "rotate": 1.0,
}


def _strike(kind: str, cluster: Cluster, proxy: Proxy) -> None:
    rng = cluster.rng
    if kind == "kill aggregator":
        cluster.kill_aggregator()
    elif kind == "kill fleet":
        running = [number for number, fleet in enumerate(cluster.fleets) if fleet.running]
        if running:
            cluster.kill_fleet(rng.choice(running))
    elif kind in ("kill broker", "stop broker"):
        cluster.kill_broker(gently=kind == "stop broker", away_s=rng.choice([0.0, 1.0]))
    elif kind == "reset":
        proxy.reset()
    elif kind == "freeze aggregator":
        cluster.aggregator.signal(signal.SIGSTOP)
        cluster.idle(rng.uniform(0.5, 4.0))
        cluster.aggregator.signal(signal.SIGCONT)
    elif kind == "rotate":
        world = cluster.world
        # 40 s ahead: longer than any outage here, so that every process learns it in time.
        first = max(world.first_window, cluster.backlog.sealed_until_s() // world.window_s) + 40
        if first < world.first_window + world.windows and first > world.key.plan.first_window:
            world.add_key(first)
            cluster.authority.publish()
    else:
        if kind == "cut":
            proxy.cut()
        elif kind == "half-open":
            proxy.silent = True
        elif kind == "latency":
            proxy.latency_s = 0.2
        else:
            proxy.chunk = 64
        cluster.idle(rng.uniform(0.5, 5.0))
        proxy.restore()


class _Watch:
    """Memory and file descriptors of every process, once a second."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._born: dict[int, float] = {}
        self.samples: dict[str, list[tuple[float, int]]] = {}
        cluster.loop.every(1.0, self._look)

    def _look(self) -> None:
        broker = self._cluster.broker.pid
        programs: list[Program] = [self._cluster.aggregator, *self._cluster.fleets]
        pids = {each.name: each.pid for each in programs if each.running}
        if broker is not None:
            pids["broker"] = broker
        now = time.monotonic()
        for name, pid in pids.items():
            if now - self._born.setdefault(pid, now) >= _SETTLED_S:
                used = resident_mb(pid), open_files(pid)
                if used[0] and used[1]:
                    self.samples.setdefault(name, []).append(used)

    def _thirds(self, name: str) -> tuple[tuple[float, float], tuple[float, float]]:
        """Medians of (memory, files) over the first and the last third."""
        samples = self.samples[name]
        third = max(1, len(samples) // 3)
        ends = samples[:third], samples[-third:]
        found = [(statistics.median(m for m, _ in end), statistics.median(f for _, f in end)) for end in ends]
        return found[0], found[1]

    def flat(self) -> bool:
        """Whether memory and files did not grow."""
        for name in self.samples:
            (memory, files), (memory_then, files_then) = self._thirds(name)
            if name != "broker" and (memory_then > memory * _FLAT_MB or files_then > files + _FLAT_FILES):
                return False
        return True

    def figures(self) -> dict[str, str]:
        """Per process: memory and files, first and last third."""
        told = {}
        for name in sorted(self.samples):
            (memory, files), (memory_then, files_then) = self._thirds(name)
            told[name] = f"{memory:.0f}->{memory_then:.0f}MB,{files:.0f}->{files_then:.0f}fd"
        return told
