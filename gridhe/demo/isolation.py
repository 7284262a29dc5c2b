"""Whether what was given out singles anybody out, judged from the plaintext's own counts.

Groups form a tree. Of one interval, let R be the groups whose sums were given out. What can be computed
by adding and subtracting them are the unions of R's *atoms*: a group of R without its nearest
descendants in R. (The atoms are disjoint and as many as R, so they are a basis of all combinations, and a
combination that is a set of meters is a union of some.) Nobody is singled out, and the release policy has
kept its promise, when no atom holds 1 to minimum - 1 meters that have a reading.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gridhe.plan.names import ROOT_GROUP, parent_group

__all__ = ["isolated", "unjustified"]

Counts = Mapping[str, NDArray[np.int64]]  # group -> meters with a reading, int64[intervals]
Given = Mapping[str, NDArray[np.bool_]]  # group -> whether its sums were given out, bool[intervals]


def isolated(present: Counts, given: Given, minimum: int) -> NDArray[np.bool_]:
    """The intervals bool[intervals] in which some atom holds 1 to minimum - 1 meters."""
    children: dict[str, list[str]] = {group: [] for group in present}
    for group in present:
        parent = parent_group(group)
        if parent is not None:
            children[parent].append(group)
    bad = np.zeros(len(present[ROOT_GROUP]), np.bool_)

    def covered(group: str) -> NDArray[np.int64]:
        """Meters beneath (or in) the group that R knows apart from what is above it."""
        nonlocal bad
        beneath = sum((covered(child) for child in children[group]), np.zeros(len(bad), np.int64))
        left = present[group] - beneath
        bad = bad | (given[group] & (left > 0) & (left < minimum))
        return np.where(given[group], present[group], beneath)

    covered(ROOT_GROUP)
    return bad


def unjustified(present: Counts, given: Given, minimum: int) -> dict[str, NDArray[np.bool_]]:
    """Per group the intervals bool[intervals] withheld though giving them out too singles out nobody."""
    found = {}
    for group, shown in given.items():
        bad = isolated(present, {**given, group: np.ones_like(shown)}, minimum)
        found[group] = ~shown & ~bad
    return found
