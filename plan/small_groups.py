"""How few meters may be released together: the floor of `minimum_meters`.

A sum, a sum of squares and a histogram of few readings can determine every one of them. Measured with
`tools/second_moments.py` on 410 households whose meters count in steps of 10 Wh (docs/small-groups.md): with
squares all readings were determined in 69 of 100 intervals of 3 meters and in 1 of 100 of 5 meters, and no
reading in 2,000 intervals of 8 or of 10 meters. Without squares none of 3, 5 or 10 meters was.

A reader of releases may know some readings, at least its own, and can subtract them. So the floor with
squares leaves room for two known readings. `plan.small_groups: accepted` permits a smaller minimum.
"""

from collections.abc import Iterable

from gridhe.errors import PlanError
from gridhe.plan.quantity import Quantity

__all__ = ["FLOOR", "FLOOR_WITH_SQUARES", "check_minimum", "floor"]

FLOOR = 5
FLOOR_WITH_SQUARES = 10  # 8 undetermined readings, and 2 that a reader may know


def floor(quantities: Iterable[Quantity]) -> int:
    """The least `minimum_meters` that a plan for these quantities may have."""
    return FLOOR_WITH_SQUARES if any(quantity.squares for quantity in quantities) else FLOOR


def check_minimum(minimum_meters: int, quantities: tuple[Quantity, ...], *, accepted: bool) -> None:
    """Raise PlanError, with the ways out, if the minimum is below the floor and that is not `accepted`."""
    least = floor(quantities)
    if accepted or minimum_meters >= least:
        return
    way_out = f"set plan.minimum_meters {least}, or accept this with plan.small_groups accepted"
    if least > FLOOR:
        way_out += f"; without the statistic variance {FLOOR} are enough"
    raise PlanError(
        f"plan.minimum_meters {minimum_meters} is below {least}: released statistics of so few meters can "
        f"determine single readings (docs/small-groups.md); {way_out}"
    )
