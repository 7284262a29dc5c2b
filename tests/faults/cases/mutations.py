"""With a safeguard removed, a fault case must fail."""

import time
from collections.abc import Callable
from dataclasses import replace

from faults.bad_disk import installed
from faults.cases.disk import aggregator_disk
from faults.cases.flips import flipped_bytes
from faults.cases.kills import SLOW
from faults.mutants import mutated
from faults.options import Options
from faults.outcome import CaseOutcome
from faults.program import ProgramFailed
from gridhe.config.settings import AggregatorSettings, MeterSettings

__all__ = ["MUTANTS", "is_red", "mutants"]


def mutants(options: Options) -> CaseOutcome:
    """Each safeguard removed in turn; it is a fault if no case fails."""
    begun = time.monotonic()
    red: dict[str, str] = {}
    faults = []
    for name, run in MUTANTS.items():
        outcome = run(options)
        noticed = is_red(name, outcome)
        verdict = f"red(lost_{outcome.lost},doubled_{outcome.duplicated})" if noticed else "green"
        if not outcome.passed and outcome.faults:
            options.say(f"{name}: {outcome.faults[0][:300]}")
        options.say(f"{name}: {verdict}")
        red[name] = verdict
        if not noticed:
            faults.append(f"nobody noticed that {name} was switched off")
    return CaseOutcome(
        case="mutants",
        seed=options.seed,
        sent=0,
        accepted=0,
        lost=0,
        duplicated=0,
        released=0,
        recovery_s=0.0,
        faults=tuple(faults),
        figures=red,
        seconds=round(time.monotonic() - begun, 1),
    )


def is_red(name: str, outcome: CaseOutcome) -> bool:
    """Whether the outcome shows the effect of this mutation, and not only a slow run."""
    said = " ".join(outcome.faults)
    if name == "dedup":
        return outcome.duplicated > 0 or "counted twice" in said
    if name == "two-steps":
        return "is damaged" in said
    return outcome.lost > 0 and "did not finish" not in said


def dedup(options: Options) -> CaseOutcome:
    """Without (a): after a killed broker, repeated batches are counted twice."""
    with options.cluster(
        "without-dedup", batches=300, meters=20, whole=True, mutate={"aggregator": "dedup"}, **SLOW
    ) as cluster:
        cluster.start()
        for moment in cluster.moments(3):
            cluster.after(moment)
            cluster.kill_broker()
        return cluster.finish(timeout_s=90, quiet_s=5)


def early_receipt(options: Options) -> CaseOutcome:
    """Without (b): batches with a receipt and without a commit are lost with the process."""
    with options.cluster(
        "early-receipt",
        batches=600,
        meters=20,
        whole=True,
        mutate={"aggregator": "early-receipt"},
        meter=MeterSettings(unreceipted_max=2),
        aggregator=AggregatorSettings(commit_interval_s=1.0, redeliver_s=3.0),
    ) as cluster:
        cluster.start()
        for moment in cluster.moments(4):
            cluster.after(moment)
            cluster.kill_aggregator()
        return cluster.finish(timeout_s=90, quiet_s=5)


def no_outbox(options: Options) -> CaseOutcome:
    """Without (c), the control run: a killed broker without persistence must lose batches."""
    with options.cluster(
        "without-outbox",
        batches=800,
        meters=20,
        whole=True,
        mutate={"fleet": "no-outbox"},
        speed=100.0,
        **SLOW,
    ) as cluster:
        cluster.start()
        cluster.wait(lambda: cluster.sealed() > 40, 60, "sealed batches")
        for _ in range(4):
            cluster.idle(cluster.rng.uniform(0.8, 1.5))
            cluster.kill_broker()
        return cluster.finish(timeout_s=90, quiet_s=5)


def two_steps(options: Options) -> CaseOutcome:
    """Without (d): a crash between totals and members makes them disagree."""
    with options.cluster(
        "two-steps", batches=400, meters=20, whole=True, mutate={"aggregator": "two-steps"}, **SLOW
    ) as cluster:
        cluster.prepare()
        cluster.start_aggregator(fault_point="commit.1.between:2")
        cluster.fleets[0].start()
        cluster.reaches(lambda: not cluster.aggregator.running, 30.0)
        try:
            cluster.kill_aggregator()
            cluster.reaches(lambda: not cluster.aggregator.running, 20.0)
            return cluster.finish(timeout_s=2, quiet_s=2)
        except ProgramFailed as failed:  # it refuses an inconsistent state
            return cluster.outcome([str(failed)])


def no_sync(options: Options) -> CaseOutcome:
    """Without synchronous=FULL: only a power cut detects it."""
    with installed(), mutated("no-sync"):
        return aggregator_disk(replace(options, scale=0.04))


def no_count(options: Options) -> CaseOutcome:
    """Without the second count: a damaged log looks like a shorter one."""
    with mutated("no-count"):
        return flipped_bytes(replace(options, scale=0.05, batches=None))


MUTANTS: dict[str, Callable[[Options], CaseOutcome]] = {
    "dedup": dedup,
    "early-receipt": early_receipt,
    "no-outbox": no_outbox,
    "two-steps": two_steps,
    "no-sync": no_sync,
    "no-count": no_count,
}
