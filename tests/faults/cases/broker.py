"""The broker is killed and loses its state."""

from faults.cases.kills import SLOW
from faults.options import Options
from faults.outcome import CaseOutcome

__all__ = ["broker_kills"]

_DRAINED_S = 30.0


def broker_kills(options: Options) -> CaseOutcome:
    """SIGKILL `kills` times (20) and SIGTERM 5 times; without persistence, as Mosquitto's default."""
    return _kills(options, "broker-kills", persistence=False)


def persistent_broker_kills(options: Options) -> CaseOutcome:
    """The same with a broker that saves its state sometimes, and restarts with an old one."""
    return _kills(options, "persistent-broker-kills", persistence=True)


def _kills(options: Options, case: str, *, persistence: bool) -> CaseOutcome:
    kinds = [False] * options.count(20) + [True] * options.count(5)
    with options.cluster(case, batches=6_000, meters=40, persistence=persistence, **SLOW) as cluster:
        cluster.start()
        cluster.rng.shuffle(kinds)
        for moment, gently in zip(cluster.moments(len(kinds)), kinds, strict=True):
            cluster.after(moment)
            cluster.idle(cluster.rng.uniform(0, 0.5))
            cluster.kill_broker(gently=gently, away_s=cluster.rng.choice([0.0, 0.0, 0.5, 2.0]))
            cluster.say(f"{cluster.settled()} settled: {'SIGTERM' if gently else 'SIGKILL'}")
        cluster.figures["kills"] = len(kinds)
        outcome = cluster.finish()
        slowest = max(cluster.drains.taken, default=0.0)
        return options.require(
            outcome,
            not cluster.drains.open and slowest <= _DRAINED_S,
            f"drained after {slowest:.1f} s, not {_DRAINED_S:.0f}; {cluster.drains.open} never",
        )
