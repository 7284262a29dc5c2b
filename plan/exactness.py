"""Conditions under which a decrypted total is the exact integer sum, and the limits of a ring.

K is the largest number of meters in a total, v the largest number that one meter puts in a slot (a guard
included), Q the product of the data primes. `bound` is the slot error that is exceeded with probability below
2^-64 (`gridhe.plan.noise`). A total is exact if

    bound / scale + K * v * 2^-50 <= 1/2           noise, and the rounding of doubles in encoding and decoding
    scale * K * v + noise < Q / 2                  no wrap-around: a wrapped total is garbage without an error
    K * v <= 2^46                                  the range in which doubles are precise enough

Before flooding and rounding, a slot of a total of K meters is a whole number to within the tolerance

    tol(K) = 32 t sqrt(K) sqrt(N/2) / scale + K * v * 2^-50

which is the first line's bound without the flooding (t: `gridhe.plan.noise.fresh_error_sigma`).
"""

import math
from collections.abc import Callable

from gridhe.config.settings import CkksSettings
from gridhe.errors import PlanError
from gridhe.plan.noise import FLOODING_TAIL, flooding_sigma, fresh_error_sigma, slot_error_bound
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan

__all__ = [
    "capacity",
    "check_exact",
    "grid_tolerance",
    "guard_bits_for",
    "largest_slot",
    "limit",
    "rounding_room",
    "scale_range",
    "slot_tolerance",
]

_DOUBLE_BITS = 46  # K * v may reach 2^46
_DOUBLES_LOSE_BITS = 50  # encoding and decoding lose up to max * 2^-50.06 (measured, N = 32768)
_GUARD_BITS, _SHORT_GUARD_BITS = 16, 14


def guard_bits_for(largest: int) -> int:
    """Bits of a guard: 16, or 14 where guards of 16 would be larger than the largest slot of the plan."""
    return _GUARD_BITS if largest >= 2**_GUARD_BITS else _SHORT_GUARD_BITS


def slot_tolerance(parameters: CkksParameters, scale_bits: int, meters: int, largest: int) -> float:
    """tol(K) in units of the reading, for totals of `meters` slots of up to `largest`, without flooding."""
    return (
        slot_error_bound(parameters.ring_degree, meters) / 2.0**scale_bits
        + meters * largest * 2.0**-_DOUBLES_LOSE_BITS
    )


def grid_tolerance(plan: Plan, meters: int) -> float:
    """tol(K): how far a slot of an honest total may be from a whole number, in units of the reading.

    `meters` is the number of batches in the total. A slot that was neither flooded nor rounded exceeds this
    with probability below 2^-64, in its real or in its imaginary part.
    """
    largest = max(2**plan.guard_bits, *(quantity.largest_slot for quantity in plan.quantities))
    return slot_tolerance(plan.parameters, plan.scale_bits, meters, largest)


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
