"""The results of a demo run: as tables, as one JSON object, and as files."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from gridhe.base.output import echo
from gridhe.base.table import print_table
from gridhe.config.settings import MeterSettings
from gridhe.demo.profile import GroupProfile
from gridhe.demo.proof import Proof
from gridhe.demo.workload import Workload
from gridhe.plan.plan import Plan

__all__ = ["DemoOutcome", "as_record", "print_report", "write_profile_csv", "write_record"]

_SHOWN_MAX = 20  # groups in the table; the files have all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOutcome:
    """All results of a run."""

    workload: Workload
    plan: Plan
    broker: str  # its kind, as text for the report
    profiles: Mapping[str, GroupProfile]
    proof: Proof
    policy_counts: Mapping[str, int]
    policies: MeterSettings
    batches_sent: int
    batches_folded: int
    duplicates: int
    rejected: int
    refused: int  # totals that the release policy refused
    bytes_per_batch: float
    seal_ms_per_batch: float  # median: encode, guards, encrypt, envelope
    total_ms_per_batch: float | None  # from the fleet's start to the last release; None in real time
    seconds: float


def as_record(outcome: DemoOutcome) -> dict[str, Any]:
    """The run as one object, for --json and report.json."""
    workload, plan, proof = outcome.workload, outcome.plan, outcome.proof
    return {
        "exact": proof.exact,
        "batches_sent": outcome.batches_sent,
        "batches_folded": outcome.batches_folded,
        "duplicates": outcome.duplicates,
        "rejected": outcome.rejected,
        "totals_expected": proof.expected,
        "totals_released": proof.released,
        "refused": outcome.refused,
        "missing": len(proof.missing),
        "mismatches": len(proof.mismatches),
        "withheld_intervals": proof.withheld,
        "integers_compared": proof.integers,
        "statistics_compared": proof.statistics,
        "seconds": round(outcome.seconds, 3),
        "meters": len(workload.meters),
        "windows": workload.windows,
        "intervals": workload.intervals,
        "readings_from": workload.origin,
        "readings": dict(outcome.policy_counts),
        "broker": outcome.broker,
        "plan": plan.plan_id,
        "ring_degree": plan.parameters.ring_degree,
        "prime_bits": list(plan.parameters.prime_bits),
        "bytes_per_batch": round(outcome.bytes_per_batch),
        "seal_ms_per_batch": round(outcome.seal_ms_per_batch, 3),
        "total_ms_per_batch": None
        if outcome.total_ms_per_batch is None
        else round(outcome.total_ms_per_batch, 3),
        "groups": [_group_record(profile) for profile in outcome.profiles.values()],
        "faults": [*proof.missing[:50], *proof.mismatches[:50]],
    }


def _group_record(profile: GroupProfile) -> dict[str, Any]:
    when, peak_kw = profile.peak
    return {
        "group": profile.group,
        "meters": profile.meters,
        "windows": profile.windows,
        "energy_kwh": round(profile.energy_kwh, 3),
        "peak_at": when.isoformat(),
        "peak_kw": round(peak_kw, 6),
        "mean": None if math.isnan(profile.mean) else round(profile.mean, 6),
        "spread": None if profile.spread is None else round(profile.spread, 6),
        "min_bin": profile.lowest_bin,
        "max_bin": profile.highest_bin,
        "unit": profile.quantity.unit,
    }


def write_record(path: Path, outcome: DemoOutcome) -> None:
    """Write the run as JSON."""
    path.write_text(json.dumps(as_record(outcome), indent=2) + "\n", encoding="utf-8")


def write_profile_csv(path: Path, profiles: Sequence[GroupProfile]) -> None:
    """Write every group's load, from released numbers only: one row per group and interval."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        unit = profiles[0].quantity.unit if profiles else "Wh"
        header = "time_utc group meters present sum load_kw mean spread min_bin_from max_bin_to"
        measured = {"sum", "mean", "spread", "min_bin_from", "max_bin_to"}
        writer.writerow([f"{name}_{unit}" if name in measured else name for name in header.split()])
        for profile in profiles:
            spread, extremes = profile.spread_per_interval, profile.extremes()
            mean = profile.mean_per_interval
            for at, when in enumerate(profile.times):
                writer.writerow(
                    (
                        when.isoformat(),
                        profile.group,
                        profile.meters,
                        int(profile.present[at]),
                        int(profile.sums[at]),
                        f"{profile.load_kw[at]:.6g}",
                        _cell(mean[at]),
                        "" if spread is None else _cell(spread[at]),
                        "" if extremes is None else _cell(extremes[0][at]),
                        "" if extremes is None else _cell(extremes[1][at]),
                    )
                )


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def print_report(outcome: DemoOutcome, outputs: Sequence[Path], to: TextIO) -> None:
    """Print the tables: groups, the proof, what a batch costs, and where the files are."""
    _print_groups(outcome, to)
    _print_proof(outcome, to)
    _print_costs(outcome, to)
    echo(to=to)
    for path in outputs:
        echo(f"wrote {path}", to=to)
    proof = outcome.proof
    verdict = "true" if proof.exact else "FALSE"
    echo(f"\nexact: {verdict}  ({proof.expected} totals, {outcome.seconds:.1f} s)", to=to)


