"""Parameters: the primes are SEAL's own, the weights are those on the wire, insecure rings do not exist."""

import hashlib
import math
import struct
import subprocess
import sys

import pytest
import tenseal as ts
import zstandard

from gridhe.errors import PlanError
from gridhe.plan.parameters import MODULUS_BITS_MAX, PRESETS, RINGS, CkksParameters, plane_bytes
from gridhe.wire.planes import Planes

# What CoeffModulus::Create is asked for: equal sizes next to each other and apart, sizes at both ends.
ODD_RINGS = [
    CkksParameters(2048, (27, 27)),
    CkksParameters(4096, (36, 36, 37)),
    CkksParameters(8192, (60, 40, 40, 60)),
    CkksParameters(8192, (33, 32, 49, 33, 32, 17)),
    CkksParameters(16384, (49, 48, 33, 32, 60, 49)),
]
SMALL = [*RINGS, *(PRESETS[name] for name in ("light", "medium", "strong")), *ODD_RINGS]


def parms_id_of_seal(parameters: CkksParameters) -> bytes:
    """The parms_id that SEAL wrote into a fresh ciphertext: its hash of N and all data primes."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        parameters.ring_degree,
        coeff_mod_bit_sizes=list(parameters.prime_bits),
        n_threads=1,
    )
    data = ts.ckks_vector(context, [1.0], 2.0**10).serialize()
    frame = data.index(b"\x28\xb5\x2f\xfd")  # zstd's magic, right behind SEAL's 16-byte header
    body = zstandard.ZstdDecompressor().decompressobj().decompress(data[frame:])
    return body[:32]


def parms_id_of(ring_degree: int, primes: tuple[int, ...]) -> bytes:
    words = (2, ring_degree, *primes, 0)
    return hashlib.blake2b(struct.pack(f"<{len(words)}Q", *words), digest_size=32).digest()


@pytest.mark.parametrize("parameters", SMALL, ids=str)
def test_the_primes_are_those_that_seal_uses(parameters: CkksParameters) -> None:
    assert parms_id_of(parameters.ring_degree, parameters.primes) == parms_id_of_seal(parameters)


def test_the_primes_of_the_maximum_preset_are_those_that_seal_uses() -> None:
    parameters = PRESETS["maximum"]
    # In a process of its own: TenSEAL's relinearisation keys for it take a gigabyte.
    code = (
        "import sys, tenseal as ts, zstandard\n"
        f"context = ts.context(ts.SCHEME_TYPE.CKKS, {parameters.ring_degree}, n_threads=1,\n"
        f"    coeff_mod_bit_sizes={list(parameters.prime_bits)})\n"
        "data = ts.ckks_vector(context, [1.0], 2.0**10).serialize()\n"
        "frame = data.index(b'\\x28\\xb5\\x2f\\xfd')\n"
        "print(zstandard.ZstdDecompressor().decompressobj().decompress(data[frame:])[:32].hex())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert parms_id_of(parameters.ring_degree, parameters.primes).hex() == done.stdout.strip()


@pytest.mark.parametrize("parameters", [*SMALL, PRESETS["maximum"]], ids=str)
def test_every_data_prime_has_its_size_and_is_one_modulo_2n(parameters: CkksParameters) -> None:
    assert [prime.bit_length() for prime in parameters.primes] == list(parameters.prime_bits[:-1])
    assert all(prime % (2 * parameters.ring_degree) == 1 for prime in parameters.primes)
    assert len(set(parameters.primes)) == len(parameters.primes)
    assert parameters.modulus == math.prod(parameters.primes)
    assert parameters.slots == parameters.ring_degree // 2


def test_known_rings_have_the_documented_sizes() -> None:
    weights = {(p.ring_degree, p.prime_bits): p.wire_bytes for p in RINGS}
    assert weights[2048, (40, 14)] == 24_576
    assert weights[4096, (32, 32, 20)] == 65_536
    assert weights[4096, (48, 41, 20)] == weights[4096, (48, 45, 16)] == 98_304
    assert weights[8192, (48, 48, 48, 20)] == 294_912
    assert list(weights.values()) == sorted(weights.values()), "the planner relies on this order"


@pytest.mark.parametrize("parameters", SMALL, ids=str)
def test_the_wire_size_of_a_ciphertext_is_the_size_of_its_planes(parameters: CkksParameters) -> None:
    assert parameters.wire_bytes == Planes(parameters).size


def test_a_residue_takes_four_six_or_eight_bytes() -> None:
    assert {bits: plane_bytes(bits) for bits in (14, 32, 33, 48, 49, 60)} == {
        14: 4, 32: 4, 33: 6, 48: 6, 49: 8, 60: 8,
    }  # fmt: skip


def test_no_ring_has_a_larger_modulus_than_128_bits_of_security_allow() -> None:
    # The table of the homomorphic encryption standard, which SEAL's CoeffModulus::MaxBitCount repeats.
    assert MODULUS_BITS_MAX == {2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
    for parameters in [*RINGS, *PRESETS.values()]:
        assert sum(parameters.prime_bits) <= MODULUS_BITS_MAX[parameters.ring_degree]


@pytest.mark.parametrize(
    ("ring_degree", "prime_bits", "why"),
    [
        (1024, (27, 14), "not one of"),
        (3000, (27, 14), "not one of"),
        (65536, (48, 48, 20), "not one of"),
        (4096, (48,), "at least two"),
        (4096, (), "at least two"),
        (4096, (48, 13), "14 to 60"),
        (8192, (61, 40), "14 to 60"),
        (2048, (40, 15), "55 bits"),
        (4096, (48, 42, 20), "110 bits"),
        (8192, (60, 60, 60, 39), "219 bits"),
        (4096, (48, 14), "too few 14-bit primes"),  # none is 1 modulo 8192
        (2048, (14, 14), "too few 14-bit primes"),  # there is one, 12289
    ],
)
def test_a_ring_that_is_insecure_or_does_not_exist_is_refused(
    ring_degree: int, prime_bits: tuple[int, ...], why: str
) -> None:
    with pytest.raises(PlanError, match=why):
        CkksParameters(ring_degree, prime_bits)


@pytest.mark.parametrize(("ring_degree", "prime_bits"), [(2048, (40, 14)), (4096, (48, 41, 20))])
def test_a_ring_at_the_limit_of_security_is_allowed(ring_degree: int, prime_bits: tuple[int, ...]) -> None:
    assert sum(prime_bits) == MODULUS_BITS_MAX[ring_degree]
    CkksParameters(ring_degree, prime_bits)


def test_a_ring_names_itself() -> None:
    assert str(CkksParameters(4096, (48, 41, 20))) == "ring 4096 [48, 41, 20]"
