"""SIGKILL for every process of the pipeline."""

from typing import Any

from faults.options import Options
from faults.outcome import CaseOutcome
from gridhe.config.settings import AggregatorSettings, MeterSettings

__all__ = ["SLOW", "aggregator_kills", "commit_points", "everybody_killed"]

# About 80 batches a second, so that the faults of a run happen before its end.
SLOW: dict[str, Any] = {
    "meter": MeterSettings(unreceipted_max=1),
    "aggregator": AggregatorSettings(commit_interval_s=0.4, redeliver_s=3.0),
}

_READY_S = 5.0  # p99 of the time until a killed aggregator is online again

COMMIT_POINTS = (
    "commit.1.before",
    "commit.1.judged",
    "commit.1.closed",
    "commit.1.written",
    "commit.1.after",
    "commit.2.before",
    "commit.2.each",
    "commit.2.after",
)


def everybody_killed(options: Options) -> CaseOutcome:
    """Aggregator, fleet and broker, each `kills` times (5) at random moments of one run."""
    kills = options.count(5)
    with options.cluster("everybody", batches=2_000, meters=40, **SLOW) as cluster:
        cluster.start()
        kinds = ["aggregator", "fleet", "broker"] * kills
        cluster.rng.shuffle(kinds)
        for moment, kind in zip(cluster.moments(len(kinds)), kinds, strict=True):
            cluster.after(moment)
            cluster.idle(cluster.rng.uniform(0, 0.4))
            cluster.say(f"{cluster.settled()} settled: kill -9 {kind}")
            if kind == "aggregator":
                cluster.kill_aggregator()
            elif kind == "fleet":
                cluster.kill_fleet()
            else:
                cluster.kill_broker()
        cluster.figures["kills"] = len(kinds)
        return cluster.finish()


def aggregator_kills(options: Options) -> CaseOutcome:
    """The aggregator `kills` times (50) at random points of 10,000 batches."""
    kills = options.count(50)
    with options.cluster("aggregator-kills", batches=10_000, meters=40) as cluster:
        cluster.start()
        for moment in cluster.moments(kills):
            cluster.after(moment)
            cluster.idle(cluster.rng.uniform(0, 0.4))
            cluster.kill_aggregator()
            cluster.say(f"{cluster.settled()} settled: killed, back after {cluster.recoveries[-1]:.2f} s")
        cluster.figures["kills"] = kills
        return _ready_again(options, cluster.finish())


def commit_points(options: Options) -> CaseOutcome:
    """The aggregator kills itself before, inside and after each numbered step of the commit."""
    points = [failpoint for failpoint in COMMIT_POINTS for _ in range(options.count(2))]
    with options.cluster("commit-points", batches=2_000, meters=40) as cluster:
        cluster.start()
        cluster.rng.shuffle(points)
        hit = 0
        for moment, failpoint in zip(cluster.moments(len(points)), points, strict=True):
            cluster.after(moment // 2)  # a point is only reached with further traffic
            passage = cluster.rng.randrange(2, 5) * (10 if failpoint.endswith("each") else 1)
            cluster.kill_aggregator(fault_point=f"{failpoint}:{passage}")
            died = cluster.reaches(lambda: not cluster.aggregator.running, 20.0)
            hit += died
            cluster.say(
                f"{cluster.settled()} settled: {failpoint}:{passage} {'died' if died else 'not reached'}"
            )
            cluster.kill_aggregator()
        cluster.figures["points_hit"] = f"{hit}/{len(points)}"
        outcome = _ready_again(options, cluster.finish())
        return options.require(outcome, hit == len(points), f"{hit} of {len(points)} points were reached")


def _ready_again(options: Options, outcome: CaseOutcome) -> CaseOutcome:
    """The outcome, with a further fault if a full run's aggregator took too long to restart.

    A short run has too few kills for a p99: one slow start on a busy machine would decide it.
    """
    p99_s = outcome.figures["recovery_p99"]
    return options.require(
        outcome,
        options.scale < 1 or p99_s <= _READY_S,
        f"ready again after {p99_s:.1f} s (p99), not {_READY_S:.0f}",
    )
