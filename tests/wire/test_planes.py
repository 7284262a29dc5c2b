"""Planes: the bytes are those documented, and no residue out of range gets through, wherever it stands."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gridhe.errors import EnvelopeError
from gridhe.plan.parameters import RINGS, CkksParameters
from gridhe.wire.planes import Planes

# Data primes of every width class and at its edges: 27, 32, 33, 41, 48, 49 and 60 bits.
SHAPES = [
    RINGS[0],
    RINGS[1],
    RINGS[2],
    CkksParameters(2048, (27, 27)),
    CkksParameters(8192, (60, 33, 32, 49, 20)),
    CkksParameters(8192, (32, 33, 48, 48, 49)),
    CkksParameters(4096, (60, 33, 16)),
]
ids = str


def random_residues(parameters: CkksParameters, seed: int = 1) -> NDArray[np.uint64]:
    rng = np.random.default_rng(seed)
    n = parameters.ring_degree
    rows = [[rng.integers(0, prime, n, dtype=np.uint64) for prime in parameters.primes] for _ in range(2)]
    residues = np.array(rows)
    # the extremes stand somewhere in every row
    residues[:, :, 5] = 0
    residues[:, :, 7] = np.array(parameters.primes, np.uint64) - np.uint64(1)
    return residues


def slow_bytes(parameters: CkksParameters, residues: NDArray[np.uint64]) -> bytes:
    """The planes one residue at a time, as docs/wire.md describes them."""
    sizes = parameters.prime_bits[:-1]
    out = []
    for component in residues.tolist():
        out += [struct.pack("<I", value % 2**32) for row in component for value in row]
    for fits, code in ((lambda bits: 32 < bits <= 48, "<H"), (lambda bits: bits > 48, "<I")):
        for component in residues.tolist():
            for row, bits in zip(component, sizes, strict=True):
                if fits(bits):
                    out += [struct.pack(code, value >> 32) for value in row]
    return b"".join(out)


@pytest.mark.parametrize("parameters", SHAPES, ids=ids)
def test_the_bytes_are_those_documented_and_unpack_to_the_same_residues(parameters: CkksParameters) -> None:
    planes, residues = Planes(parameters), random_residues(parameters)
    packed = planes.pack(residues)
    assert packed == slow_bytes(parameters, residues)
    assert len(packed) == planes.size == parameters.wire_bytes
    for buffer in (packed, bytearray(packed), memoryview(b"x" + packed)[1:]):
        found = planes.unpack(buffer)
        assert found.dtype == np.uint64
        np.testing.assert_array_equal(found, residues)


@pytest.mark.parametrize("parameters", SHAPES, ids=ids)
def test_views_are_of_the_bytes_and_can_only_be_read(parameters: CkksParameters) -> None:
    planes = Planes(parameters)
    views = planes.views(planes.pack(random_residues(parameters)))
    sizes = parameters.prime_bits[:-1]
    n = parameters.ring_degree
    assert views.low.shape == (2, len(sizes), n)
    assert views.high16.shape == (2, sum(32 < bits <= 48 for bits in sizes), n)
    assert views.high32.shape == (2, sum(bits > 48 for bits in sizes), n)
    for view in (views.low, views.high16, views.high32):
        assert not view.flags.writeable
        assert view.base is not None


@pytest.mark.parametrize("parameters", SHAPES, ids=ids)
@pytest.mark.parametrize("change", [-1, 1, None])
def test_any_other_number_of_bytes_is_refused(parameters: CkksParameters, change: int | None) -> None:
    planes = Planes(parameters)
    data = b"" if change is None else bytes(planes.size + change)
    for read in (planes.views, planes.unpack):
        with pytest.raises(EnvelopeError) as caught:
            read(data)
        assert caught.value.reason == "size"


def check(planes: Planes, residues: NDArray[np.uint64]) -> None:
    planes.check(planes.views(planes.pack(residues)))


@pytest.mark.parametrize("parameters", SHAPES, ids=ids)
def test_residues_below_their_primes_always_pass(parameters: CkksParameters) -> None:
    planes = Planes(parameters)
    for seed in range(5):
        check(planes, random_residues(parameters, seed))
    # every residue the largest one that is allowed
    largest = np.array(parameters.primes, np.uint64)[None, :, None] - np.uint64(1)
    check(planes, np.broadcast_to(largest, planes.shape))
    # high word of the prime with any low word below the prime's
    for i, prime in enumerate(parameters.primes):
        residues = random_residues(parameters)
        residues[:, i, ::3] = np.uint64(prime - 1)
        residues[:, i, 1::3] = np.uint64(prime >> 32 << 32 if prime >> 32 else prime - 2)
        check(planes, residues)


@pytest.mark.parametrize("parameters", SHAPES, ids=ids)
def test_a_residue_not_below_its_prime_is_found_at_any_position(parameters: CkksParameters) -> None:
    planes, n = Planes(parameters), parameters.ring_degree
    rng = np.random.default_rng(3)
    good = random_residues(parameters)
    for component in range(2):
        for i, (prime, bits) in enumerate(zip(parameters.primes, parameters.prime_bits[:-1], strict=True)):
            widest = 2**32 if bits <= 32 else 2**48 if bits <= 48 else 2**64
            too_large = {prime, prime + 1, widest - 1, (prime >> 32) + 1 << 32, prime | 0xFFFFFFFF}
            positions = {0, 1, n // 2, n - 2, n - 1, *rng.integers(0, n, 20).tolist()}
            for value in sorted(value for value in too_large if prime <= value < widest):
                for position in positions:
                    residues = good.copy()
                    residues[component, i, position] = np.uint64(value)
                    with pytest.raises(
                        EnvelopeError, match=f"residue of prime {i} is not below {prime}"
                    ) as caught:
                        check(planes, residues)
                    assert caught.value.reason == "residue"


@given(st.integers(0, len(SHAPES) - 1), st.data())
@settings(max_examples=150, deadline=None)
def test_check_agrees_with_comparing_every_residue(shape: int, data: st.DataObject) -> None:
    parameters = SHAPES[shape]
    planes = Planes(parameters)
    residues = random_residues(parameters)
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(parameters.primes) - 1))
        prime, bits = parameters.primes[i], parameters.prime_bits[i]
        widest = 2**32 if bits <= 32 else 2**48 if bits <= 48 else 2**64
        near = st.integers(max(0, prime - 3), min(widest - 1, prime + 3))
        other_high = (data.draw(st.integers(0, (widest >> 32) - 1)) << 32) | (prime & 0xFFFFFFFF)
        value = data.draw(st.one_of(near, st.integers(0, widest - 1), st.just(min(other_high, widest - 1))))
        component, position = (
            data.draw(st.integers(0, 1)),
            data.draw(st.integers(0, parameters.ring_degree - 1)),
        )
        residues[component, i, position] = np.uint64(value)
    primes = np.array(parameters.primes, np.uint64)[:, None]
    if (residues >= primes).any():
        with pytest.raises(EnvelopeError):
            check(planes, residues)
    else:
        check(planes, residues)


@pytest.mark.parametrize("parameters", SHAPES, ids=ids)
def test_a_second_component_of_zeros_is_refused_as_transparent(parameters: CkksParameters) -> None:
    residues = random_residues(parameters)
    residues[1] = 0
    with pytest.raises(EnvelopeError, match="not encrypted") as caught:
        check(Planes(parameters), residues)
    assert caught.value.reason == "transparent"


@pytest.mark.parametrize("parameters", SHAPES, ids=ids)
def test_one_residue_other_than_zero_in_the_second_component_is_enough(parameters: CkksParameters) -> None:
    planes = Planes(parameters)
    for i in range(len(parameters.primes)):
        for value in {1, 2**32 if parameters.primes[i] > 2**32 else 1}:  # low plane or high plane alone
            for position in (0, 1, parameters.ring_degree - 1):
                residues = random_residues(parameters)
                residues[1] = 0
                residues[1, i, position] = np.uint64(value)
                check(planes, residues)


def test_a_first_component_of_zeros_says_nothing_about_the_reading() -> None:
    residues = random_residues(RINGS[2])
    residues[0] = 0
    check(Planes(RINGS[2]), residues)
