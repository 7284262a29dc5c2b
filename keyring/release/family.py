"""The family of released totals of one window, and the groups of meters that their differences isolate.

A total is a set of pieces (group, part): disjoint sets of meters. The family is *laminar*: of any two
totals, one contains the other or they share no piece. So they form a forest. The *residual* of a total S is
S without the totals directly beneath it:

    residual(S) = S minus the union of the largest totals of the family properly inside S

**No combination of released totals isolates fewer than m meters, if every residual is empty or holds at
least m.** Proof: residuals are pairwise disjoint (if T lies inside S, T lies inside a total that is
subtracted from S; if S and T are disjoint, so are their residuals), and every total is the union of the
residuals of the totals inside it, itself included. As vectors over meters, then, each total is a sum of
residuals, and the change of basis is triangular with ones on the diagonal. So every linear combination of
totals is a linear combination of residuals. It gives all meters of one residual the same weight. Residuals
are disjoint, so nothing cancels: the support is a union of residuals, empty or at least m meters.

The same holds per interval, with the meters *present* in it instead of all meters and with the totals
that released this interval as the family: a sub-family of a laminar family is laminar. The present count of
a residual is a difference of present counts, which are released themselves.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gridhe.errors import ReleaseRefused
from gridhe.plan.names import ancestors

__all__ = ["WITHHELD", "Family", "Member", "PieceKey"]

PieceKey = tuple[str, int]  # group, part
WITHHELD = -1  # instead of a present count that is not released


@dataclass(eq=False, slots=True, kw_only=True)
class Member:
    """One total of the family. `given`: its released present counts, int64[intervals] per quantity."""

    pieces: frozenset[PieceKey]
    meters: int
    content: bytes  # digest of the ciphertext
    parent: "Member | None" = None
    children: list["Member"] = field(default_factory=list)
    given: Mapping[str, NDArray[np.int64]] | None = None

    @property
    def residual(self) -> int:
        """How many meters of this total are in none of the totals beneath it."""
        return self.meters - sum(child.meters for child in self.children)

    def cover(self, quantity: str, intervals: int) -> NDArray[np.int64]:
        """Present counts, int64[intervals], of the largest totals from this one down that released them."""
        if self.given is None:
            return self.beneath(quantity, intervals)
        given = self.given[quantity]
        if np.all(given != WITHHELD):
            return given
        return np.where(given != WITHHELD, given, self.beneath(quantity, intervals))

    def beneath(self, quantity: str, intervals: int) -> NDArray[np.int64]:
        """The sum of `cover` over the totals directly beneath this one, int64[intervals]."""
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
        self._leaves: set[str] = set()  # groups of the pieces
        self._inner: set[str] = set()  # groups above the leaves

    def __len__(self) -> int:
        return len(self._members)

    def member(self, pieces: frozenset[PieceKey]) -> Member | None:
        """The released total of exactly these pieces, if there is one."""
        return self._members.get(pieces)

    def check_pieces(self, pieces: Mapping[PieceKey, int]) -> None:
        """Refuse (`pieces`) pieces that contradict known ones: other meter counts, or one inside another.

        Pieces must be of leaf groups: if `north` and `north/f1` were both pieces, they could share meters,
        and the proof above needs disjoint pieces.
        """
        leaves = self._leaves | {group for group, _ in pieces}
        for (group, part), meters in pieces.items():
            known = self._meters.get((group, part), meters)
            if known != meters:
                raise ReleaseRefused(
                    "pieces",
                    f"{group} part {part} has {meters} meters in this total and {known} in an earlier one",
                )
            above = [wider for wider in ancestors(group) if wider in leaves]
            if above or group in self._inner:
                raise ReleaseRefused(
                    "pieces",
                    f"{group} and {above[0] if above else 'a group beneath it'} cannot both be pieces",
                )

    def place(self, pieces: frozenset[PieceKey]) -> tuple[Member | None, list[Member]]:
        """The place of a new total: the smallest total around it and the largest ones inside it.

        Raises ReleaseRefused (`overlap`) if it and a released total share pieces and neither contains the
        other. The time is pieces times depth, independent of the size of the family.
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
        """Refuse (`overlap`, `isolates`) a total if a residual would have 1 to minimum - 1 meters."""
        around, inside = self.place(pieces)
        beneath = sum(member.meters for member in inside)
        own = meters - beneath
        if own < 0:
            raise ReleaseRefused("pieces", f"{meters} meters, but released totals inside it have {beneath}")
        if 0 < own < minimum:
            raise ReleaseRefused(
                "isolates",
                f"subtracting the {len(inside)} released totals inside it would isolate {own} meters; "
                f"the minimum is {minimum}",
            )
        if around is not None:
            rest = around.residual - own
            if 0 < rest < minimum:
                raise ReleaseRefused(
                    "isolates",
                    f"subtracting it from a released total of {around.meters} meters would isolate {rest}; "
                    f"the minimum is {minimum}",
                )

    def add(self, pieces: Mapping[PieceKey, int], content: bytes) -> Member:
        """Insert a decided total; return the existing one if a total has exactly these pieces."""
        key = frozenset(pieces)
        existing = self._members.get(key)
        if existing is not None:
            return existing
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
        """The intervals of a decrypted total that must not be released: bool[intervals].

        `present` is int64[intervals], each in 0..meters. An interval is withheld if releasing it would leave
        a residual of 1 to minimum - 1 present meters, in this total or in the smallest total around it that
        released the interval, or a negative residual (some count is impossible).
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
            # `wider` now has this total beneath it instead of the totals inside this one, so its residual
            # shrinks by this total's own residual.
            bad |= here & alone(given - _beneath_without(wider, member, quantity, intervals) - own)
            open_ &= ~here
        if member.given is not None:  # a total of the same pieces was released: the numbers are the same
            bad &= member.given[quantity] == WITHHELD
        return bad


def _beneath_without(wider: Member, member: Member, quantity: str, intervals: int) -> NDArray[np.int64]:
    """`wider.beneath` as it was before `member` was released."""
    before, member.given = member.given, None
    try:
        return wider.beneath(quantity, intervals)
    finally:
        member.given = before
