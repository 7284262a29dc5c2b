"""The release policy: which totals may be decrypted, and which of their intervals may be released.

The policy is pure: it has the totals decided so far, and uses no key, clock or disk. Each refusal is a
ReleaseRefused with one of these rules:

    signature        the total is not signed by an enrolled aggregator
    plan             this home has no such plan, or the window is before the plan's first
    after_plan       the window ends after the plan does: it belongs to a later plan
    two_plans        a total of another plan, whose window overlaps this one in time, was released
    key              the plan's key is not in the vault (retired), or the total names another one
    minimum          fewer meters than the minimum of the plan or of the settings
    capacity         more meters than the plan's ring sums exactly
    pieces           the pieces do not add up, lie outside the group, or contradict earlier ones
    suspended        failed totals have stopped its aggregator, its group or its key (release.stops)
    changed_members  this total was decided before, or a piece had a list before, with other members
    changed_content  this total was decided before, with other content
    overlap          it shares pieces with a released total, and neither contains the other
    isolates         together with released totals it would isolate fewer meters than the minimum
    budget           the key has no decryptions left
    ciphertext       the bytes are not a ciphertext of this plan
    members          a member list is not valid, or a piece without list was not opened (release.register)
    coverage         a leaf group's own total has too few of its enrolled meters (release.coverage)
    members_twice    a meter stands in another piece of this time (release.register)
    unsound          decrypted, and not the sum of the batches that it names (release.decrypt)

`gridhe.keyring.release.family` explains `overlap` and `isolates`, within one window of one plan. That is
enough because of `after_plan` and `two_plans`: for any moment, only totals of one plan are released. After
decryption the same rule is applied per interval to the meters proven to be present in it: intervals that
would isolate too few meters are withheld.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gridhe.base.times import iso
from gridhe.errors import ReleaseRefused
from gridhe.keyring.release.family import WITHHELD, Family, Member, PieceKey
from gridhe.plan.names import ROOT_GROUP
from gridhe.plan.plan import Plan
from gridhe.plan.succession import Succession
from gridhe.wire.total import TotalKey

__all__ = ["RULES", "Claim", "ReleasePolicy"]

RULES = (
    "signature",
    "plan",
    "after_plan",
    "two_plans",
    "key",
    "minimum",
    "capacity",
    "pieces",
    "suspended",
    "changed_members",
    "changed_content",
    "overlap",
    "isolates",
    "budget",
    "ciphertext",
    "members",
    "members_twice",
    "coverage",
    "unsound",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The header of a signed total, and the digest of its ciphertext."""

    plan: str
    key: str
    aggregator: str
    group: str
    window: int
    part: int
    meters: int
    members: tuple[bytes, ...]  # for each piece the digest of its member list, b"" if it brings none
    pieces: tuple[tuple[str, int, int], ...]  # group, part, meters
    content: bytes  # SHA-256 of the ciphertext

    @property
    def total(self) -> TotalKey:
        """The key of this total."""
        return TotalKey(self.plan, self.group, self.window, self.part)

    @property
    def piece_meters(self) -> dict[PieceKey, int]:
        """Meters by (group, part)."""
        return {(group, part): meters for group, part, meters in self.pieces}

    def __str__(self) -> str:
        return f"{self.group} window {self.window} part {self.part}"


