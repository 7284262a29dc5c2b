"""Decryption with real TenSEAL: exact integers, the right noise, nothing else."""

import functools
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import tenseal as ts
from numpy.typing import NDArray

from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.errors import EnvelopeError, VaultError
from gridhe.keyring.release.decrypt import Decryptor, embed, gaussian, noise_label
from gridhe.plan.noise import fresh_error_sigma
from gridhe.plan.plan import Plan
from gridhe.plan.planner import choose, make_plan
from gridhe.wire.planes import Planes
from gridhe.wire.tenseal_format import from_tenseal, to_tenseal

NOISE_KEY = bytes(range(32))


@functools.cache
def world(flooding_bits: int, ring_degree: int | None = None) -> tuple[Plan, ts.Context, bytes]:
    """A plan of the planner's, the public context and the secret one's bytes."""
    own = {} if ring_degree is None else {"ring_degree": ring_degree, "prime_bits": (40, 14)}
    settings = Settings(
        ckks=CkksSettings.model_validate({"flooding_bits": flooding_bits, **own}),
        plan=PlanSettings(
            largest_group=200,
            largest_rollup=200,
            quantities=(QuantitySettings(largest=4000, statistics=("sum",)),),
        ),
    )
    choice = choose(settings)
    bits = list(choice.parameters.prime_bits)
    context = ts.context(
        ts.SCHEME_TYPE.CKKS, choice.parameters.ring_degree, coeff_mod_bit_sizes=bits, n_threads=1
    )
    secret = context.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    plan = make_plan(settings, choice, authority="a" + "0" * 16, key_id="k" + "0" * 16, first_window=0)
    return plan, context, secret


def encrypt(plan: Plan, context: ts.Context, slots: NDArray[np.int64]) -> NDArray[np.uint64]:
    padded = np.zeros(plan.parameters.slots)
    padded[: len(slots)] = slots
    return from_tenseal(ts.ckks_vector(context, padded, plan.scale).serialize(), plan.parameters)


def total_of(plan: Plan, context: ts.Context, rows: NDArray[np.int64]) -> bytes:
    primes = np.array(plan.parameters.primes, np.uint64)[None, :, None]
    total = np.zeros((2, len(plan.parameters.primes), plan.parameters.ring_degree), np.uint64)
    for row in rows:
        total = (total + encrypt(plan, context, row)) % primes
    return Planes(plan.parameters).pack(total)


@pytest.mark.parametrize(("flooding_bits", "ring_degree"), [(40, None), (0, 2048)])
def test_totals_come_out_as_the_integer_sums(flooding_bits: int, ring_degree: int | None) -> None:
    plan, context, secret = world(flooding_bits, ring_degree)
    rng = np.random.default_rng(1)
    decryptor = Decryptor(plan, secret, NOISE_KEY)
    for _ in range(3):
        rows = rng.integers(0, 4001, (20, plan.layout.used))
        found = decryptor.decrypt(total_of(plan, context, rows))
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, rows.sum(axis=0))


def test_rounding_hides_every_draw_of_the_noise() -> None:
    plan, context, secret = world(40)
    rows = np.random.default_rng(2).integers(0, 4001, (5, plan.layout.used))
    total = total_of(plan, context, rows)
    for i in range(20):
        found = Decryptor(plan, secret, bytes([i]) * 32).decrypt(total)
        np.testing.assert_array_equal(found, rows.sum(axis=0))


