"""TenSEAL's bytes: read and written without TenSEAL, and TenSEAL agrees."""

import functools
import struct

import numpy as np
import pytest
import tenseal as ts
import zstandard
from numpy.typing import NDArray

from gridhe.errors import EnvelopeError
from gridhe.plan.parameters import PRESETS, RINGS, CkksParameters
from gridhe.wire.tenseal_format import from_tenseal, to_tenseal

SCALE = 2.0**30
MAGIC = b"\x28\xb5\x2f\xfd"


@functools.cache
def context_of(parameters: CkksParameters) -> ts.Context:
    return ts.context(
        ts.SCHEME_TYPE.CKKS,
        parameters.ring_degree,
        coeff_mod_bit_sizes=list(parameters.prime_bits),
        n_threads=1,
    )


def encrypted(parameters: CkksParameters, values: NDArray[np.float64]) -> ts.CKKSVector:
    return ts.ckks_vector(context_of(parameters), values.tolist(), SCALE)


@pytest.mark.parametrize("parameters", [RINGS[0], RINGS[1], RINGS[2], RINGS[5], PRESETS["medium"]], ids=str)
def test_tenseal_decrypts_what_we_wrote_from_what_it_wrote(parameters: CkksParameters) -> None:
    scale = 2.0**20
    values = np.random.default_rng(1).integers(0, 100, parameters.slots).astype(float)
    data = ts.ckks_vector(context_of(parameters), values.tolist(), scale).serialize()
    residues = from_tenseal(data, parameters, scale)
    assert residues.shape == (2, len(parameters.primes), parameters.ring_degree)
    assert (residues < np.array(parameters.primes, np.uint64)[:, None]).all()
    written = to_tenseal(residues, parameters, scale)
    vector = ts.ckks_vector_from(context_of(parameters), written)
    assert vector.size() == parameters.slots
    np.testing.assert_array_equal(np.rint(vector.decrypt()), values)
    np.testing.assert_array_equal(from_tenseal(written, parameters, scale), residues)
    # TenSEAL's own bytes of our vector are those of its first one again.
    np.testing.assert_array_equal(from_tenseal(vector.serialize(), parameters, scale), residues)


def test_tenseal_adds_ours_to_its_own() -> None:
    parameters = RINGS[2]
    one, two = (np.random.default_rng(seed).integers(0, 1_000, parameters.slots) for seed in (2, 3))
    ours = to_tenseal(from_tenseal(encrypted(parameters, one).serialize(), parameters), parameters, SCALE)
    both = ts.ckks_vector_from(context_of(parameters), ours) + encrypted(parameters, two)
    np.testing.assert_array_equal(np.rint(both.decrypt()), one + two)


def test_summing_residues_modulo_the_primes_sums_every_slot() -> None:
    parameters = RINGS[2]
    rows = np.random.default_rng(4).integers(0, 4_000, (9, parameters.slots))
    residues = [from_tenseal(encrypted(parameters, row).serialize(), parameters, SCALE) for row in rows]
    total = np.sum(residues, axis=0) % np.array(parameters.primes, np.uint64)[:, None]
    found = ts.ckks_vector_from(context_of(parameters), to_tenseal(total, parameters, SCALE)).decrypt()
    np.testing.assert_array_equal(np.rint(found), rows.sum(axis=0))


def test_repro_a_shorter_vector_is_repeated_over_all_slots_unless_padded() -> None:
    # What docs/wire.md warns of: TenSEAL fills all N/2 slots with repetitions of what it is given.
    parameters = RINGS[2]
    data = encrypted(parameters, np.array([1.0, 2.0, 3.0])).serialize()
    whole = to_tenseal(from_tenseal(data, parameters), parameters, SCALE)
    found = np.rint(ts.ckks_vector_from(context_of(parameters), whole).decrypt())
    assert found[:7].tolist() == [1, 2, 3, 1, 2, 3, 1]


@functools.cache
def sample() -> bytes:
    found: bytes = encrypted(RINGS[2], np.arange(2048.0)).serialize()
    return found


