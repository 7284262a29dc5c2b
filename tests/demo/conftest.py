"""Small runs without any process: what would be released if all went well."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from gridhe.config.settings import MeterSettings, PlanSettings, QuantitySettings, Settings
from gridhe.demo.proof import ExpectedTotals, Plaintext, plaintext_of_cells
from gridhe.demo.releases import Release, release_of
from gridhe.demo.workload import Workload, from_sample
from gridhe.keyring.release.answers import Answer
from gridhe.keyring.release.policy import Claim
from gridhe.keyring.release.report import record_of
from gridhe.plan.plan import Plan
from gridhe.plan.planner import choose, make_plan
from gridhe.plan.slots import MISSING

DAY_S = 86_400
NOW_S = 20_000 * DAY_S + 12_345.0


def _settings(**quantity: Any) -> Settings:
    quantities = (QuantitySettings(**({"largest": 9_999, "bins": 20} | quantity)),)
    return Settings(plan=PlanSettings(quantities=quantities, minimum_meters=2, small_groups="accepted"))


def _run(*, shift: int = 0, **quantity: Any) -> tuple[Workload, Plan, Plaintext]:
    settings = _settings(**quantity)
    workload = from_sample(
        meters=12, windows=2, groups=4, minimum_meters=2, window_s=DAY_S, interval_s=3600, now_s=NOW_S
    )
    plan = make_plan(settings, choose(settings), authority="a" * 17, key_id="k" * 17, first_window=0)
    plan = replace(plan, quantities=(replace(plan.quantities[0], square_shift=shift),))
    return workload, plan, plaintext_of_cells(workload, plan.quantities[0].largest, MeterSettings())


def _honest_releases(workload: Workload, plan: Plan, plain: Plaintext) -> list[Release]:
    """What a flawless pipeline gives out: made with the plan's own slot layout, not with the oracle."""
    readings = np.where(plain.present, plain.readings, MISSING)
    name = plan.quantities[0].name
    releases = []
    for group, members in workload.members().items():
        for at in range(workload.windows):
            rows = slice(at * workload.intervals, (at + 1) * workload.intervals)
            slots = sum(plan.layout.encode({name: readings[rows, meter]}) for meter in members)
            assert isinstance(slots, np.ndarray)
            blocks = {
                quantity: {kind: values.tolist() for kind, values in kinds.items()}
                for quantity, kinds in plan.layout.split(slots).items()
            }
            answer = Answer(
                blocks={q: {kind: tuple(v) for kind, v in kinds.items()} for q, kinds in blocks.items()},
                withheld={name: ("",) * workload.intervals},
                expected=len(members),
            )
            claim = Claim(
                plan=plan.plan_id, key=plan.key_id, aggregator="main", group=group,
                window=workload.first_window + at, part=0, meters=len(members), members=(), pieces=(),
                content=b"",
            )  # fmt: skip
            releases.append(release_of(record_of(plan, claim, answer, (0.05, 0.5, 0.95))))
    return releases


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallRun:
    """A run and what a flawless pipeline would have released of it."""

    workload: Workload
    plan: Plan
    plain: Plaintext
    releases: list[Release]
    oracle: ExpectedTotals


def _make(**quantity: Any) -> SmallRun:
    workload, plan, plain = _run(**quantity)
    releases = _honest_releases(workload, plan, plain)
    return SmallRun(
        workload=workload,
        plan=plan,
        plain=plain,
        releases=releases,
        oracle=ExpectedTotals(workload, plan, plain),
    )


@pytest.fixture(scope="session")
def small_run() -> SmallRun:
    """Twelve meters in four feeders, two days of 24 hours."""
    return _make()


@pytest.fixture(scope="session")
def shifted_run() -> SmallRun:
    """The same where squares lose their low bits, and without a histogram."""
    return _make(shift=3, statistics=("sum", "mean", "variance"))
