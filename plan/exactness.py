"""Conditions under which a decrypted total is the exact integer sum, and the limits of a ring.

K is the largest number of meters in a total, v the largest slot value of one meter, Q the product of the
data primes. `bound` is the slot error that is exceeded with probability below 2^-64 (`gridhe.plan.noise`).
A total is exact if

    bound / scale + K * v * 2^-50 <= 1/2           noise, and the rounding of doubles in encoding and decoding
    scale * K * v + noise < Q / 2                  no wrap-around: a wrapped total is garbage without an error
    K * v <= 2^46                                  the range in which doubles are precise enough
"""

import math
from collections.abc import Callable

from gridhe.config.settings import CkksSettings
from gridhe.errors import PlanError
from gridhe.plan.noise import FLOODING_TAIL, flooding_sigma, fresh_error_sigma, slot_error_bound
from gridhe.plan.parameters import CkksParameters

__all__ = ["capacity", "check_exact", "largest_slot", "limit", "rounding_room", "scale_range"]

_DOUBLE_BITS = 46  # K * v may reach 2^46
_DOUBLES_LOSE_BITS = 50  # encoding and decoding lose up to max * 2^-50.7 (measured, N = 32768)


def rounding_room(meters: int, largest: int) -> float:
    """The noise that a slot may have, in units of the reading; 0 or less if doubles leave no room."""
    return 0.5 - meters * largest * 2.0**-_DOUBLES_LOSE_BITS


def scale_range(parameters: CkksParameters, meters: int, largest: int, ckks: CkksSettings) -> tuple[int, int]:
    """The smallest and the largest exact log2(scale); smallest > largest if no scale is exact."""
    room = rounding_room(meters, largest)
    if room <= 0:
        return 1, 0
    flood = flooding_sigma(parameters.ring_degree, meters, ckks.flooding_bits, ckks.decryptions)
    minimum = math.ceil(math.log2(slot_error_bound(parameters.ring_degree, meters, flood) / room))
    # The largest power of two with scale * K * v + noise < Q / 2, in integers: Q may have hundreds of bits.
    # A coefficient is at most the largest slot. Its noise is that of the ciphertexts only, because flooding
    # is added after decryption. The noise is normal: a coefficient sums N products with the secret.
    noise = math.ceil(FLOODING_TAIL * fresh_error_sigma(parameters.ring_degree) * math.sqrt(meters))
    spare = max(0, parameters.modulus - 1 - 2 * noise)
    greatest = (spare // (2 * meters * largest)).bit_length() - 1
    return max(1, minimum), min(greatest, 120)


def check_exact(
    parameters: CkksParameters, scale_bits: int, meters: int, largest: int, ckks: CkksSettings
) -> None:
    """Raise PlanError, naming the limit, unless totals of `meters` slots of up to `largest` are exact."""
    if meters * largest > 2**_DOUBLE_BITS:
        raise PlanError(f"doubles: {meters} meters of {largest} exceed 2^{_DOUBLE_BITS}")
    minimum, greatest = scale_range(parameters, meters, largest, ckks)
    if scale_bits < minimum:
        raise PlanError(f"noise: {meters} meters need a scale of 2^{minimum}, not 2^{scale_bits}")
    if scale_bits > greatest:
        raise PlanError(
            f"wrap: {meters} meters of {largest} allow a scale of 2^{greatest}, not 2^{scale_bits}"
        )


def limit(parameters: CkksParameters, meters: int, largest: int, ckks: CkksSettings) -> str | None:
    """The reason why no scale is exact for so many meters; None if some scale is exact."""
    if meters * largest > 2**_DOUBLE_BITS:
        return "doubles"
    minimum, greatest = scale_range(parameters, meters, largest, ckks)
    return "noise against wrap" if minimum > greatest else None


def _maximum(exact: Callable[[int], bool]) -> int:
    """The largest exact number, 0 if none. Bisection works because every limit tightens with the number."""
    low, high = 0, 2**_DOUBLE_BITS + 1
    while high - low > 1:
        middle = (low + high) // 2
        if exact(middle):
            low = middle
        else:
            high = middle
    return low


def capacity(parameters: CkksParameters, largest: int, ckks: CkksSettings) -> int:
    """The most meters whose slots of up to `largest` this ring sums exactly; 0 if not even one."""
    return _maximum(lambda meters: limit(parameters, meters, largest, ckks) is None)


def largest_slot(parameters: CkksParameters, meters: int, ckks: CkksSettings) -> int:
    """The largest slot value that `meters` can sum exactly in this ring; 0 if none."""
    return _maximum(lambda largest: limit(parameters, meters, largest, ckks) is None)
