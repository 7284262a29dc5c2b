"""Strands: a leaf part's members in disjoint sets, each with a running sum of its own.

The authority opens a total only if every batch in it is sound. So that one bad batch does not cost its group
the whole window, a leaf part is kept as `STRANDS` sums, and its total is the sum of these. If the authority
refuses the total as unsound, the strands are sent once as parts of their own. A meter's strand is an HMAC of
its name and the window under a key that only this aggregator has. So no meter can choose its neighbours, and
they are others in each window.
"""

import hmac
from collections.abc import Sequence

__all__ = ["STRANDED_METERS", "STRANDS", "merged", "strand_of"]

STRANDS = 8
STRANDED_METERS = 40  # smaller parts have one sum only: an eighth of them would be too few


def strand_of(key: bytes, meter: str, window: int) -> int:
    """A meter's strand in a window, 0 to `STRANDS` - 1."""
    return hmac.digest(key, window.to_bytes(8, "big") + meter.encode(), "sha256")[0] % STRANDS


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
