"""Ring arithmetic against Python's integers, and decoding against TenSEAL, for every listed ring."""

import functools
import hashlib
import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tenseal as ts
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gridhe.custody.ring import Ring, embed, ring_of
from gridhe.custody.secret import secret_of
from gridhe.plan.parameters import PRESETS, RINGS, CkksParameters
from gridhe.wire.tenseal_format import from_tenseal

ALL = tuple(dict.fromkeys((*RINGS, *PRESETS.values())))
SMALL = CkksParameters(2048, (40, 14))
WIDE = PRESETS["medium"]  # 60-bit primes


def draw(ring: Ring, seed: int) -> NDArray[np.uint64]:
    """Uniform residues uint64[primes][N], with the extremes first."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, prime, ring.n, dtype=np.uint64) for prime in ring.primes]
    for row, prime in zip(rows, ring.primes, strict=True):
        row[:4] = 0, 1, prime - 1, prime // 2
    return np.stack(rows)


@pytest.mark.parametrize("parameters", ALL, ids=str)
def test_products_are_those_of_integers(parameters: CkksParameters) -> None:
    ring = ring_of(parameters)
    a, b = draw(ring, 1), draw(ring, 2)
    b[:, :4] = b[:, 3::-1]
    product = ring.mul(a, b)
    for row, prime in enumerate(ring.primes):
        expected = [int(x) * int(y) % prime for x, y in zip(a[row], b[row], strict=True)]
        assert product[row].tolist() == expected


@settings(max_examples=200, deadline=None)
@given(data=st.data(), parameters=st.sampled_from((SMALL, RINGS[3], WIDE)))
def test_sums_negatives_and_products_near_the_primes_are_exact(
    data: st.DataObject, parameters: CkksParameters
) -> None:
    ring = ring_of(parameters)
    a, b = draw(ring, 3), draw(ring, 4)
    for row, prime in enumerate(ring.primes):
        near = st.one_of(st.integers(0, 3), st.integers(prime - 3, prime - 1), st.integers(0, prime - 1))
        a[row, 0], b[row, 0] = data.draw(near), data.draw(near)
    for row, prime in enumerate(ring.primes):
        x, y = int(a[row, 0]), int(b[row, 0])
        assert ring.mul(a, b)[row, 0] == x * y % prime
        assert ring.add(a, b)[row, 0] == (x + y) % prime
        assert ring.negate(a)[row, 0] == -x % prime


@pytest.mark.parametrize("parameters", ALL, ids=str)
def test_the_inverse_transform_undoes_the_transform(parameters: CkksParameters) -> None:
    ring = ring_of(parameters)
    a = draw(ring, 5)
    assert np.array_equal(ring.intt(ring.ntt(a)), a)
    assert np.array_equal(ring.ntt(ring.intt(a)), a)


@pytest.mark.parametrize("parameters", [SMALL, RINGS[3], WIDE], ids=str)
def test_products_of_transforms_are_products_modulo_x_to_the_n_plus_1(parameters: CkksParameters) -> None:
    ring, rng = ring_of(parameters), random.Random(6)
    a = draw(ring, 7)
    few = {at: rng.randrange(-(2**20), 2**20) for at in (0, 1, 2, ring.n - 1)}  # a sparse second factor
    b = np.zeros(ring.n, np.int64)
    for at, value in few.items():
        b[at] = value
    found = ring.intt(ring.mul(ring.ntt(a), ring.ntt(ring.lift(b))))
    for row, prime in enumerate(ring.primes):
        for k in (0, 1, 7, ring.n // 2, ring.n - 1):
            expected = sum(
                value * int(a[row, (k - at) % ring.n]) * (1 if k >= at else -1) for at, value in few.items()
            )
            assert found[row, k] == expected % prime


@pytest.mark.parametrize("parameters", ALL, ids=str)
def test_centred_integers_of_53_bits_come_out_exact(parameters: CkksParameters) -> None:
    ring, rng = ring_of(parameters), random.Random(8)
    bits = min(53, parameters.modulus.bit_length() - 2)
    integers = [rng.randrange(-(2**bits) + 1, 2**bits) for _ in range(ring.n - 5)]
    integers += [0, 1, -1, 2**bits - 1, -(2**bits) + 1]
    residues = np.array([[value % prime for value in integers] for prime in ring.primes], np.uint64)
    assert ring.centred(residues).tolist() == integers


@pytest.mark.parametrize("parameters", ALL, ids=str)
def test_centred_integers_of_any_size_are_right_to_the_stated_bits(parameters: CkksParameters) -> None:
    ring, rng = ring_of(parameters), random.Random(9)
    half = parameters.modulus // 2
    integers = [rng.randrange(-half, half + 1) for _ in range(ring.n - 2)] + [half, -half]
    residues = np.array([[value % prime for value in integers] for prime in ring.primes], np.uint64)
    for found, value in zip(ring.centred(residues).tolist(), integers, strict=True):
        assert abs(int(found) - value) <= abs(value) >> (50 if len(ring.primes) <= 3 else 47)


def by_definition(parameters: CkksParameters, indices: list[int]) -> list[list[int]]:
    """The values of the polynomial sum (i^2 + 7 row) X^i at these indices of SEAL's order, by Horner."""
    n = parameters.ring_degree
    bits, out = n.bit_length() - 1, []
    for row, prime in enumerate(parameters.primes):
        some = next(
            root
            for root in (pow(base, (prime - 1) // (2 * n), prime) for base in range(2, 1000))
            if pow(root, n, prime) == prime - 1
        )
        psi = min(pow(some, odd, prime) for odd in range(1, 2 * n, 2))
        values = []
        for index in indices:
            at, value = pow(psi, 2 * int(f"{index:0{bits}b}"[::-1], 2) + 1, prime), 0
            for i in range(n - 1, -1, -1):
                value = (value * at + i * i + 7 * row) % prime
            values.append(value)
        out.append(values)
    return out


@pytest.mark.parametrize("parameters", [SMALL, RINGS[3], WIDE], ids=str)
def test_the_transform_is_seals_by_definition(parameters: CkksParameters) -> None:
    ring = ring_of(parameters)
    i = np.arange(ring.n, dtype=np.int64)
    coefficients = np.stack([(i * i + 7 * row) % prime for row, prime in enumerate(ring.primes)])
    found = ring.ntt(coefficients.astype(np.uint64))
    indices = [0, 1, 2, 3, ring.n // 2, ring.n - 1]
    assert found[:, indices].tolist() == by_definition(parameters, indices)


def test_golden_transform() -> None:
    ring = ring_of(RINGS[3])
    i = np.arange(ring.n, dtype=np.int64)
    coefficients = np.stack([(i * i + 7 * row) % prime for row, prime in enumerate(ring.primes)])
    digest = hashlib.sha256(ring.ntt(coefficients.astype(np.uint64)).astype("<u8").tobytes()).hexdigest()
    assert digest == "74422954b4eba0a02bbd57639cee3c47bce5fa22c6a0e9441bf5f28448c6b5a1"


@functools.cache
def tenseal_world(parameters: CkksParameters) -> tuple[Any, NDArray[np.uint64]]:
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        parameters.ring_degree,
        coeff_mod_bit_sizes=list(parameters.prime_bits),
        n_threads=1,
    )
    private = context.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return context, secret_of(private, parameters)


@pytest.mark.parametrize("parameters", ALL, ids=str)
def test_decoding_gives_tenseals_numbers_and_small_imaginary_parts(parameters: CkksParameters) -> None:
    context, secret = tenseal_world(parameters)
    scale = 2.0 ** min(30, parameters.prime_bits[0] - 12)
    numbers = np.random.default_rng(10).integers(-1000, 1000, parameters.slots).astype(float)
    vector = ts.ckks_vector(context, numbers.tolist(), scale)
    slots = ring_of(parameters).decode(from_tenseal(vector.serialize(), parameters), secret, scale)
    assert slots.shape == (parameters.slots,)
    assert np.abs(slots.real - np.array(vector.decrypt())).max() < 1e-9
    error = 32 * parameters.ring_degree / scale  # generous: the fresh error is about sqrt(N / 36 * N)
    assert np.abs(slots.imag).max() < error
    assert np.abs(slots.real - numbers).max() < error


_PLACES = 160


@functools.cache
def powers_of_zeta(n: int) -> list[tuple[int, int]]:
    """Real and imaginary part, times 2^160, of exp(i pi k / N) for k < 2N, by halving the angle of i."""
    one = 1 << _PLACES
    cosine, angles = 0, 2
    while angles < n:
        cosine, angles = math.isqrt((one + cosine) * one // 2), 2 * angles
    sine = math.isqrt(one * one - cosine * cosine)
    powers = [(one, 0)]
    for _ in range(2 * n - 1):
        x, y = powers[-1]
        powers.append(((x * cosine - y * sine) >> _PLACES, (x * sine + y * cosine) >> _PLACES))
    return powers


def slot_by_definition(message: list[int], j: int) -> tuple[int, int]:
    """Slot j of a polynomial, times 2^160: its value at zeta^(3^j)."""
    n = len(message)
    zeta, power = powers_of_zeta(n), pow(3, j, 2 * n)
    terms = [(m, *zeta[power * k % (2 * n)]) for k, m in enumerate(message)]
    return sum(m * x for m, x, _ in terms), sum(m * y for m, _, y in terms)


@pytest.mark.parametrize("one_large_coefficient", [False, True])
@pytest.mark.parametrize("parameters", [*RINGS, PRESETS["medium"]], ids=str)
def test_decoding_is_off_by_less_than_2_to_the_minus_50_of_the_largest_slot(
    parameters: CkksParameters, one_large_coefficient: bool
) -> None:
    """Messages nearly as large as the modulus allows, once with all slots about equal; against integers."""
    ring, rng = ring_of(parameters), random.Random(13)
    bits = parameters.modulus.bit_length() - 3 - (not one_large_coefficient)
    message = [rng.randrange(-(1 << bits), 1 << bits) >> 20 * one_large_coefficient for _ in range(ring.n)]
    if one_large_coefficient:
        message[0] = (1 << bits) - 1
    residues = np.array([[m % prime for m in message] for prime in ring.primes], np.uint64)
    secret = ring.ntt(ring.lift(np.random.default_rng(14).integers(-1, 2, ring.n)))
    c1 = draw(ring, 15)
    c0 = ring.add(ring.ntt(residues), ring.negate(ring.mul(c1, secret)))
    slots = ring.decode(np.stack((c0, c1)), secret, 4.0)
    largest = float(np.abs(slots).max())
    for j in (0, 1, ring.n // 2 - 1, rng.randrange(ring.n // 2)):
        parts = (float(slots[j].real), float(slots[j].imag))
        for found, exact in zip(parts, slot_by_definition(message, j), strict=True):
            assert abs(Fraction(found) - Fraction(exact, 4 << _PLACES)) < Fraction(largest) / (1 << 50)


def test_embedding_gives_the_value_at_each_slots_root() -> None:
    n = 64
    coefficients = np.random.default_rng(11).normal(size=n)
    powers = [pow(3, j, 2 * n) for j in range(n // 2)]
    roots = np.exp(1j * np.pi * np.array(powers) / n)
    direct = roots[:, None] ** np.arange(n)[None, :] @ coefficients
    np.testing.assert_allclose(embed(coefficients), direct, atol=1e-10)
