"""Secret keys out of serialized contexts: TenSEAL's own, and any other bytes."""

import functools
import random
import struct

import numpy as np
import pytest
import tenseal as ts
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gridhe.custody.ring import ring_of
from gridhe.custody.secret import secret_of
from gridhe.errors import VaultError
from gridhe.plan.parameters import PRESETS, RINGS, CkksParameters

SMALL = CkksParameters(2048, (40, 14))
REFUSED = f"the stored secret key is not one of {SMALL}; restore the vault from a backup"


@functools.cache
def serialized(parameters: CkksParameters, *, private: bool = True) -> bytes:
    """A new context with its secret key, as the vault keeps it, or with its public key only."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        parameters.ring_degree,
        coeff_mod_bit_sizes=list(parameters.prime_bits),
        n_threads=1,
    )
    data: bytes = context.serialize(
        save_public_key=not private, save_secret_key=private, save_galois_keys=False, save_relin_keys=False
    )
    return data


def framed(number: int, value: bytes) -> bytes:
    """A protobuf field of bytes."""
    size, out = len(value), bytearray([number << 3 | 2])
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((*out, size)) + value


def by_hand(body: bytes, *, packed: bool = False) -> bytes:
    """A context with this body as its secret key, in SEAL's save format."""
    inner = zstandard.ZstdCompressor().compress(body) if packed else body
    header = struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 2 if packed else 0, 0, 16 + len(inner))
    return framed(3, framed(1, header + inner))


def body_of(coefficients: NDArray[np.int64]) -> bytes:
    """The body of a secret key of SMALL; the special prime's residues are not read."""
    ring = ring_of(SMALL)
    residues = ring.ntt(ring.lift(coefficients)).astype("<u8").tobytes()
    return bytes(72) + residues + bytes(8 * ring.n)


@pytest.mark.parametrize("parameters", dict.fromkeys((*RINGS, *PRESETS.values())), ids=str)
def test_tenseals_secret_key_is_a_ternary_polynomial(parameters: CkksParameters) -> None:
    ring = ring_of(parameters)
    secret = secret_of(serialized(parameters), parameters)
    assert (secret.shape, secret.dtype) == ((len(parameters.primes), parameters.ring_degree), np.uint64)
    assert set(ring.centred(ring.intt(secret)).tolist()) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("packed", [False, True])
def test_a_key_is_read_whether_or_not_it_is_compressed(packed: bool) -> None:
    coefficients = np.random.default_rng(1).integers(-1, 2, SMALL.ring_degree)
    ring = ring_of(SMALL)
    found = secret_of(by_hand(body_of(coefficients), packed=packed), SMALL)
    assert ring.centred(ring.intt(found)).tolist() == coefficients.tolist()


def test_repro_a_key_of_a_ring_with_smaller_primes_is_refused() -> None:
    # Its residues are below the larger primes too, and would decrypt every total to noise.
    assert RINGS[2].ring_degree == RINGS[3].ring_degree
    for other in (RINGS[1], RINGS[2]):
        with pytest.raises(VaultError, match="not one of"):
            secret_of(serialized(other), RINGS[3])


@pytest.mark.parametrize("changed", [2, -2, 1 << 20])
def test_repro_a_damaged_key_is_refused(changed: int) -> None:
    coefficients = np.zeros(SMALL.ring_degree, np.int64)
    coefficients[5] = changed
    with pytest.raises(VaultError) as caught:
        secret_of(by_hand(body_of(coefficients)), SMALL)
    assert str(caught.value) == REFUSED
    body = bytearray(body_of(np.ones(SMALL.ring_degree, np.int64)))
    body[72 + 8 * 7] ^= 1
    with pytest.raises(VaultError):
        secret_of(by_hand(bytes(body)), SMALL)


def test_a_frame_that_unpacks_to_more_than_a_key_is_not_unpacked() -> None:
    bomb = by_hand(bytes(1 << 28), packed=True)
    assert len(bomb) < 1 << 16
    with pytest.raises(VaultError) as caught:
        secret_of(bomb, SMALL)
    assert str(caught.value) == REFUSED


def test_a_context_without_secret_key_and_a_key_of_another_degree_are_refused() -> None:
    for data in (serialized(SMALL, private=False), serialized(RINGS[3])):
        with pytest.raises(VaultError) as caught:
            secret_of(data, SMALL)
        assert str(caught.value) == REFUSED


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_are_a_key_or_refused_without_showing_them(data: st.DataObject) -> None:
    """Bytes as they come, inside valid frames of the protobuf and of SEAL, and mutations of a real key."""
    private = serialized(SMALL)
    kind = data.draw(st.sampled_from(("raw", "context", "keys", "packed", "mutated", "cut")))
    junk = data.draw(st.binary(max_size=200))
    at = data.draw(st.integers(0, len(private) - 1)) if data.draw(st.booleans()) else len(junk)
    made = {
        "raw": junk,
        "context": framed(3, junk),
        "keys": framed(3, framed(1, junk)),
        "packed": by_hand(junk, packed=True),
        "mutated": private[:at] + junk + private[at + len(junk) :],
        "cut": private[:at],
    }[kind]
    # A key comes out if the junk lies where no residue of a data prime does.
    ring, refusal = ring_of(SMALL), REFUSED
    try:
        found = secret_of(made, SMALL)
    except VaultError as error:
        found, refusal = np.zeros((1, SMALL.ring_degree), np.uint64), str(error)
    assert refusal == REFUSED
    assert np.abs(ring.centred(ring.intt(found))).max() <= 1


def test_bits_flipped_in_a_frames_head_are_survived() -> None:
    private, rng = serialized(SMALL), random.Random(12)
    outcomes = set()
    for _ in range(200):
        flipped = bytearray(private)
        flipped[rng.randrange(200)] ^= 1 << rng.randrange(8)
        try:
            secret_of(bytes(flipped), SMALL)
        except VaultError as error:
            outcomes.add(str(error))
    assert outcomes == {REFUSED}