class ReleasePolicy:
    """The rules, and the totals that they allowed."""

    def __init__(self, *, plans: Mapping[str, Plan], minimum_meters: int | None = None) -> None:
        """`plans`: all plans of this home by id, also ended ones; the mapping may grow."""
        self._plans = plans
        self._stricter = minimum_meters or 0
        self._windows: dict[str, list[int]] = {}  # by plan, ascending: windows with an allowed total
        self._decided: dict[TotalKey, Claim] = {}
        self._families: dict[tuple[str, int], Family] = {}
        self._used: dict[str, int] = {}

    def minimum(self, plan: Plan) -> int:
        """The minimum of meters for a total of this plan: the larger of the plan's and the settings'."""
        return max(plan.minimum_meters, self._stricter)

    def used(self, key_id: str) -> int:
        """How many decryptions were decided under a key."""
        return self._used.get(key_id, 0)

    def decided(self, total: TotalKey) -> Claim | None:
        """The claim that was allowed for this total, if there is one."""
        return self._decided.get(total)

    def decide(self, claim: Claim, plan: Plan | None, *, key_held: bool) -> bool:
        """Return True if the total may be decrypted, False if the same claim was allowed before.

        Raises ReleaseRefused otherwise. The caller has checked the signature. This changes nothing: call
        `record` once the decision is in the ledger. The rules are not applied again to a claim that was
        allowed before, so it needs no key.
        """
        before = self._decided.get(claim.total)
        if before == claim:
            return False
        if before is not None:
            if (before.pieces, before.members) != (claim.pieces, claim.members):
                raise ReleaseRefused("changed_members", f"{claim} was decided before, with other members")
            raise ReleaseRefused("changed_content", f"{claim} was decided before, with other content")
        if plan is None or plan.plan_id != claim.plan:
            raise ReleaseRefused("plan", f"{claim} is of plan {claim.plan}, which this home does not have")
        if claim.window < plan.first_window:
            raise ReleaseRefused("plan", f"{claim} is before the plan's first window, {plan.first_window}")
        self._check_time(claim, plan)
        if claim.key != plan.key_id:
            raise ReleaseRefused("key", f"{claim} names key {claim.key}, its plan has {plan.key_id}")
        if not key_held:
            raise ReleaseRefused("key", f"{claim} needs key {claim.key}, which is retired")
        minimum = self.minimum(plan)
        if claim.meters < minimum:
            raise ReleaseRefused("minimum", f"{claim} has {claim.meters} meters; the minimum is {minimum}")
        if claim.meters > plan.largest_rollup:
            raise ReleaseRefused(
                "capacity",
                f"{claim} has {claim.meters} meters; the plan is exact up to {plan.largest_rollup}",
            )
        self._check_pieces(claim, minimum)
        if self.used(claim.key) >= plan.decryptions:
            raise ReleaseRefused(
                "budget",
                f"key {claim.key} has used its {plan.decryptions} decryptions; rotate to a new key",
            )
        return True

    def _check_time(self, claim: Claim, plan: Plan) -> None:
        """Refuse a window after the plan's end, or one that overlaps an allowed window of another plan."""
        starts = [(plan_id, known.start_s) for plan_id, known in self._plans.items()]
        period = Succession([*starts, (claim.plan, plan.start_s)]).period(claim.plan)
        if period is not None and not period.holds(claim.window, plan.window_s):
            raise ReleaseRefused(
                "after_plan", f"{claim} ends after plan {claim.plan}, which ended at {iso(period.end_s)}"
            )
        for other, window in self.overlapping(claim, plan):
            raise ReleaseRefused(
                "two_plans", f"{claim} overlaps window {window} of plan {other}, which was released"
            )

    def overlapping(self, claim: Claim, plan: Plan) -> Iterator[tuple[str, int]]:
        """The windows of other plans, with a decided total, that overlap the claim's window in time."""
        start_s = plan.window_start_s(claim.window)
        for other, windows in self._windows.items():
            if other == claim.plan:
                continue
            other_s = self._plans[other].window_s
            for window in windows[bisect_left(windows, start_s // other_s) :]:
                if window * other_s >= start_s + plan.window_s:
                    break
                yield other, window

    def _check_pieces(self, claim: Claim, minimum: int) -> None:
        pieces = claim.piece_meters
        if len(pieces) != len(claim.pieces) or not pieces:
            raise ReleaseRefused("pieces", f"{claim} names no pieces, or names one twice")
        if min(pieces.values()) < 1 or sum(pieces.values()) != claim.meters:
            raise ReleaseRefused("pieces", f"{claim}: its pieces do not add up to {claim.meters} meters")
        for group, _ in pieces:
            if claim.group not in (ROOT_GROUP, group) and not group.startswith(claim.group + "/"):
                raise ReleaseRefused(
                    "pieces", f"{claim} has a piece of {group}, which is not part of that group"
                )
            if group == claim.group and claim.pieces != ((group, claim.part, claim.meters),):
                raise ReleaseRefused(
                    "pieces",
                    f"{claim}: a total of a group with meters has exactly one piece, of its group and part",
                )
        family = self._families.get((claim.plan, claim.window), Family())
        family.check_pieces(pieces)
        same = family.member(frozenset(pieces))
        if same is None:
            family.check_residuals(frozenset(pieces), claim.meters, minimum)
        elif same.content != claim.content:
            # A total is the sum of its batches, so totals of the same pieces must be the same ciphertext.
            raise ReleaseRefused(
                "changed_content", f"{claim} has exactly the pieces of a released total, with other content"
            )

    def record(self, claim: Claim) -> Member:
        """Add an allowed claim; call this in the order of the ledger."""
        family = self._families.setdefault((claim.plan, claim.window), Family())
        member = family.add(claim.piece_meters, claim.content)
        if claim.total not in self._decided:
            self._decided[claim.total] = claim
            windows = self._windows.setdefault(claim.plan, [])
            at = bisect_left(windows, claim.window)
            if at == len(windows) or windows[at] != claim.window:
                windows.insert(at, claim.window)
            self._used[claim.key] = self.used(claim.key) + 1
        return member

    def answer(self, claim: Claim, given: Mapping[str, NDArray[np.int64]]) -> None:
        """Add the released present counts, int64[intervals] per quantity; WITHHELD (-1) if not released."""
        member = self.record(claim)
        if member.given is None:
            member.given = dict(given)
        else:  # a second total of the same pieces
            before = member.given
            member.given = {name: np.maximum(given[name], before[name]) for name in before}

    def withheld(
        self, claim: Claim, plan: Plan, present: Mapping[str, NDArray[np.int64]]
    ) -> dict[str, list[str]]:
        """Per quantity and interval, the reason not to release it; "" if it may be released.

        `present[quantity]` is int64[intervals], proven. Reason: `isolates` (it would isolate 1 to
        minimum - 1 present meters).
        """
        member = self.record(claim)
        family = self._families[claim.plan, claim.window]
        return {
            quantity: [
                "isolates" if alone else ""
                for alone in family.withheld(member, quantity, counts, self.minimum(plan))
            ]
            for quantity, counts in present.items()
        }


assert WITHHELD < 0  # noqa: S101  np.maximum in `answer` prefers a released count to a withheld one