def parts_of(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Protobuf before SEAL's header, SEAL's compressed body, the rest."""
    at = data.index(MAGIC)
    size = struct.unpack("<Q", data[at - 8 : at])[0]
    return data[: at - 16], data[at : at - 16 + size], data[at - 16 + size :]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def rebuilt(
    body: bytes, compression: int = 2, version: tuple[int, int] = (4, 0), size: int | None = None
) -> bytes:
    """A serialized vector around another SEAL body."""
    length = 16 + len(body) if size is None else size
    seal = struct.pack("<HBBBBHQ", 0xA15E, 16, *version, compression, 0, length) + body
    return b"\x0a\x02\x80\x10" + b"\x12" + varint(len(seal)) + seal + b"\x19" + struct.pack("<d", SCALE)


def plain_body() -> bytearray:
    return bytearray(zstandard.ZstdDecompressor().decompressobj().decompress(parts_of(sample())[1]))


def test_a_rebuilt_vector_is_read_the_same_compressed_or_not() -> None:
    residues = from_tenseal(sample(), RINGS[2], SCALE)
    body = bytes(plain_body())
    for data in (rebuilt(body, 0), rebuilt(zstandard.compress(body)), rebuilt(parts_of(sample())[1])):
        np.testing.assert_array_equal(from_tenseal(data, RINGS[2], SCALE), residues)


def refused(data: bytes, parameters: CkksParameters = RINGS[2], scale: float | None = SCALE) -> str:
    with pytest.raises(EnvelopeError) as caught:
        from_tenseal(data, parameters, scale)
    assert caught.value.reason == "tenseal"
    return str(caught.value)


def changed(at: int, value: bytes) -> bytes:
    body = plain_body()
    body[at : at + len(value)] = value
    return rebuilt(bytes(body), 0)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(0, b"\x00", id="parms_id"),
        pytest.param(32, b"\x00", id="not in NTT form"),
        pytest.param(33, b"\x03", id="three components"),
        pytest.param(41, struct.pack("<Q", 2048), id="another degree"),
        pytest.param(49, struct.pack("<Q", 1), id="another number of primes"),
        pytest.param(57, struct.pack("<d", 2.0**29), id="another scale"),
        pytest.param(73, b"\x00\x00", id="no header of an array"),
        pytest.param(75, b"\x20", id="an array's header of another size"),
        pytest.param(78, b"\x02", id="a compressed array"),
        pytest.param(81, struct.pack("<Q", 24), id="an array's size"),
        pytest.param(89, struct.pack("<Q", 1), id="an array's count"),
    ],
)
def test_a_body_with_another_field_is_refused(at: int, value: bytes) -> None:
    assert from_tenseal(rebuilt(bytes(plain_body()), 0), RINGS[2], SCALE) is not None
    refused(changed(at, value))


def test_a_vector_of_another_scale_or_ring_is_refused() -> None:
    assert "scale" in refused(sample(), scale=2.0**31)
    assert from_tenseal(sample(), RINGS[2]).shape == (2, 2, 4096)
    for other in (RINGS[0], RINGS[1], RINGS[3], RINGS[4], RINGS[5]):
        refused(sample(), other)


def test_a_multiplied_vector_is_refused() -> None:
    # Rescaled to fewer primes: a ciphertext of this context that cannot be added to fresh ones.
    parameters = PRESETS["medium"]
    vector = ts.ckks_vector(context_of(parameters), [1.0] * parameters.slots, 2.0**40)
    data = (vector * vector).serialize()
    refused(data, parameters, None)


def test_two_ciphertexts_in_one_vector_are_refused() -> None:
    parameters = RINGS[0]
    vector = ts.ckks_vector(context_of(parameters), [1.0] * (parameters.slots + 1), 2.0**20)
    refused(vector.serialize(), parameters, None)


def test_what_zstd_could_do_to_memory_it_does_not() -> None:
    bomb = zstandard.compress(bytes(64 << 20))
    assert len(bomb) < 10_000
    assert "unpacks to more" in refused(rebuilt(bomb))
    unknown_size = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))
    refused(rebuilt(unknown_size))
    announced = bytearray(zstandard.compress(bytes(4_000)))
    refused(rebuilt(bytes(announced)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x12",
        b"\x12\x05abc",
        b"\x12\x00",
        b"\x80" * 20,
        b"\x0a" + b"\xff" * 9 + b"\x01",
        b"\x08\x01",
        b"\x13",
        b"\x11abcdefgh",
        rebuilt(b"", 0),
        rebuilt(b"x", 1),
        rebuilt(b"x", 2),
        rebuilt(MAGIC, 2),
        rebuilt(b"x" * 100, 0, size=50),
        rebuilt(b"x" * 100, 0, size=2**63),
    ],
)
def test_bytes_that_are_no_vector_are_refused(data: bytes) -> None:
    refused(data)


def test_every_truncation_is_refused() -> None:
    data = sample()
    assert from_tenseal(data[:-9], RINGS[2], SCALE) is not None  # the scale again, which SEAL's body has too
    for size in (*range(0, 200), *range(200, len(data) - 10, 997), len(data) - 10):
        refused(data[:size])


def test_residues_of_another_shape_are_not_written() -> None:
    with pytest.raises(ValueError, match="shape"):
        to_tenseal(np.zeros((2, 1, 4096), np.uint64), RINGS[2], SCALE)
