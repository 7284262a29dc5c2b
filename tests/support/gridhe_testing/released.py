"""The integers of a released record, as slots."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.plan.plan import Plan

__all__ = ["released_slots"]


def released_slots(
    plan: Plan, record: dict[str, Any]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], set[str]]:
    """The released integers int64[used], which of them were not withheld, and the flags of all intervals."""
    slots, shown = np.zeros(plan.layout.used, np.int64), np.zeros(plan.layout.used, np.bool_)
    reasons: set[str] = set()
    for at, interval in enumerate(record["intervals"]):
        for quantity in plan.quantities:
            values = interval[quantity.name]
            reasons |= set(values["flags"])
            if values["sum"] is None:
                continue
            blocks = {"reading": values["sum"], "present": values["present"]}
            if "squares" in values:
                blocks["square"] = values["squares"]
            blocks |= {f"bin:{number}": count for number, count in enumerate(values.get("bins", []))}
            for kind, value in blocks.items():
                place = plan.layout.block(quantity.name, kind).start + at
                slots[place], shown[place] = value, True
    return slots, shown, reasons
