"""Check that released sums never isolate fewer than `minimum` meters, from the plaintext's counts.

Groups form a tree. For one interval, let R be the groups with released sums. An *atom* of R is a group of R
without its nearest descendants in R. Adding and subtracting released sums gives exactly the unions of atoms:
the atoms are disjoint and as many as R, so they are a basis of all combinations, and a combination that is a
set of meters is a union of atoms. So the release policy is correct if no atom has 1 to minimum - 1 meters
with a reading.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gridhe.plan.names import ROOT_GROUP, parent_group

__all__ = ["isolated", "unjustified"]

Counts = Mapping[str, NDArray[np.int64]]  # group -> meters with a reading, int64[intervals]
Given = Mapping[str, NDArray[np.bool_]]  # group -> whether its sums were released, bool[intervals]


def isolated(present: Counts, given: Given, minimum: int) -> NDArray[np.bool_]:
    """The intervals bool[intervals] in which some atom has 1 to minimum - 1 meters with a reading."""
    children: dict[str, list[str]] = {group: [] for group in present}
    for group in present:
        parent = parent_group(group)
        if parent is not None:
            children[parent].append(group)
    bad = np.zeros(len(present[ROOT_GROUP]), np.bool_)

    def covered(group: str) -> NDArray[np.int64]:
        """The number of meters in the group that are in released groups at or below it."""
        nonlocal bad
        beneath = sum((covered(child) for child in children[group]), np.zeros(len(bad), np.int64))
        left = present[group] - beneath
        bad = bad | (given[group] & (left > 0) & (left < minimum))
        return np.where(given[group], present[group], beneath)

    covered(ROOT_GROUP)
    return bad


def unjustified(present: Counts, given: Given, minimum: int) -> dict[str, NDArray[np.bool_]]:
    """group -> bool[intervals]: withheld intervals whose release would not isolate too few meters."""
    needless = {}
    for group, shown in given.items():
        bad = isolated(present, {**given, group: np.ones_like(shown)}, minimum)
        needless[group] = ~shown & ~bad
    return needless
