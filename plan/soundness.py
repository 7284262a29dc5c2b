"""Soundness of guards: when no multiple of an honest batch can pass the authority's checks.

G guard slots of b bits hold pseudo-random numbers, D slots hold data. A forger adds r times an honest
batch, r an integer polynomial that is not 0. Guard slot j then holds r(zeta_j) times a guard that the forger
does not know, and passes with chance at most 2^-b (1 + 2.83 tol / |r(zeta_j)|). So r must be below
2.83 tol 2^-(b-1) in nearly all guard slots. In a data slot r may be at most

    2^A = 4 tol scale / (t sqrt(N/2))        t sqrt(N/2): error of a fresh slot (`gridhe.plan.noise`)

because a larger r lifts the batch's own error off the grid of whole numbers. The norm of r, the product of
|r(zeta_j)|^2 over all slots, is a whole number of at least 1: a small r in the guard slots needs a large r
in the data slots. With

    T = log2(2.83 tol)        u = 128 / (b - 1) guard slots given up to luck

no such r exists if

    (G - u) (b - 1 - T)  >=  (D + u) A + 128

The left side minus the right side is the number of bits to spare. The tolerance grows with the number of
meters, so the condition is checked for the widest roll-up. docs/parameters.md has figures.
"""

import math

from gridhe.errors import PlanError
from gridhe.plan.exactness import slot_tolerance
from gridhe.plan.noise import slot_error_sigma
from gridhe.plan.parameters import CkksParameters

__all__ = ["bits_to_spare", "check_sound", "most_slots"]

_SECURITY_BITS = 128
_DIAGONAL = 2.83  # 2 sqrt(2): of the square in which a slot's real and imaginary parts are within 1


def bits_to_spare(
    parameters: CkksParameters,
    scale_bits: int,
    *,
    used: int,
    meters: int,
    largest: int,
    guard_bits: int,
    tolerance: float | None = None,
) -> float:
    """Left side minus right side of the condition, in bits; negative if some multiple may pass.

    `used` is D, `meters` the most in a total, `largest` the largest number that one meter puts in a slot.
    `tolerance`, in units of the reading, replaces tol(`meters`) where something else widens the grid test.
    """
    if tolerance is None:
        tolerance = slot_tolerance(parameters, scale_bits, meters, largest)
    fresh = slot_error_sigma(parameters.ring_degree, 1)
    data_bits = 2 + math.log2(tolerance) + scale_bits - math.log2(fresh)  # A
    guard_slot_bits = guard_bits - 1 - math.log2(_DIAGONAL * tolerance)  # b - 1 - T
    luck = _SECURITY_BITS / (guard_bits - 1)  # u
    guards = parameters.slots - used  # G
    return (guards - luck) * guard_slot_bits - (used + luck) * data_bits - _SECURITY_BITS


def most_slots(
    parameters: CkksParameters,
    scale_bits: int,
    *,
    meters: int,
    largest: int,
    guard_bits: int,
    tolerance: float | None = None,
) -> int:
    """The most used slots with which the condition holds; 0 if not even one does."""
    low, high = 0, parameters.slots
    while high - low > 1:
        middle = (low + high) // 2
        spare = bits_to_spare(
            parameters,
            scale_bits,
            used=middle,
            meters=meters,
            largest=largest,
            guard_bits=guard_bits,
            tolerance=tolerance,
        )
        low, high = (middle, high) if spare >= 0 else (low, middle)
    return low


def check_sound(
    parameters: CkksParameters, scale_bits: int, *, used: int, meters: int, largest: int, guard_bits: int
) -> None:
    """Raise PlanError, naming the limit, unless no multiple of a batch can pass in totals of `meters`."""
    spare = bits_to_spare(
        parameters, scale_bits, used=used, meters=meters, largest=largest, guard_bits=guard_bits
    )
    if spare < 0:
        most = most_slots(parameters, scale_bits, meters=meters, largest=largest, guard_bits=guard_bits)
        raise PlanError(
            f"soundness: {parameters} has {parameters.slots} slots and allows {most} for data with {meters} "
            f"meters, the plan needs {used}: the other slots hold guards"
        )
