"""The bytes of the public key in a bundle match docs/wire.md."""

import hashlib
import struct
from pathlib import Path

import msgpack
import pytest
import tenseal as ts
import zstandard

from gridhe.plan.parameters import CkksParameters

BUNDLE = Path(__file__).parent / "vectors" / "bundle.bin"


class Reader:
    """Takes bytes from the front, and knows when none are left."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        assert len(self.data) >= count
        found, self.data = self.data[:count], self.data[count:]
        return found

    def unpack(self, form: str) -> tuple[object, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def seal_object(self, size: int) -> "Reader":
        """The content of a SEAL object that fills `size` bytes, decompressed."""
        assert self.unpack("<HBBBBHQ") == (0xA15E, 16, 4, 3, 2, 0, size)
        return Reader(zstandard.ZstdDecompressor().decompressobj().decompress(self.take(size - 16)))


def primes_of(ring_degree: int, prime_bits: tuple[int, ...]) -> list[int]:
    """All primes, the last included, by the rule of the page."""

    def is_prime(number: int) -> bool:  # Miller-Rabin; these bases decide every number below 2^64
        odd, twos = number - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
            if base % number == 0:
                continue
            power = pow(base, odd, number)
            if power not in (1, number - 1):
                for _ in range(twos - 1):
                    power = power * power % number
                    if power == number - 1:
                        break
                else:
                    return False
        return True

    largest_first: dict[int, list[int]] = {}
    for size in set(prime_bits):
        found = largest_first[size] = []
        candidate = (1 << size) - 2 * ring_degree + 1
        while len(found) < prime_bits.count(size):
            if is_prime(candidate):
                found.append(candidate)
            candidate -= 2 * ring_degree
    return [largest_first[size].pop() for size in prime_bits]


def take_apart(public_key: bytes, ring_degree: int, prime_bits: tuple[int, ...]) -> None:
    """Every byte, from the first to the last, against the tables of the page."""
    primes = primes_of(ring_degree, prime_bits)
    count = len(primes)
    message = Reader(public_key)

    assert message.take(1) == b"\x0a"  # field 1, bytes
    parameters = message.seal_object(message.varint())
    assert parameters.unpack("<BQQ") == (2, ring_degree, count)
    for prime in (*primes, 0):  # and the plain modulus
        assert parameters.unpack("<HBBBBHQQ") == (0xA15E, 16, 4, 3, 0, 0, 24, prime)
    assert parameters.data == b""

    assert message.take(1) == b"\x12"  # field 2, a message
    public = Reader(message.take(message.varint()))
    assert message.data == b""

    assert public.take(1) == b"\x0a"
    key = public.seal_object(public.varint())
    words = struct.pack(f"<{count + 3}Q", 2, ring_degree, *primes, 0)
    assert key.take(32) == hashlib.blake2b(words, digest_size=32).digest()
    assert key.unpack("<BQQQdQ") == (1, 2, ring_degree, count, 1.0, 1)
    assert key.unpack("<HBBBBHQ") == (0xA15E, 16, 4, 3, 0, 0, 24 + 16 * count * ring_degree)
    assert key.unpack("<Q") == (2 * count * ring_degree,)
    for _ in range(2):
        for prime in primes:
            residues = key.unpack(f"<{ring_degree}Q")
            assert max(residues) < prime  # type: ignore[type-var]  # integers, by the format
            assert len(set(residues)) > ring_degree // 4
    assert key.data == b""

    assert public.take(2) == b"\x10\x07"  # field 2, a varint
    assert public.take(1) == b"\x19"  # field 3, a double
    assert public.unpack("<d") == (-1.0,)
    assert public.data == b""


def test_the_golden_bundles_public_key_is_the_pages() -> None:
    plan, public_key = msgpack.unpackb(msgpack.unpackb(BUNDLE.read_bytes())[1])
    plan = msgpack.unpackb(plan)
    take_apart(public_key, plan["ring_degree"], tuple(plan["prime_bits"]))


@pytest.mark.parametrize(
    ("ring_degree", "prime_bits"),
    [(4096, (48, 41, 20)), (4096, (32, 32, 20)), (8192, (48, 48, 48, 20))],
    ids=str,
)
def test_the_public_key_of_other_rings_is_the_pages(ring_degree: int, prime_bits: tuple[int, ...]) -> None:
    context = ts.context(ts.SCHEME_TYPE.CKKS, ring_degree, coeff_mod_bit_sizes=list(prime_bits), n_threads=1)
    context.make_context_public()
    take_apart(context.serialize(save_galois_keys=False, save_relin_keys=False), ring_degree, prime_bits)


def test_the_pages_primes_are_those_of_our_parameters() -> None:
    for bits in ((48, 41, 20), (33, 32, 20), (32, 32, 20), (49, 40, 20)):
        assert primes_of(4096, bits)[:-1] == list(CkksParameters(4096, bits).primes)
