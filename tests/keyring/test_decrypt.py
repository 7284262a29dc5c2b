"""Decryption with real TenSEAL: exact integers, the right noise, nothing else."""

import functools
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tenseal as ts
from numpy.typing import NDArray

from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.custody.ring import embed
from gridhe.errors import EnvelopeError, VaultError
from gridhe.keyring.release.decrypt import Decryptor, Unsound, gaussian, noise_label
from gridhe.plan.guards import Guards, GuardSums, guard_key, home_key
from gridhe.plan.noise import fresh_error_sigma
from gridhe.plan.plan import Plan
from gridhe.plan.planner import choose, make_plan
from gridhe.plan.slots import MISSING
from gridhe.wire.planes import Planes
from gridhe.wire.tenseal_format import from_tenseal, to_tenseal

NOISE_KEY = bytes(range(32))
GUARD_SECRET = bytes(range(100, 132))
HOME_KEY = home_key(GUARD_SECRET)
WINDOW = 7


@functools.cache
def world(flooding_bits: int, ring_degree: int | None = None) -> tuple[Plan, ts.Context, bytes]:
    """A plan of the planner's, the public context and the secret one's bytes."""
    own = {} if ring_degree is None else {"ring_degree": ring_degree, "prime_bits": (40, 14)}
    settings = Settings(
        ckks=CkksSettings.model_validate({"flooding_bits": flooding_bits, **own}),
        plan=PlanSettings(
            largest_group=60,
            largest_rollup=60,
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


def decrypted(decryptor: Decryptor, total: bytes) -> NDArray[np.int64]:
    """The used slots of a total without guards, which `open` would refuse."""
    return decryptor.flood(decryptor.decode(total), total)


def no_sums(plan: Plan, meters: int) -> GuardSums:
    return GuardSums(
        meters=meters, present=np.zeros((1, plan.intervals), np.int64), guards=np.zeros(plan.guards, np.int64)
    )


def sealed_total(
    plan: Plan, context: ts.Context, meters: int
) -> tuple[NDArray[np.int64], GuardSums, NDArray[np.int64]]:
    """The slots of a total, the sums of its members, and the used slots' sum."""
    guards, rng, rows, members = Guards(plan), np.random.default_rng(meters), [], []
    for number in range(meters):
        readings = rng.integers(0, 4001, plan.intervals)
        readings[rng.random(plan.intervals) < 0.2] = MISSING
        used = plan.layout.encode({plan.quantities[0].name: readings})
        key = guard_key(GUARD_SECRET, f"m{number}")
        slots, proof = guards.fill(WINDOW, used, guard_key=key, home_key=HOME_KEY)
        rows.append(slots)
        members.append((key, proof))
    return np.stack(rows), guards.sums(WINDOW, members), np.stack(rows).sum(0)[: plan.layout.used]


@pytest.mark.parametrize(("flooding_bits", "ring_degree"), [(40, None), (0, 2048)])
@pytest.mark.parametrize("meters", [1, 5, 40])
def test_a_total_of_sealed_batches_opens_as_their_sum(
    flooding_bits: int, ring_degree: int | None, meters: int
) -> None:
    plan, context, secret = world(flooding_bits, ring_degree)
    rows, sums, expected = sealed_total(plan, context, meters)
    decryptor = Decryptor(plan, secret, NOISE_KEY, HOME_KEY)
    found = decryptor.open(total_of(plan, context, rows), window=WINDOW, sums=sums)
    np.testing.assert_array_equal(found, expected)


def spoil(kind: str, plan: Plan, slots: NDArray[np.int64]) -> NDArray[np.float64]:
    """The summed slots of five meters with one fault."""
    spoilt, used = slots.astype(np.float64), plan.layout.used
    if kind == "off_grid":
        spoilt[3] += 0.25
    elif kind == "guards":
        spoilt[used] += 1
    elif kind == "tags":
        spoilt[0] += 1
    return spoilt


@pytest.mark.parametrize("check", ["off_grid", "guards", "tags", "presence", "range"])
def test_each_check_refuses_its_fault_and_without_it_the_total_opens(
    check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, context, secret = world(40)
    rows, sums, _ = sealed_total(plan, context, 5)
    decryptor = Decryptor(plan, secret, NOISE_KEY, HOME_KEY)
    whole = Decryptor.decode(decryptor, total_of(plan, context, rows))
    slots = spoil(check, plan, rows.sum(0)) - rows.sum(0) + whole
    if check == "presence":
        present = sums.present.copy()
        present[0, 2] += 1
        sums = replace(sums, present=present)
    elif check == "range":  # by somebody who knows the tags' key
        slots = slots.copy()
        slots[0] += 5 * 4001
        alpha = Guards(plan)._coefficients(WINDOW, HOME_KEY)[0]
        slots[-8:] += (5 * 4001 * alpha) % Guards(plan)._primes
    with pytest.raises(Unsound) as refused:
        decryptor.check(slots, window=WINDOW, sums=sums)
    assert refused.value.check == check
    assert str(refused.value) == f"the decrypted slots fail the check {check!r}"
    checks = Decryptor._checks

    def without(self: Decryptor, *arguments: Any) -> Iterator[tuple[str, bool]]:
        return ((name, failed and name != check) for name, failed in checks(self, *arguments))

    monkeypatch.setattr(Decryptor, "_checks", without)
    decryptor.check(slots, window=WINDOW, sums=sums)  # the mutant takes it


def test_an_imaginary_part_is_off_the_grid() -> None:
    plan, context, secret = world(40)
    rows, sums, _ = sealed_total(plan, context, 5)
    decryptor = Decryptor(plan, secret, NOISE_KEY, HOME_KEY)
    slots = decryptor.decode(total_of(plan, context, rows)).copy()
    decryptor.check(slots, window=WINDOW, sums=sums)
    slots[5] += 0.01j
    with pytest.raises(Unsound, match="off_grid"):
        decryptor.check(slots, window=WINDOW, sums=sums)


@pytest.mark.parametrize(("flooding_bits", "ring_degree"), [(40, None), (0, 2048)])
def test_totals_come_out_as_the_integer_sums(flooding_bits: int, ring_degree: int | None) -> None:
    plan, context, secret = world(flooding_bits, ring_degree)
    rng = np.random.default_rng(1)
    decryptor = Decryptor(plan, secret, NOISE_KEY, HOME_KEY)
    for _ in range(3):
        rows = rng.integers(0, 4001, (20, plan.layout.used))
        found = decrypted(decryptor, total_of(plan, context, rows))
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, rows.sum(axis=0))


def test_rounding_hides_every_draw_of_the_noise() -> None:
    plan, context, secret = world(40)
    rows = np.random.default_rng(2).integers(0, 4001, (5, plan.layout.used))
    total = total_of(plan, context, rows)
    for i in range(20):
        found = decrypted(Decryptor(plan, secret, bytes([i]) * 32, HOME_KEY), total)
        np.testing.assert_array_equal(found, rows.sum(axis=0))


def test_embedding_is_what_evaluating_the_polynomial_at_seals_roots_gives() -> None:
    n = 64
    coefficients = np.random.default_rng(3).normal(size=n)
    powers, power = [], 1
    for _ in range(n // 2):
        powers.append(power)
        power = power * 3 % (2 * n)
    roots = np.exp(1j * math.pi * np.array(powers) / n)
    direct = roots[:, None] ** np.arange(n)[None, :] @ coefficients
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
    np.testing.assert_allclose(found, embed(x).real, atol=20 * error / plan.scale)
    assert 20 * error / plan.scale < 0.05


def test_slot_noise_has_the_standard_deviation_of_n_gaussian_coefficients() -> None:
    n, sigma_f, draws = 1024, 3.0, 400
    slots = np.stack([embed(gaussian(NOISE_KEY, str(i).encode(), n) * sigma_f).real for i in range(draws)])
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
    found = decrypted(Decryptor(plan, secret, NOISE_KEY, HOME_KEY), total)
    assert (found - 21).std() == pytest.approx(100, rel=0.25)


def test_a_total_of_another_key_is_garbage_but_never_a_crash() -> None:
    plan, _, secret = world(40)
    other = ts.context(
        ts.SCHEME_TYPE.CKKS,
        plan.parameters.ring_degree,
        coeff_mod_bit_sizes=list(plan.parameters.prime_bits),
        n_threads=1,
    )
    decryptor = Decryptor(plan, secret, NOISE_KEY, HOME_KEY)
    total = total_of(plan, other, np.ones((2, plan.layout.used), np.int64))
    found = decrypted(decryptor, total)
    assert found.shape == (plan.layout.used,)
    assert np.abs(found).min() > 1000
    with pytest.raises(Unsound) as refused:
        decryptor.open(total, window=WINDOW, sums=no_sums(plan, 2))
    assert refused.value.check == "off_grid"


def test_bytes_that_are_no_ciphertext_of_the_ring_are_refused() -> None:
    plan, _, secret = world(40)
    decryptor = Decryptor(plan, secret, NOISE_KEY, HOME_KEY)
    with pytest.raises(EnvelopeError, match="bytes"):
        decryptor.open(b"short", window=WINDOW, sums=no_sums(plan, 2))
    with pytest.raises(EnvelopeError, match="zero"):
        decryptor.open(bytes(Planes(plan.parameters).size), window=WINDOW, sums=no_sums(plan, 2))
    with pytest.raises(EnvelopeError, match="not below"):
        decryptor.open(b"\xff" * Planes(plan.parameters).size, window=WINDOW, sums=no_sums(plan, 2))


def test_a_context_without_its_secret_key_is_refused() -> None:
    plan, context, _ = world(40)
    public = context.serialize(
        save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    for data in (public, b"junk", b""):
        with pytest.raises(VaultError, match="secret key is not one of"):
            Decryptor(plan, data, NOISE_KEY, HOME_KEY)