def _print_groups(outcome: DemoOutcome, to: TextIO) -> None:
    profiles = list(outcome.profiles.values())
    shown = profiles if len(profiles) <= _SHOWN_MAX else profiles[-_SHOWN_MAX:]
    rows = []
    for profile in shown:
        when, peak_kw = profile.peak
        step = "%d %b %H:%M:%S" if profile.interval_s < 60 else "%d %b %H:%M"
        spread = "" if profile.spread is None else f" ± {profile.spread:,.0f}"
        energy_kwh = profile.energy_kwh
        rows.append(
            (
                profile.group,
                f"{profile.meters:,}",
                str(profile.windows),
                f"{energy_kwh:,.1f}" if energy_kwh >= 100 else f"{energy_kwh:,.3f}",
                f"{when:{step}}",
                f"{peak_kw:,.1f}",
                f"{profile.mean:,.0f}{spread}",
                _bin(profile.lowest_bin),
                _bin(profile.highest_bin),
            )
        )
    unit = outcome.plan.quantities[0].unit
    title = f"Released totals: {outcome.workload.origin}"
    if len(shown) < len(profiles):
        title += f" (the {len(shown)} widest of {len(profiles)} groups; load_profile.csv has all)"
    header = [
        "group",
        "meters",
        "windows",
        "kWh",
        "peak (UTC)",
        "peak kW",
        f"mean {unit}",
        "min bin",
        "max bin",
    ]
    echo(to=to)
    print_table(title, header, rows, to=to)


def _bin(bin_: tuple[int, int] | None) -> str:
    return "" if bin_ is None else f"{bin_[0]:,}-{bin_[1]:,}"


def _print_proof(outcome: DemoOutcome, to: TextIO) -> None:
    proof = outcome.proof
    counts = outcome.policy_counts
    odd = {name: count for name, count in counts.items() if count and name != "good"}
    rows = [
        ["totals released", f"{proof.released:,} of {proof.expected:,}"],
        ["integers compared with ==", f"{proof.integers:,}"],
        ["means, variances, bins, quantiles recomputed", f"{proof.statistics:,}"],
        ["mismatches", str(len(proof.mismatches))],
        ["missing", str(len(proof.missing))],
        ["refused by the release policy", str(outcome.refused)],
        ["batches sent / folded", f"{outcome.batches_sent:,} / {outcome.batches_folded:,}"],
        ["duplicates / rejected", f"{outcome.duplicates:,} / {outcome.rejected:,}"],
        ["readings as they came", f"{counts.get('good', 0):,}"],
        *([_odd(name, outcome.policies), f"{count:,}"] for name, count in odd.items()),
    ]
    if proof.withheld:
        rows.append(["intervals withheld (too few present)", f"{proof.withheld:,}"])
    echo(to=to)
    print_table(
        "Proof: released integers against the plaintext, which only this demo has",
        ["what", "count"],
        rows,
        to=to,
    )
    for fault in [*proof.missing, *proof.mismatches][:10]:
        echo(f"  {fault}", to=to)


def _odd(name: str, policies: MeterSettings) -> str:
    """A label for a kind of odd readings, with its policy, such as `readings too large (clip)`."""
    policy = getattr(policies, f"on_{name}", "missing")
    return f"readings {name.replace('_', ' ')}" + ("" if name == "absent" else f" ({policy})")


def _print_costs(outcome: DemoOutcome, to: TextIO) -> None:
    plan = outcome.plan
    ring = f"ring {plan.parameters.ring_degree} {list(plan.parameters.prime_bits)}"
    rows = [
        ["on the wire", f"{outcome.bytes_per_batch:,.0f} bytes"],
        ["sealing on the meter, median", f"{outcome.seal_ms_per_batch:.2f} ms"],
    ]
    if outcome.total_ms_per_batch is not None:
        rows.append(["all processes, fleet's start to last release", f"{outcome.total_ms_per_batch:.2f} ms"])
    echo(to=to)
    readings = outcome.workload.intervals
    print_table(
        f"One batch ({readings} readings of one meter; {ring}; broker: {outcome.broker})",
        ["what", "cost"], rows, to=to,
    )  # fmt: skip
