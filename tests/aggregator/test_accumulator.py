import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.plan.parameters import PRESETS, RINGS, CkksParameters
from gridhe.wire.planes import Planes

RINGS_TO_FOLD = [
    *RINGS[:6],
    PRESETS["medium"],
    CkksParameters(4096, (60, 20)),
    CkksParameters(4096, (33, 49, 20)),
]


def random_residues(planes: Planes, rng: np.random.Generator) -> np.ndarray:
    primes = np.array(planes.parameters.primes, np.uint64)[None, :, None]
    return rng.integers(0, primes, planes.shape, np.uint64)


@pytest.mark.parametrize("parameters", RINGS_TO_FOLD, ids=str)
def test_a_fold_is_the_sum_modulo_each_prime(parameters: CkksParameters) -> None:
    planes, rng = Planes(parameters), np.random.default_rng(3)
    accumulator = Accumulator(planes)
    expected = np.zeros(planes.shape, object)
    for _ in range(20):
        residues = random_residues(planes, rng)
        accumulator.fold(planes.views(planes.pack(residues)))
        expected = expected + residues
    primes = np.array(parameters.primes, object)[None, :, None]
    assert np.array_equal(accumulator.residues(), expected % primes)


@pytest.mark.parametrize(
    "parameters", [RINGS[0], CkksParameters(2048, (34, 20)), CkksParameters(4096, (60, 20))], ids=str
)
def test_the_largest_residues_fold_without_overflow_past_every_plane_width(
    parameters: CkksParameters,
) -> None:
    planes = Planes(parameters)
    primes = np.array(parameters.primes, np.uint64)[None, :, None]
    largest = planes.views(planes.pack(np.broadcast_to(primes - np.uint64(1), planes.shape)))
    accumulator, folds = Accumulator(planes), 70_000
    for _ in range(folds):
        accumulator.fold(largest)
    for i, prime in enumerate(parameters.primes):
        assert set(accumulator.residues()[:, i].ravel().tolist()) == {(prime - 1) * folds % prime}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_packing_in_between_changes_nothing(runs: list[int], seed: int) -> None:
    planes, rng = Planes(RINGS[2]), np.random.default_rng(seed)
    straight, packed = Accumulator(planes), Accumulator(planes)
    for run in runs:
        for _ in range(run):
            views = planes.views(planes.pack(random_residues(planes, rng)))
            straight.fold(views)
            packed.fold(views)
        packed = Accumulator(planes, packed.pack())
    assert straight.pack() == packed.pack()


@pytest.mark.parametrize(
    "parameters", [CkksParameters(2048, (34, 20)), CkksParameters(4096, (48, 41, 20))], ids=str
)
def test_a_total_goes_on_folding_exactly_after_it_was_packed(parameters: CkksParameters) -> None:
    planes = Planes(parameters)
    primes = np.array(parameters.primes, np.uint64)[None, :, None]
    largest = planes.views(planes.pack(np.broadcast_to(primes - np.uint64(1), planes.shape)))
    accumulator, folds = Accumulator(planes), 0
    # On both sides of the number of folds up to which one word holds a sum, and packed at each.
    for until in (1, 100, 16_383, 16_384, 16_385, 16_400, 33_000):
        while folds < until:
            accumulator.fold(largest)
            folds += 1
        residues = planes.unpack(accumulator.pack())
        for i, prime in enumerate(parameters.primes):
            assert set(residues[:, i].ravel().tolist()) == {(prime - 1) * folds % prime}
