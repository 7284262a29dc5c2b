"""Slots: what is encoded adds up, block by block, to what a slow reading of the plan says."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe.errors import PlanError
from gridhe.plan.quantity import Quantity
from gridhe.plan.slots import MISSING, SlotLayout

ALL = ("sum", "mean", "variance", "min", "max", "quantiles")


def slow_blocks(quantity: Quantity, meters: list[list[int]]) -> dict[str, list[int]]:
    """The sums of every block over meters' readings, one reading at a time."""
    intervals = len(meters[0])
    sums = {kind: [0] * intervals for kind in ("reading", "present", "square")}
    edges = list(itertools.pairwise(quantity.bin_edges))
    for number in range(len(edges)):
        sums[f"bin:{number}"] = [0] * intervals
    for readings in meters:
        for i, reading in enumerate(readings):
            if reading == -1:
                continue
            sums["reading"][i] += reading
            sums["present"][i] += 1
            sums["square"][i] += (reading // 2**quantity.square_shift) ** 2
            for number, (low, high) in enumerate(edges):
                if low <= reading < high:
                    sums[f"bin:{number}"][i] += 1
    if "variance" not in quantity.statistics:
        del sums["square"]
    return sums


@st.composite
def quantities(draw: st.DrawFn) -> tuple[Quantity, ...]:
    found = []
    for number in range(draw(st.integers(1, 3))):
        largest = draw(st.integers(2, 5_000))
        statistics = draw(st.lists(st.sampled_from(ALL), min_size=1, unique=True))
        edges: tuple[int, ...] = ()
        if {"min", "max", "quantiles"} & set(statistics):
            inner = draw(st.sets(st.integers(1, largest), min_size=1, max_size=6))
            edges = (0, *sorted(inner), largest + 1)
        found.append(
            Quantity(
                name=f"q{number}",
                unit="Wh",
                largest=largest,
                statistics=tuple(statistics),
                bin_edges=edges,
                square_shift=draw(st.integers(0, 4)),
            )
        )
    return tuple(found)


@given(quantities(), st.data())
@settings(max_examples=150, deadline=None)
def test_encoded_batches_add_up_to_the_sums_of_every_block(
    wanted: tuple[Quantity, ...], data: st.DataObject
) -> None:
    intervals, meters = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    layout = SlotLayout(wanted, intervals)
    readings = {
        q.name: [
            data.draw(
                st.lists(
                    st.one_of(
                        st.just(-1),
                        st.sampled_from(
                            sorted({0, q.largest, *q.bin_edges[:-1], *(e - 1 for e in q.bin_edges[1:])})
                        ),
                        st.integers(0, q.largest),
                    ),
                    min_size=intervals,
                    max_size=intervals,
                )
            )
            for _ in range(meters)
        ]
        for q in wanted
    }
    total = sum(
        layout.encode({q.name: np.array(readings[q.name][meter], np.int64) for q in wanted})
        for meter in range(meters)
    )
    assert total.dtype == np.int64
    covered = []
    for q in wanted:
        expected = slow_blocks(q, readings[q.name])
        assert list(layout.kinds(q)) == [k for k in expected if k != "square"][:2] + (
            ["square"] if "square" in expected else []
        ) + [k for k in expected if k.startswith("bin:")]
        for kind, sums in expected.items():
            assert total[layout.block(q.name, kind)].tolist() == sums, (q, kind)
            covered.extend(range(*layout.block(q.name, kind).indices(layout.used)))
        assert {kind: block.tolist() for kind, block in layout.split(total)[q.name].items()} == expected
    assert covered == list(range(layout.used)), "every slot belongs to one block, in the documented order"


@pytest.fixture
def layout() -> SlotLayout:
    first = Quantity(name="a", unit="W", largest=10, statistics=ALL, bin_edges=(0, 4, 11))
    return SlotLayout((first, Quantity(name="b", unit="W", largest=3, statistics=("sum",))), 2)


def test_the_order_of_the_slots_is_the_documented_one(layout: SlotLayout) -> None:
    slots = layout.encode({"a": np.array([5, MISSING]), "b": np.array([0, 3])})
    assert slots.tolist() == [5, 0, 1, 0, 25, 0, 0, 0, 1, 0, 0, 3, 1, 1]


def test_a_quantity_that_is_not_given_is_missing_throughout(layout: SlotLayout) -> None:
    assert layout.encode({}).tolist() == [0] * 14
    assert layout.encode({"b": np.array([1, 2])}).tolist() == [0] * 10 + [1, 2, 1, 1]


@pytest.mark.parametrize("reading", [-2, 11, 2**40, -(2**62), 2**63 - 1])
def test_a_reading_outside_its_range_is_refused(layout: SlotLayout, reading: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.10"):
        layout.encode({"a": np.array([1, reading])})


@pytest.mark.parametrize(
    "readings", [np.zeros(1, np.int64), np.zeros(3, np.int64), np.zeros((2, 1), np.int64)]
)
def test_a_wrong_number_of_readings_is_refused(layout: SlotLayout, readings: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected 2 readings"):
        layout.encode({"a": readings})


def test_an_unknown_quantity_is_refused(layout: SlotLayout) -> None:
    with pytest.raises(ValueError, match=r"no quantity \['c'\]"):
        layout.encode({"c": np.zeros(2, np.int64)})


@pytest.mark.parametrize("readings", [np.array([1.5, 2.0]), np.array([np.nan, 1.0]), np.array([True, False])])
def test_repro_readings_that_are_no_integers_are_refused_and_not_cut_to_one(
    layout: SlotLayout, readings: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="must be integers"):
        layout.encode({"a": readings})


def test_splitting_another_number_of_slots_is_refused(layout: SlotLayout) -> None:
    with pytest.raises(PlanError, match="expected 14 slots"):
        layout.split(np.zeros(13, np.int64))


def test_a_block_the_plan_does_not_have_is_a_key_error(layout: SlotLayout) -> None:
    with pytest.raises(KeyError):
        layout.block("b", "square")
