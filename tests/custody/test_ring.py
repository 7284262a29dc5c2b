"""Ring arithmetic against Python's integers, and decoding against TenSEAL, for every listed ring."""

import functools
import hashlib
import random
from typing import Any

import numpy as np
import pytest
import tenseal as ts
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gridhe.custody.ring import Ring, embed, ring_of
from gridhe.custody.secret import secret_of
from gridhe.errors import VaultError
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


def test_embedding_gives_the_value_at_each_slots_root() -> None:
    n = 64
    coefficients = np.random.default_rng(11).normal(size=n)
    powers = [pow(3, j, 2 * n) for j in range(n // 2)]
    roots = np.exp(1j * np.pi * np.array(powers) / n)
    direct = roots[:, None] ** np.arange(n)[None, :] @ coefficients
    np.testing.assert_allclose(embed(coefficients), direct, atol=1e-10)


def junk(private: bytes) -> list[bytes]:
    rng = random.Random(12)
    flipped = [bytearray(private) for _ in range(40)]
    for each in flipped:
        each[rng.randrange(200)] ^= 1 << rng.randrange(8)
    return [
        b"",
        b"junk",
        private[:100],
        private[:-1],
        private + b"\0",
        *(bytes(each) for each in flipped),
        *(rng.randbytes(300) for _ in range(40)),
    ]


def test_bytes_that_are_no_secret_key_are_refused_without_showing_them() -> None:
    context, secret = tenseal_world(SMALL)
    public = context.serialize(
        save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    private = context.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    refusals = set()
    for data in (public, *junk(private)):
        try:
            found = secret_of(data, SMALL)
        except VaultError as error:
            refusals.add(str(error))
        else:  # a flipped bit in a part that carries no residue
            assert found.shape == secret.shape
    assert refusals == {f"the stored secret key is not one of {SMALL}; restore the vault from a backup"}
    with pytest.raises(VaultError):
        secret_of(private, RINGS[3])