def test_embedding_is_what_evaluating_the_polynomial_at_seals_roots_gives() -> None:
    n = 64
    coefficients = np.random.default_rng(3).normal(size=n)
    powers, power = [], 1
    for _ in range(n // 2):
        powers.append(power)
        power = power * 3 % (2 * n)
    roots = np.exp(1j * math.pi * np.array(powers) / n)
    direct = (roots[:, None] ** np.arange(n)[None, :] @ coefficients).real
    np.testing.assert_allclose(embed(coefficients), direct, atol=1e-10)


def monomial_residues(plan: Plan) -> NDArray[np.uint64]:
    """The polynomial X times the scale, uint64[primes][N], in SEAL's NTT form.

    SEAL's transform holds, at index i, the value at psi^(2 * bit_reversed(i) + 1), psi the least primitive
    2N-th root of unity modulo the prime.
    """
    n = plan.parameters.ring_degree
    bits = n.bit_length() - 1
    rows = []
    for prime in plan.parameters.primes:
        some = next(
            root
            for root in (pow(g, (prime - 1) // (2 * n), prime) for g in range(2, 1000))
            if pow(root, n, prime) == prime - 1
        )
        psi = min(pow(some, odd, prime) for odd in range(1, 2 * n, 2))
        powers = [2 * int(f"{i:0{bits}b}"[::-1], 2) + 1 for i in range(n)]
        rows.append([(pow(psi, power, prime) << plan.scale_bits) % prime for power in powers])
    return np.array(rows, np.uint64)


def test_embedding_is_what_a_polynomial_added_to_a_ciphertext_does_to_tenseals_slots() -> None:
    plan, context, secret = world(0, 2048)
    residues = encrypt(plan, context, np.zeros(1, np.int64)).copy()
    residues[0] = (residues[0] + monomial_residues(plan)) % np.array(plan.parameters.primes, np.uint64)[
        :, None
    ]
    vector = to_tenseal(residues, plan.parameters, plan.scale)
    found = np.array(ts.ckks_vector_from(ts.context_from(secret, n_threads=1), vector).decrypt())
    x = np.zeros(plan.parameters.ring_degree)
    x[1] = 1.0
    error = math.sqrt(plan.parameters.ring_degree / 2) * fresh_error_sigma(plan.parameters.ring_degree)
    # A slot's fresh error has Laplace tails (gridhe.plan.noise): 20 sigmas come once in 10^12 slots.
    np.testing.assert_allclose(found, embed(x), atol=20 * error / plan.scale)
    assert 20 * error / plan.scale < 0.05


def test_slot_noise_has_the_standard_deviation_of_n_gaussian_coefficients() -> None:
    n, sigma_f, draws = 1024, 3.0, 400
    slots = np.stack([embed(gaussian(NOISE_KEY, str(i).encode(), n) * sigma_f) for i in range(draws)])
    expected = math.sqrt(n / 2) * sigma_f
    assert slots.std() == pytest.approx(expected, rel=0.01)  # 204,800 numbers
    assert np.abs(slots.std(axis=0) / expected - 1).max() < 0.2  # each slot, 400 numbers
    assert abs(slots.mean()) < 0.02 * expected
    correlation = np.corrcoef(slots[:, :32], rowvar=False) - np.eye(32)
    assert np.abs(correlation).max() < 0.25  # independent: 5 sigmas of 1/sqrt(400)


def test_the_noise_is_normal_and_reaches_as_far_as_normal_noise_does() -> None:
    drawn = gaussian(NOISE_KEY, b"tails", 1_000_001)
    assert len(drawn) == 1_000_001
    assert drawn.mean() == pytest.approx(0, abs=0.005)
    assert drawn.std() == pytest.approx(1, rel=0.005)
    for sigmas in (1, 2, 3):
        share = float(np.mean(np.abs(drawn) > sigmas))
        assert share == pytest.approx(math.erfc(sigmas / math.sqrt(2)), rel=0.05)
    assert 4.2 < np.abs(drawn).max() < 8.7


def test_the_noise_of_a_total_repeats_and_that_of_another_does_not() -> None:
    plan, _, _ = world(40)
    one, other = noise_label(plan, b"one"), noise_label(plan, b"other")
    np.testing.assert_array_equal(gaussian(NOISE_KEY, one, 64), gaussian(NOISE_KEY, one, 64))
    assert not np.array_equal(gaussian(NOISE_KEY, one, 64), gaussian(NOISE_KEY, other, 64))
    assert not np.array_equal(gaussian(NOISE_KEY, one, 64), gaussian(os.urandom(32), one, 64))
    assert noise_label(plan, b"one") != noise_label(replace(plan, key_id="k" + "1" * 16), b"one")


def test_flooding_is_added_before_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, context, secret = world(40)
    total = total_of(plan, context, np.full((3, plan.layout.used), 7, np.int64))
    sigma = math.sqrt(plan.parameters.ring_degree / 2) * plan.flooding_sigma / plan.scale
    assert 0 < sigma < 0.5 / 9.3
    # Noise 100 standard deviations out must show in the integers.
    monkeypatch.setattr(
        "gridhe.keyring.release.decrypt.gaussian", lambda key, label, n: gaussian(key, label, n) * 100 / sigma
    )
    found = Decryptor(plan, secret, NOISE_KEY).decrypt(total)
    assert (found - 21).std() == pytest.approx(100, rel=0.25)


def test_a_total_of_another_key_is_garbage_but_never_a_crash() -> None:
    plan, _, secret = world(40)
    other = ts.context(
        ts.SCHEME_TYPE.CKKS,
        plan.parameters.ring_degree,
        coeff_mod_bit_sizes=list(plan.parameters.prime_bits),
        n_threads=1,
    )
    found = Decryptor(plan, secret, NOISE_KEY).decrypt(
        total_of(plan, other, np.ones((2, plan.layout.used), np.int64))
    )
    assert found.shape == (plan.layout.used,)
    assert np.abs(found).min() > 1000


def test_bytes_that_are_no_ciphertext_of_the_ring_are_refused() -> None:
    plan, _, secret = world(40)
    decryptor = Decryptor(plan, secret, NOISE_KEY)
    with pytest.raises(EnvelopeError, match="bytes"):
        decryptor.decrypt(b"short")
    with pytest.raises(EnvelopeError, match="zero"):
        decryptor.decrypt(bytes(Planes(plan.parameters).size))
    with pytest.raises(EnvelopeError, match="not below"):
        decryptor.decrypt(b"\xff" * Planes(plan.parameters).size)


def test_a_context_without_its_secret_key_is_refused() -> None:
    plan, context, _ = world(40)
    public = context.serialize(
        save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    for data in (public, b"junk", b""):
        with pytest.raises(VaultError, match="not a secret key"):
            Decryptor(plan, data, NOISE_KEY)
