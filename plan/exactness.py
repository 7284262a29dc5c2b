"""When a total is the integer sum, and how far a ring goes.

With N the ring degree, K the most meters ever summed, v the largest slot of one meter, Q the
product of the data primes and `bound` what a slot's error stays below (`gridhe.plan.noise`):

    bound / scale + K * v * 2^-50 <= 1/2           noise, and what doubles lose in encoding and decoding
    scale * K * v + noise < Q / 2                  no wrap: one that wraps gives garbage, no error
    K * v <= 2^46                                  doubles carry it
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
    """How far noise may move a slot, in units of the reading; 0 or less when doubles lose it all."""
    return 0.5 - meters * largest * 2.0**-_DOUBLES_LOSE_BITS


def scale_range(parameters: CkksParameters, meters: int, largest: int, ckks: CkksSettings) -> tuple[int, int]:
    """The least and the greatest log2(scale) that are exact; least > greatest when none is."""
    room = rounding_room(meters, largest)
    if room <= 0:
        return 1, 0
    flood = flooding_sigma(parameters.ring_degree, meters, ckks.flooding_bits, ckks.decryptions)
    minimum = math.ceil(math.log2(slot_error_bound(parameters.ring_degree, meters, flood) / room))
    # The largest power of two with scale * K * v + noise < Q / 2, in integers: Q may have hundreds of bits.
    # A coefficient is at most the largest slot; only the ciphertexts' own noise is in it (the flooding is
    # added after decryption), normal: a coefficient sums N products with the secret.
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
    """Why no scale is exact for so many meters, or None when one is."""
    if meters * largest > 2**_DOUBLE_BITS:
        return "doubles"
    minimum, greatest = scale_range(parameters, meters, largest, ckks)
    return "noise against wrap" if minimum > greatest else None


def _maximum(exact: Callable[[int], bool]) -> int:
    """The largest number that is exact, 0 if none: every limit only tightens, so a bisection finds it."""
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
