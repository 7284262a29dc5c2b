"""Noise: formulas against numbers worked out by hand, and against TenSEAL's own errors."""

import functools
import hashlib
import math

import numpy as np
import pytest
import tenseal as ts
from numpy.typing import NDArray

from gridhe.custody.ring import embed
from gridhe.keyring.release.decrypt import gaussian
from gridhe.plan.noise import (
    FLOODING_TAIL,
    FRESH_TAIL,
    flooding_sigma,
    fresh_error_sigma,
    slot_error_bound,
    slot_error_sigma,
    slot_failure_log2,
)
from gridhe.plan.parameters import RINGS, CkksParameters
from gridhe.wire.tenseal_format import from_tenseal, to_tenseal

# The rings of the design's table, and the two the planner has beside them.
FOUR = [RINGS[0], RINGS[1], RINGS[2], RINGS[5]]
SCALE = 2.0**24
POOL = 48


@functools.cache
def pool_of(parameters: CkksParameters) -> tuple[ts.Context, NDArray[np.uint64], NDArray[np.float64]]:
    """A context, the residues [POOL][2][primes][N] of encrypted zeros, and each one's error [POOL][N/2]."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        parameters.ring_degree,
        coeff_mod_bit_sizes=list(parameters.prime_bits),
        n_threads=1,
    )
    vectors = [ts.ckks_vector(context, [0.0] * parameters.slots, SCALE) for _ in range(POOL)]
    residues = np.stack([from_tenseal(vector.serialize(), parameters) for vector in vectors])
    errors = np.stack([np.array(vector.decrypt()) for vector in vectors]) * SCALE
    return context, residues, errors


@pytest.mark.parametrize("parameters", [*FOUR, RINGS[3], RINGS[4]], ids=str)
def test_the_error_of_fresh_ciphertexts_is_the_predicted_one_within_15_percent(
    parameters: CkksParameters,
) -> None:
    _, _, errors = pool_of(parameters)
    assert errors.std() == pytest.approx(slot_error_sigma(parameters.ring_degree, 1), rel=0.15)


@pytest.mark.parametrize("parameters", FOUR, ids=str)
def test_the_error_of_a_sum_of_40_is_the_predicted_one_within_15_percent(parameters: CkksParameters) -> None:
    context, residues, _ = pool_of(parameters)
    primes = np.array(parameters.primes, np.uint64)[:, None]
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(12):
        total = residues[rng.permutation(POOL)[:40]].sum(axis=0) % primes  # 40 * 2^48 < 2^64
        vector = ts.ckks_vector_from(context, to_tenseal(total, parameters, SCALE))
        errors.append(np.array(vector.decrypt()) * SCALE)
    assert np.std(errors) == pytest.approx(slot_error_sigma(parameters.ring_degree, 40), rel=0.15)


@pytest.mark.parametrize("parameters", FOUR, ids=str)
def test_repro_a_slots_error_has_the_tails_of_a_laplace_variable_not_of_a_normal_one(
    parameters: CkksParameters,
) -> None:
    _, _, errors = pool_of(parameters)
    sigma = slot_error_sigma(parameters.ring_degree, 1)
    # Normal would give 0.0027 and 0.00006; the good and the bad slots of one key share it out very unevenly.
    for sigmas in (3, 4):
        share = float(np.mean(np.abs(errors) > sigmas * sigma))
        assert share == pytest.approx(math.exp(-sigmas * math.sqrt(2)), rel=0.6)
    by_slot = errors.std(axis=0) / sigma
    assert by_slot.max() > 2.0, "some slots are far worse than the mean"
    assert np.median(by_slot) < 0.95, "and most are better"
    assert np.abs(errors).max() < slot_error_bound(parameters.ring_degree, 1)


@pytest.mark.parametrize("flooding_bits", [20, 40])
def test_flooding_moves_slots_by_the_predicted_error_within_15_percent(flooding_bits: int) -> None:
    n, meters, decryptions = 4096, 1000, 2**18
    per_coefficient = flooding_sigma(n, meters, flooding_bits, decryptions)
    labels = [hashlib.sha256(bytes([i])).digest() for i in range(20)]
    noise = np.stack([embed(gaussian(bytes(32), label, n)).real for label in labels]) * per_coefficient
    # Beside the flooding the ciphertexts' own error is nothing.
    assert noise.std() == pytest.approx(slot_error_sigma(n, meters, per_coefficient), rel=0.15)
    assert noise.std(axis=0).max() < 1.8 * noise.std(), "alike in every slot"
    assert np.abs(noise).max() < slot_error_bound(n, meters, per_coefficient)


def test_the_fresh_error_per_coefficient_is_the_number_worked_out_by_hand() -> None:
    # N = 2048: (1 + 2 * 2048 / 3) / 12 = 113.8611; N = 4096: 227.6389
    assert fresh_error_sigma(2048) == pytest.approx(10.67057, abs=1e-4)
    assert fresh_error_sigma(4096) == pytest.approx(15.08771, abs=1e-4)
    assert slot_error_sigma(4096, 1) == pytest.approx(15.08771 * math.sqrt(2048), rel=1e-5)


def test_the_flooding_is_the_number_worked_out_by_hand() -> None:
    # 2^20 * sqrt(12 * 2^18) * 15.08771 * sqrt(1000) = 1048576 * 1773.6200 * 477.115
    assert flooding_sigma(4096, 1000, 40, 2**18) == pytest.approx(8.87318e11, rel=1e-4)
    assert flooding_sigma(4096, 1000, 0, 2**18) == 0.0
    assert flooding_sigma(4096, 4000, 40, 2**18) == pytest.approx(2 * flooding_sigma(4096, 1000, 40, 2**18))
    assert flooding_sigma(4096, 1000, 42, 2**18) == pytest.approx(2 * flooding_sigma(4096, 1000, 40, 2**18))
    assert flooding_sigma(4096, 1000, 40, 2**20) == pytest.approx(2 * flooding_sigma(4096, 1000, 40, 2**18))


def test_both_tails_are_below_two_to_the_minus_65() -> None:
    assert math.exp(-math.sqrt(2) * FRESH_TAIL) < 2.0**-65
    assert math.erfc(FLOODING_TAIL / math.sqrt(2)) < 2.0**-65


@pytest.mark.parametrize("flooding", [0.0, 1.0, 100.0, 1e9])
def test_at_the_bound_the_failure_probability_is_just_below_two_to_the_minus_64(flooding: float) -> None:
    bound = slot_error_bound(2048, 9, flooding)
    assert -66 < slot_failure_log2(bound, 2048, 9, flooding) < -64
    assert slot_failure_log2(2 * bound, 2048, 9, flooding) < -128
    # far out, where erfc has underflowed
    assert -math.inf < slot_failure_log2(100 * bound, 2048, 9, flooding) < -6400


def test_the_normal_tail_has_no_step_where_its_asymptote_takes_over() -> None:
    flooding = 1e9
    room = slot_error_bound(2048, 1, flooding) * 20 / FLOODING_TAIL  # 20 standard deviations
    before, after = (slot_failure_log2(room * factor, 2048, 1, flooding) for factor in (1 - 1e-9, 1 + 1e-9))
    assert before == pytest.approx(after, abs=0.01)


def test_measured_laplace_and_normal_errors_keep_to_the_failure_probability() -> None:
    # At a bound of about 2^-5, where failures can be counted: fresh error alone, then with as much flooding.
    rng = np.random.default_rng(6)
    n, count = 2048, 1_000_000
    sigma = slot_error_sigma(n, 1)
    for flooding in (0.0, fresh_error_sigma(n)):
        errors = rng.laplace(scale=sigma / math.sqrt(2), size=count) + rng.normal(
            size=count
        ) * flooding * math.sqrt(n / 2)
        for room in (3 * sigma, 5 * sigma):
            share = float(np.mean(np.abs(errors) > room))
            assert math.log2(share) < slot_failure_log2(room, n, 1, flooding) + 0.1
