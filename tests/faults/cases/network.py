"""A bad network between meters, aggregator and broker."""

import time
from collections.abc import Callable
from itertools import pairwise

from faults.cluster import Cluster
from faults.options import Options
from faults.outcome import CaseOutcome
from faults.processes import resident_mb
from faults.proxy import Proxy
from gridhe.config.settings import AggregatorSettings, MeterSettings
from gridhe.plan.parameters import CkksParameters

__all__ = ["network", "reconnect_storm"]

_BACK_S = 10.0
_GROWTH = 0.10


def network(options: Options) -> CaseOutcome:
    """Cuts of 10 and 30 s, half-open, resets, a slow drip, 1-byte chunks, latency, while batches flow."""
    long = options.scale >= 1
    with options.cluster(
        "network",
        batches=3_000,
        meters=20,
        meter=MeterSettings(unreceipted_max=1),
        aggregator=AggregatorSettings(commit_interval_s=0.4, redeliver_s=3.0),
    ) as cluster:
        cluster.broker.start()
        with Proxy(cluster.broker.port) as proxy:
            cluster.prepare(url=proxy.url)
            cluster.start_aggregator()
            cluster.fleets[0].start()
            cluster.after(cluster.world.batches // 20)
            everybody = len(cluster.world.meters) + 1
            cluster.wait(lambda: proxy.open >= everybody, 30, "open connections")
            cluster.after(cluster.world.batches // 10)
            before = _memory(cluster)
            phases: list[tuple[str, float, Callable[[], None]]] = [
                ("cut 10 s", 10 if long else 3, proxy.cut),
                ("reset", 0.1, proxy.reset),
                ("half-open", 10 if long else 3, lambda: setattr(proxy, "silent", True)),
                ("latency", 5 if long else 2, lambda: setattr(proxy, "latency_s", 0.3)),
                ("drip", 8 if long else 2, lambda: _drip(proxy)),
                ("1-byte chunks", 5 if long else 2, lambda: setattr(proxy, "chunk", 1)),
                *([("cut 30 s", 30.0, proxy.cut)] if long else []),
            ]
            for name, seconds, begin in phases:
                begin()
                cluster.idle(seconds)
                proxy.restore()
                restored = time.monotonic()
                cluster.wait(lambda: proxy.open >= everybody, 60, f"reconnect after {name}")
                back_s = time.monotonic() - restored
                settled = cluster.settled()
                cluster.after(settled + 1, 60)
                cluster.recoveries.append(back_s)
                cluster.figures[f"back_after_{name.replace(' ', '_')}"] = round(back_s, 2)
                cluster.say(f"{name}: all connected after {back_s:.2f} s, {settled} settled")
            after = _memory(cluster)
            growth = {name: after[name] / before[name] - 1 for name in before}
            cluster.figures |= {f"growth_{name}": round(share, 3) for name, share in growth.items()}
            outcome = cluster.finish()
    slowest = max(cluster.recoveries)
    outcome = options.require(outcome, slowest <= _BACK_S, f"reconnected after {slowest:.1f} s")
    return options.require(outcome, max(growth.values()) <= _GROWTH, f"memory grew: {growth}")


def _drip(proxy: Proxy) -> None:
    proxy.bytes_per_s, proxy.chunk = 8_000.0, 512


def _memory(cluster: Cluster) -> dict[str, float]:
    return {each.name: resident_mb(each.pid) for each in (cluster.aggregator, cluster.fleets[0])}


def reconnect_storm(options: Options) -> CaseOutcome:
    """1,000 agents cut off at once: how they reconnect, and that all make progress."""
    meters = options.count(1_000)
    with options.cluster(
        "reconnect-storm",
        batches=meters * 3,
        meters=meters,
        whole=True,
        ring=CkksParameters(8192, (48, 41, 20)),  # slots for 1,000 and their guards
        meter=MeterSettings(unreceipted_max=1),
    ) as cluster:
        cluster.broker.start()
        with Proxy(cluster.broker.port) as proxy:
            cluster.prepare(url=proxy.url)
            cluster.start_aggregator()
            cluster.fleets[0].start()
            everybody = meters + 1
            cluster.wait(lambda: proxy.open >= everybody, 120, "open connections")
            proxy.cut()
            cluster.idle(5.0)
            proxy.restore()
            restored = time.monotonic()
            known = len(proxy.accepted)
            cluster.wait(lambda: proxy.open >= everybody, 60, "reconnect of all")
            back_s = time.monotonic() - restored
            cluster.recoveries.append(back_s)
            came = [at - restored for at in proxy.accepted[known:]]
            busiest = max(sum(start <= at < start + 0.1 for at in came) for start in came)
            gap = max(b - a for a, b in pairwise(sorted(came)))
            cluster.figures |= {
                "agents": meters,
                "all_back_s": round(back_s, 2),
                "median_back_s": round(sorted(came)[len(came) // 2], 2),
                "most_in_100ms": busiest,
                "longest_gap_s": round(gap, 2),
            }
            outcome = cluster.finish(timeout_s=200)
    outcome = options.require(outcome, back_s <= _BACK_S, f"the last agent was back after {back_s:.1f} s")
    return options.require(outcome, busiest < meters / 5, f"{busiest} of {meters} within 100 ms: no jitter")
