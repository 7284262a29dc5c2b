"""Coverage: a leaf group's own total is opened only if enough of its enrolled meters are in it.

An aggregator chooses whose batches form a part. It could put a household together with others whose readings
it knows, such as empty houses: guards show five batches, not five strangers. Coverage (`release.coverage`, a
share of the meters that are enrolled in the group for the window) makes such picked company dear:

    part 0 of a leaf group      opened only with at least that share of the group's meters
    a later part of it          opened only inside a roll-up
    a strand of a failed part   judged with the failed part; whose members it has, no aggregator can choose
    a roll-up                   not concerned: its parts are pieces of several groups

A part that lacks coverage is treated as one too small to be published: it joins the wider group's total.
"""

from gridhe.errors import ReleaseRefused

__all__ = ["check_coverage"]


def check_coverage(group: str, part: int, *, meters: int, enrolled: int, share: float) -> None:
    """Check a leaf group's own total of `meters`; `enrolled` meters are in the group for its window.

    With a share of 0 there is no rule. Raises ReleaseRefused (`coverage`).
    """
    if not share:
        return
    if part:
        raise ReleaseRefused(
            "coverage",
            f"part {part} of {group} holds {meters} late meters, which are released only inside a wider "
            "group (release.coverage)",
        )
    if meters < share * enrolled:
        raise ReleaseRefused(
            "coverage",
            f"part {part} of {group} has {meters} of {enrolled} enrolled meters, and release.coverage asks "
            f"for {share:.0%}; it is released only inside a wider group. Revoke meters that are not in use",
        )
