"""Strands: a leaf part's members in disjoint sets, each with a running sum of its own.

The authority opens a total only if every batch in it is sound. So that one bad batch does not cost its group
the whole window, a leaf part is kept as `STRANDS` sums, and its total is the sum of these. If the authority
refuses the total as unsound, the strands are sent once as parts of their own. `gridhe.wire.strands` says
which meter is in which.
"""

from collections.abc import Sequence

__all__ = ["merged"]


def merged(meters: Sequence[int], minimum: int) -> list[list[int]]:
    """The strands that are not empty, in sets of at least `minimum` meters each; one set if all are too few.

    `meters`: how many each strand has.
    """
    sets: list[list[int]] = []
    count = minimum
    for strand, size in enumerate(meters):
        if not size:
            continue
        if count >= minimum:
            sets.append([])
            count = 0
        sets[-1].append(strand)
        count += size
    if count < minimum and len(sets) > 1:
        rest = sets.pop()
        sets[-1] += rest
    return sets
