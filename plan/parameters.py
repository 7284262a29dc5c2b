"""CKKS parameters: a ring, its primes, and the size of its ciphertexts on the wire."""

import functools
import math
from dataclasses import dataclass

from gridhe.errors import PlanError

__all__ = ["MODULUS_BITS_MAX", "PRESETS", "RINGS", "CkksParameters", "plane_bytes"]

# log2 of the whole modulus, last prime included, that still gives 128 bits of security with
# ternary secrets (homomorphicencryption.org standard, table 1; SEAL enforces the same numbers).
MODULUS_BITS_MAX = {2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}


def _is_prime(candidate: int) -> bool:
    """Miller-Rabin with 12 bases, which is exact for every candidate below 2**64."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    for base in bases:
        if candidate % base == 0:
            return candidate == base
    odd, twos = candidate - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        power = pow(base, odd, candidate)
        if power in (1, candidate - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % candidate
            if power == candidate - 1:
                break
        else:
            return False
    return True


@functools.cache
def _seal_primes(ring_degree: int, prime_bits: tuple[int, ...]) -> tuple[int, ...]:
    """The primes that SEAL's CoeffModulus::Create selects.

    For each bit size SEAL takes the largest primes that are 1 modulo 2N, and assigns the smallest first.
    """
    step = 2 * ring_degree
    pools: dict[int, list[int]] = {}
    for bits in set(prime_bits):
        pool: list[int] = []
        candidate = ((1 << bits) - 1) // step * step + 1
        while len(pool) < prime_bits.count(bits):
            if candidate < 1 << (bits - 1):
                raise PlanError(f"there are too few {bits}-bit primes for ring degree {ring_degree}")
            if candidate < 1 << bits and _is_prime(candidate):
                pool.append(candidate)
            candidate -= step
        pools[bits] = pool
    return tuple(pools[bits].pop() for bits in prime_bits)


def plane_bytes(bits: int) -> int:
    """Bytes of one residue of a prime of this size on the wire: 4, 6 or 8 (docs/wire.md)."""
    return 4 if bits <= 32 else 6 if bits <= 48 else 8


@dataclass(frozen=True, slots=True)
class CkksParameters:
    """A ring degree N and the bit sizes of its primes; the last prime is never in a ciphertext.

    Raises PlanError if SEAL has no such ring with 128 bits of security.
    """

    ring_degree: int
    prime_bits: tuple[int, ...]

    def __post_init__(self) -> None:
        limit = MODULUS_BITS_MAX.get(self.ring_degree)
        if limit is None:
            raise PlanError(f"ring degree {self.ring_degree} is not one of {sorted(MODULUS_BITS_MAX)}")
        if len(self.prime_bits) < 2:
            raise PlanError("a ring needs at least two primes: data primes, and last the special prime")
        if any(not 14 <= bits <= 60 for bits in self.prime_bits):
            raise PlanError(f"prime sizes {list(self.prime_bits)} must each be 14 to 60 bits")
        if sum(self.prime_bits) > limit:
            raise PlanError(
                f"primes {list(self.prime_bits)} have {sum(self.prime_bits)} bits; 128-bit security at ring "
                f"degree {self.ring_degree} allows {limit}"
            )
        # Every legal last prime is 1 modulo 2N, so it is large enough to divide the encryption noise away.
        _seal_primes(self.ring_degree, self.prime_bits)

    @property
    def slots(self) -> int:
        """Numbers in one ciphertext: N / 2."""
        return self.ring_degree // 2

    @property
    def primes(self) -> tuple[int, ...]:
        """The data primes, in the order of the residues."""
        return _seal_primes(self.ring_degree, self.prime_bits)[:-1]

    @property
    def modulus(self) -> int:
        """Q, the product of the data primes."""
        return math.prod(self.primes)

    @property
    def wire_bytes(self) -> int:
        """Bytes of a ciphertext's residues on the wire: two components."""
        return 2 * self.ring_degree * sum(plane_bytes(bits) for bits in self.prime_bits[:-1])

    def __str__(self) -> str:
        return f"ring {self.ring_degree} {list(self.prime_bits)}"


# The rings that the planner chooses from, smallest on the wire first. Addition needs no relinearisation or
# Galois keys, and a last prime of 14 bits or more leaves only rounding noise in a fresh ciphertext.
RINGS = (
    CkksParameters(2048, (40, 14)),
    CkksParameters(4096, (32, 32, 20)),
    CkksParameters(4096, (48, 41, 20)),
    # Same bytes, 4 bits more room; its fresh error was measured to be equal.
    CkksParameters(4096, (48, 45, 16)),
    CkksParameters(8192, (48, 41, 20)),
    CkksParameters(8192, (48, 48, 48, 20)),
    CkksParameters(16384, (48, 48, 48, 20)),
    CkksParameters(32768, (48, 48, 48, 20)),
)

# Fixed rings for comparison; `medium` and larger leave room for multiplications of ciphertexts.
PRESETS = {
    "light": CkksParameters(4096, (48, 41, 20)),
    "medium": CkksParameters(8192, (60, 40, 40, 60)),
    "strong": CkksParameters(16384, (60, *[40] * 7, 60)),
    "maximum": CkksParameters(32768, (60, *[40] * 18, 60)),
}
