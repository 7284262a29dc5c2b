"""The family of released totals of one window, and what their differences would single out.

A total is a set of pieces (group, part): disjoint sets of meters. The family is *laminar*: of any two
totals, one contains the other or they share no piece. So they form a forest. The *residual* of a total S is
what is left of S without the totals directly beneath it:

    residual(S) = S minus the union of the largest totals of the family properly inside S

**No combination of released totals isolates fewer than m meters, if every residual is empty or holds at
least m.** Proof: residuals are pairwise disjoint (if T lies inside S, T is part of something that is
taken off S; if S and T share nothing, neither do their residuals), and every total is the union of the
residuals of the totals inside it, itself included. As vectors over meters, then, each total is a sum of
residuals, and the change of basis is triangular with ones on the diagonal. So every linear combination of
totals is one of residuals; it weighs all meters of one residual alike; and as residuals are disjoint
nothing cancels: its support is a union of residuals, empty or at least m meters.

The same holds per interval, with the meters *present* in it in the place of meters and with the totals
that gave out this interval as the family: a sub-family of a laminar family is laminar. The present count of
a residual is the difference of present counts, which are themselves released.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gridhe.errors import ReleaseRefused
from gridhe.plan.names import ancestors

__all__ = ["WITHHELD", "Family", "Member", "PieceKey"]

PieceKey = tuple[str, int]  # group, part
WITHHELD = -1  # in the place of a present count that was not given out


@dataclass(eq=False, slots=True, kw_only=True)
class Member:
    """One total of the family. `given` is int64[intervals] per quantity once it is answered."""

    pieces: frozenset[PieceKey]
    meters: int
    content: bytes  # digest of the ciphertext
    parent: "Member | None" = None
    children: list["Member"] = field(default_factory=list)
    given: Mapping[str, NDArray[np.int64]] | None = None

    @property
    def residual(self) -> int:
        """Meters in this total that are in none of the totals beneath it."""
        return self.meters - sum(child.meters for child in self.children)

    def cover(self, quantity: str, intervals: int) -> NDArray[np.int64]:
        """Present counts of the largest totals, from this one downwards, that gave the interval out."""
        if self.given is None:
            return self.beneath(quantity, intervals)
        given = self.given[quantity]
        if np.all(given != WITHHELD):
            return given
        return np.where(given != WITHHELD, given, self.beneath(quantity, intervals))

    def beneath(self, quantity: str, intervals: int) -> NDArray[np.int64]:
        """`cover`, strictly beneath this total."""
        total = np.zeros(intervals, np.int64)
        for child in self.children:
            total = total + child.cover(quantity, intervals)
        return total

    def above(self) -> Iterator["Member"]:
        """The totals that contain this one, smallest first."""
        wider = self.parent
        while wider is not None:
            yield wider
            wider = wider.parent


class Family:
    """The released totals of one (plan, window)."""

    def __init__(self) -> None:
        self._members: dict[frozenset[PieceKey], Member] = {}
        self._smallest: dict[PieceKey, Member] = {}  # the smallest total that holds a piece
        self._meters: dict[PieceKey, int] = {}
        self._leaves: set[str] = set()  # groups that pieces are of
        self._inner: set[str] = set()  # groups above those

    def __len__(self) -> int:
        return len(self._members)

    def member(self, pieces: frozenset[PieceKey]) -> Member | None:
        """The released total of exactly these pieces."""
        return self._members.get(pieces)

    def check_pieces(self, pieces: Mapping[PieceKey, int]) -> None:
        """Refuse (`pieces`) pieces that contradict those already known: other meters, or one inside another.

        Pieces must be of leaf groups: if `north` and `north/f1` were both pieces, nothing would tell
        whether they share meters, and the proof above rests on it.
        """
        leaves = self._leaves | {group for group, _ in pieces}
        for (group, part), meters in pieces.items():
            known = self._meters.get((group, part), meters)
            if known != meters:
                raise ReleaseRefused(
                    "pieces", f"{group} part {part} is said to have {meters} meters, and had {known} before"
                )
            above = [wider for wider in ancestors(group) if wider in leaves]
            if above or group in self._inner:
                raise ReleaseRefused(
                    "pieces",
                    f"{group} and {above[0] if above else 'a group beneath it'} cannot both be pieces",
                )

    def place(self, pieces: frozenset[PieceKey]) -> tuple[Member | None, list[Member]]:
        """Where a new total would stand: the smallest total around it, the largest ones inside it.

        Raises ReleaseRefused (`overlap`) when it and a released total share pieces and neither contains
        the other. Takes time of pieces times depth, however large the family.
        """
        shared: dict[int, tuple[Member, int]] = {}
        for piece in pieces:
            member = self._smallest.get(piece)
            while member is not None:
                shared[id(member)] = (member, shared.get(id(member), (member, 0))[1] + 1)
                member = member.parent
        inside: list[Member] = []
        around: list[Member] = []
        for member, count in shared.values():
            if count == len(member.pieces):
                inside.append(member)
            elif count == len(pieces):
                around.append(member)
            else:
                names = sorted(f"{group} part {part}" for group, part in member.pieces - pieces)
                raise ReleaseRefused(
                    "overlap",
                    f"it shares {count} of its {len(pieces)} pieces with a released total that also holds "
                    f"{names[0]}; neither contains the other",
                )
        taken = {id(member) for member in inside}
        top = [member for member in inside if id(member.parent) not in taken]
        return min(around, key=lambda member: len(member.pieces), default=None), top

    def check_residuals(self, pieces: frozenset[PieceKey], meters: int, minimum: int) -> None:
        """Refuse (`overlap`, `isolates`) a total whose release would leave 1 to least - 1 meters alone."""
        around, inside = self.place(pieces)
        beneath = sum(member.meters for member in inside)
        own = meters - beneath
        if own < 0:
            raise ReleaseRefused("pieces", f"{meters} meters, but released totals inside it have {beneath}")
        if 0 < own < minimum:
            raise ReleaseRefused(
                "isolates",
                f"without the {len(inside)} released totals inside it, {own} meters would stand alone; "
                f"the minimum is {minimum}",
            )
        if around is not None:
            rest = around.residual - own
            if 0 < rest < minimum:
                raise ReleaseRefused(
                    "isolates",
                    f"taken off a released total of {around.meters} meters it would leave {rest} alone; "
                    f"the minimum is {minimum}",
                )

    def add(self, pieces: Mapping[PieceKey, int], content: bytes) -> Member:
        """Put a decided total in its place; the one of exactly these pieces if it is here already."""
        key = frozenset(pieces)
        found = self._members.get(key)
        if found is not None:
            return found
        around, inside = self.place(key)
        member = Member(
            pieces=key, meters=sum(pieces.values()), content=content, parent=around, children=inside
        )
        for child in inside:
            if around is not None:
                around.children.remove(child)
            child.parent = member
        if around is not None:
            around.children.append(member)
        for piece in key:
            smallest = self._smallest.get(piece)
            if smallest is None or len(smallest.pieces) > len(key):
                self._smallest[piece] = member
        self._members[key] = member
        self._meters.update(pieces)
        for group, _ in pieces:
            self._leaves.add(group)
            self._inner.update(ancestors(group))
        return member

    def withheld(
        self, member: Member, quantity: str, present: NDArray[np.int64], minimum: int
    ) -> NDArray[np.bool_]:
        """Which intervals of a decrypted total must not be given out: bool[intervals].

        `present` is int64[intervals], each known to be possible (0..meters). An interval is withheld when
        giving it out would leave a residual of 1 to least - 1 present meters, in this total or in the
        smallest one around it that gave the interval out, or a negative one (an impossible count somewhere).
        """
        intervals = len(present)

        def alone(count: NDArray[np.int64]) -> NDArray[np.bool_]:
            return (count < 0) | ((count > 0) & (count < minimum))

        own = present - member.beneath(quantity, intervals)
        bad = alone(own)
        open_ = ~bad
        for wider in member.above():
            if wider.given is None:
                continue
            given = wider.given[quantity]
            here = open_ & (given != WITHHELD)
            # In the place of what lay beneath this total, wider now has this total beneath it: its residual
            # shrinks by this total's own.
            bad |= here & alone(given - _beneath_without(wider, member, quantity, intervals) - own)
            open_ &= ~here
        if member.given is not None:  # a total of the same pieces was answered: the same numbers again
            bad &= member.given[quantity] == WITHHELD
        return bad


def _beneath_without(wider: Member, member: Member, quantity: str, intervals: int) -> NDArray[np.int64]:
    """`wider.beneath` with `member` itself not yet given out."""
    before, member.given = member.given, None
    try:
        return wider.beneath(quantity, intervals)
    finally:
        member.given = before
