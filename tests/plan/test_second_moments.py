"""`tools/second_moments.py` agrees with trying every group of readings."""

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILE = Path(__file__).resolve().parents[2] / "tools" / "second_moments.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("second_moments", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["second_moments"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def released(readings: tuple[int, ...], bins: int, shift: int | None, largest: int) -> tuple[object, ...]:
    edges = [(largest + 1) * i // bins for i in range(bins + 1)]
    histogram = [sum(low <= x < high for x in readings) for low, high in itertools.pairwise(edges)]
    squares = None if shift is None else sum((x >> shift) ** 2 for x in readings)
    return sum(readings), squares, histogram


@pytest.mark.parametrize("shift", [None, 0, 1, 2])
def test_a_group_is_determined_if_no_other_group_has_the_same_numbers(
    tool: ModuleType, shift: int | None
) -> None:
    rng = np.random.default_rng(1)
    seen: set[tuple[bool, bool]] = set()
    for _ in range(250):
        meters, largest = int(rng.integers(1, 6)), int(rng.integers(3, 14))
        bins, step = int(rng.choice([1, 2, 4])), int(rng.choice([1, 1, 2]))
        group = tuple(sorted((rng.integers(0, largest // step + 1, meters) * step).tolist()))
        candidates = itertools.combinations_with_replacement(range(0, largest + 1, step), meters)
        same = [
            other
            for other in candidates
            if released(other, bins, shift, largest) == released(group, bins, shift, largest)
        ]
        expected = len(same) == 1, bool(set.intersection(*map(set, same)))
        verdict = tool.judge(
            np.array(group), tool.Statistics(bins, shift), largest=largest, step=step, limit_s=60.0
        )
        assert verdict.every == expected[0], (group, bins, step, largest, same)
        if shift == 0:
            assert verdict.one == expected[1], (group, bins, step, largest, same)
        else:  # the search gives some groups only
            assert verdict.one >= expected[1], (group, bins, step, largest, same)
        seen.add(expected)
    assert len(seen) == 3  # all determined, one determined, none


def test_the_shipped_readings_of_three_meters_are_often_determined_and_of_ten_never(tool: ModuleType) -> None:
    readings = tool.load(tool.PACKAGED, sum_rows=1, largest=20_000)
    assert readings.shape == (8760, 17)
    every = {}
    for meters in (3, 10):
        rng = np.random.default_rng(0)
        verdicts = [
            tool.judge(
                tool.draw(readings, meters, rng, night=False),
                tool.Statistics(16, 0),
                largest=20_000,
                step=1,
                limit_s=60.0,
            )
            for _ in range(20)
        ]
        every[meters] = sum(verdict.every for verdict in verdicts), sum(verdict.one for verdict in verdicts)
    assert every[3][0] > 5
    assert every[10] == (0, 0)
