"""Statistics from released integers, against numpy on the readings they were summed from."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gridhe.keyring.release.statistics import FLAGS, IntervalStatistics, statistics_of
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity
from gridhe.plan.slots import MISSING

ALL = ("sum", "mean", "variance", "min", "max", "quantiles")
EDGES = (0, 1, 100, 250, 600, 1001)
PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95)


def plan_with(shift: int = 0, statistics: tuple[str, ...] = ALL, intervals: int = 4) -> Plan:
    edges = EDGES if {"min", "max", "quantiles"} & set(statistics) else ()
    return Plan(
        authority="a0123456789abcdef",
        key_id="k0123456789abcdef",
        first_window=0,
        window_s=900 * intervals,
        interval_s=900,
        quantities=(
            Quantity(
                name="import_wh",
                unit="Wh",
                largest=1000,
                statistics=statistics,
                bin_edges=edges,
                square_shift=shift,
            ),
        ),
        largest_group=100,
        largest_rollup=100,
        minimum_meters=5,
        grace_s=0.0,
        late_s=0.0,
        early_s=0.0,
        horizon_s=0.0,
        parameters=CkksParameters(2048, (40, 14)),
        scale_bits=20,
        flooding_bits=0,
        decryptions=1,
        guard_bits=14,
    )


def blocks_of(plan: Plan, readings: NDArray[np.int64]) -> dict[str, dict[str, list[int]]]:
    """The sums of the slots of int64[meters, intervals], as release sees them."""
    total = sum(
        (plan.layout.encode({"import_wh": row}) for row in readings), np.zeros(plan.layout.used, np.int64)
    )
    return {
        name: {k: v.tolist() for k, v in kinds.items()} for name, kinds in plan.layout.split(total).items()
    }


def first(plan: Plan, blocks: dict[str, dict[str, list[int]]]) -> IntervalStatistics:
    return statistics_of(plan, blocks, probabilities=PROBABILITIES)["import_wh"][0]


def bin_of(value: int) -> tuple[int, int]:
    at = int(np.searchsorted(EDGES, value, side="right")) - 1
    return EDGES[at], EDGES[at + 1] - 1


readings_of_meters = st.lists(
    st.lists(st.one_of(st.just(MISSING), st.integers(0, 1000)), min_size=4, max_size=4),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(rows=readings_of_meters, shift=st.integers(0, 5))
def test_every_statistic_is_numpys_on_the_plaintext(rows: list[list[int]], shift: int) -> None:
    plan = plan_with(shift)
    readings = np.array(rows, np.int64)
    told = statistics_of(plan, blocks_of(plan, readings), probabilities=PROBABILITIES)["import_wh"]
    for i, interval in enumerate(told):
        there = np.sort(readings[:, i][readings[:, i] != MISSING])
        assert interval.flags == ()
        assert interval.sum == there.sum()
        assert interval.present == len(there)
        if not len(there):
            assert (
                interval.mean
                is interval.variance
                is interval.min
                is interval.max
                is interval.quantiles
                is None
            )
            continue
        assert interval.mean == pytest.approx(there.mean(), rel=1e-15)
        assert interval.variance is not None
        off = (2**shift - 1) * there.mean() + (2**shift - 1) * (2**shift - 2) / 6
        assert abs(interval.variance - there.var()) <= off + 1e-9 * max(1.0, there.var())
        assert interval.min == bin_of(there[0])
        assert interval.max == bin_of(there[-1])
        assert interval.quantiles is not None
        for p in PROBABILITIES:
            k = max(1, math.ceil(round(p * len(there), 9)))
            assert interval.quantiles[str(p)] == bin_of(there[k - 1])


def test_squares_with_dropped_bits_come_close_for_ordinary_readings() -> None:
    readings = np.random.default_rng(3).integers(0, 1001, (60, 4))
    exact, coarse = (plan_with(shift) for shift in (0, 4))
    true = readings[:, 0].var()
    assert first(exact, blocks_of(exact, readings)).variance == pytest.approx(true, rel=1e-12)
    assert first(coarse, blocks_of(coarse, readings)).variance == pytest.approx(true, rel=0.01)


def test_a_sum_beyond_2_to_the_53_keeps_its_last_unit() -> None:
    plan = plan_with(statistics=("sum", "mean"), intervals=1)
    blocks = {"import_wh": {"reading": [2**60 + 1], "present": [2**59]}}
    assert first(plan, blocks).sum == 2**60 + 1
    assert first(plan, blocks).mean == 2.0


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        ({"reading": -1}, {"sum_out_of_range", "sum_outside_bins", "squares_impossible"}),
        ({"reading": 10 * 1000 + 1}, {"sum_out_of_range", "sum_outside_bins", "squares_impossible"}),
        ({"reading": 5000}, {"sum_outside_bins", "squares_impossible"}),
        ({"bin:4": 1}, {"bins_do_not_add_up", "sum_outside_bins"}),
        ({"bin:1": 11}, {"bin_out_of_range", "bins_do_not_add_up"}),
        ({"bin:1": 9, "bin:4": 1}, {"sum_outside_bins"}),
        ({"bin:1": -1, "bin:2": 11}, {"bin_out_of_range", "sum_outside_bins"}),
        ({"square": 24999}, {"squares_impossible"}),
        ({"square": 500001}, {"squares_impossible"}),
        ({"square": -1}, {"squares_impossible"}),
    ],
)
def test_what_cannot_be_is_marked_by_name_and_its_sum_still_shown(
    change: dict[str, int], flags: set[str]
) -> None:
    plan = plan_with()
    blocks = blocks_of(plan, np.full((10, 4), 50, np.int64))  # S = 500, Q = 25000, all in bin 1
    assert first(plan, blocks).flags == ()
    for kind, value in change.items():
        blocks["import_wh"][kind][0] = value
    told = first(plan, blocks)
    assert set(told.flags) == flags
    assert flags <= set(FLAGS)
    assert told.sum == blocks["import_wh"]["reading"][0]
    assert (told.variance is None) == ("squares_impossible" in flags)
    assert (told.min is None) == bool(flags & {"bin_out_of_range", "bins_do_not_add_up"})
    others = statistics_of(plan, blocks)["import_wh"][1:]
    assert all(interval.flags == () for interval in others)


@settings(deadline=None)
@given(rows=readings_of_meters, shift=st.integers(0, 6))
def test_possible_squares_are_never_marked(rows: list[list[int]], shift: int) -> None:
    plan = plan_with(shift, statistics=("sum", "variance"))
    told = statistics_of(plan, blocks_of(plan, np.array(rows, np.int64)))["import_wh"]
    assert all(interval.flags == () for interval in told)


def test_a_withheld_interval_gives_nothing_but_its_reason() -> None:
    plan = plan_with()
    blocks = blocks_of(plan, np.full((10, 4), 50, np.int64))
    told = statistics_of(plan, blocks, withheld={"import_wh": ["", "isolates", "", "impossible_count"]})[
        "import_wh"
    ]
    assert [interval.flags for interval in told] == [(), ("isolates",), (), ("impossible_count",)]
    assert told[1] == IntervalStatistics(sum=None, present=None, flags=("isolates",))


def test_a_record_holds_what_the_plan_asks_for() -> None:
    plan = plan_with(statistics=("sum", "mean", "min"))
    told = first(plan, blocks_of(plan, np.full((10, 4), 50, np.int64)))
    assert told.record(plan.quantities[0]) == {
        "sum": 500,
        "present": 10,
        "mean": 50.0,
        "min": [1, 99],
        "flags": [],
    }
