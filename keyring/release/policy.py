"""The release policy: which totals may be decrypted, and which intervals of them given out.

Pure: it knows the totals decided so far, and touches neither key, clock nor disk. Each refusal is a
ReleaseRefused with one of these rules:

    signature        the total is not signed by an enrolled aggregator
    plan             no such plan here, or the window is before the plan's first
    after_plan       the window ends after the plan does: it belongs to a later plan
    two_plans        a total of another plan, whose window overlaps this one in time, was released
    key              the plan's key is not in the vault (retired), or the total names another one
    minimum          fewer meters than the plan, or the settings, ask for
    capacity         more meters than the plan's ring sums exactly
    pieces           the pieces do not add up, lie outside the group, or contradict earlier ones
    changed_content  this total was released before, with other content
    overlap          it shares pieces with a released total, and neither contains the other
    isolates         together with released totals it would single out fewer meters than the minimum
    budget           the key has no decryptions left
    inconsistent     decrypted, but no interval holds a possible count: not a sum of this plan's batches

`gridhe.keyring.release.family` explains `overlap` and `isolates`, within one window of one plan. That is
enough because of `after_plan` and `two_plans`: of any moment, totals of one plan alone are released. After
decryption the same rule holds per interval with the meters present in it: intervals that would single
somebody out are withheld.
"""

from bisect import bisect_left
from collections.abc import Mapping
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
    "changed_content",
    "overlap",
    "isolates",
    "budget",
    "inconsistent",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a signed total says it is, and the digest of what it holds."""

    plan: str
    key: str
    aggregator: str
    group: str
    window: int
    part: int
    meters: int
    members: bytes  # digest of the member list
    pieces: tuple[tuple[str, int, int], ...]  # group, part, meters
    content: bytes  # SHA-256 of the ciphertext

    @property
    def total(self) -> TotalKey:
        """Which total this is."""
        return TotalKey(self.plan, self.group, self.window, self.part)

    @property
    def piece_meters(self) -> dict[PieceKey, int]:
        """Meters by (group, part)."""
        return {(group, part): meters for group, part, meters in self.pieces}

    def __str__(self) -> str:
        return f"{self.group} window {self.window} part {self.part}"


class ReleasePolicy:
    """The rules, and the totals they have let through."""

    def __init__(self, *, plans: Mapping[str, Plan], minimum_meters: int | None = None) -> None:
        """`plans` by id, every one there ever was; it may grow."""
        self._plans = plans
        self._stricter = minimum_meters or 0
        self._windows: dict[str, list[int]] = {}  # by plan, rising: those of which a total was let through
        self._decided: dict[TotalKey, Claim] = {}
        self._families: dict[tuple[str, int], Family] = {}
        self._used: dict[str, int] = {}

    def minimum(self, plan: Plan) -> int:
        """The fewest meters of a release of this plan: the plan's or, if stricter, the settings'."""
        return max(plan.minimum_meters, self._stricter)

    def used(self, key_id: str) -> int:
        """Decryptions decided under a key so far."""
        return self._used.get(key_id, 0)

    def decided(self, total: TotalKey) -> Claim | None:
        """The claim that was let through for this total."""
        return self._decided.get(total)

    def decide(self, claim: Claim, plan: Plan | None, *, key_held: bool) -> bool:
        """True: may be decrypted. False: it was let through before, word for word.

        Raises ReleaseRefused otherwise.

        The signature has been checked. Nothing is remembered here: `record` does that, once the decision is
        in the ledger. A claim let through before needs no rule again, not even a key.
        """
        before = self._decided.get(claim.total)
        if before == claim:
            return False
        if before is not None:
            raise ReleaseRefused("changed_content", f"{claim} was released before, with other content")
        if plan is None or plan.plan_id != claim.plan:
            raise ReleaseRefused("plan", f"{claim} is of plan {claim.plan}, which is not one of ours")
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
                f"key {claim.key} has given its {plan.decryptions} decryptions; rotate to a new key",
            )
        return True

    def _check_time(self, claim: Claim, plan: Plan) -> None:
        """Refuse a window that is not the plan's, or of whose time another plan's total was let through."""
        starts = [(plan_id, known.start_s) for plan_id, known in self._plans.items()]
        period = Succession([*starts, (claim.plan, plan.start_s)]).period(claim.plan)
        if period is not None and not period.holds(claim.window, plan.window_s):
            raise ReleaseRefused(
                "after_plan", f"{claim} ends after plan {claim.plan}, which ended at {iso(period.end_s)}"
            )
        start_s = plan.window_start_s(claim.window)
        for other, windows in self._windows.items():
            if other == claim.plan:
                continue
            other_s = self._plans[other].window_s
            at = bisect_left(windows, start_s // other_s)
            if at < len(windows) and windows[at] * other_s < start_s + plan.window_s:
                raise ReleaseRefused(
                    "two_plans", f"{claim} overlaps window {windows[at]} of plan {other}, which was released"
                )

    def _check_pieces(self, claim: Claim, minimum: int) -> None:
        pieces = claim.piece_meters
        if len(pieces) != len(claim.pieces) or not pieces:
            raise ReleaseRefused("pieces", f"{claim} names no pieces, or one twice")
        if min(pieces.values()) < 1 or sum(pieces.values()) != claim.meters:
            raise ReleaseRefused("pieces", f"{claim}: its pieces do not add up to {claim.meters} meters")
        for group, _ in pieces:
            if claim.group not in (ROOT_GROUP, group) and not group.startswith(claim.group + "/"):
                raise ReleaseRefused("pieces", f"{claim} holds a piece of {group}, which is not beneath it")
        family = self._families.get((claim.plan, claim.window), Family())
        family.check_pieces(pieces)
        same = family.member(frozenset(pieces))
        if same is None:
            family.check_residuals(frozenset(pieces), claim.meters, minimum)
        elif same.content != claim.content:
            # Two totals of the same meters must be the same ciphertext: batches are added, nothing else.
            raise ReleaseRefused(
                "changed_content", f"{claim} holds just the pieces of a released total, with other content"
            )

    def record(self, claim: Claim) -> Member:
        """Remember a claim that was let through, in the order of the ledger."""
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
        """Remember what was given out: per quantity the present counts, WITHHELD (-1) where nothing was."""
        member = self.record(claim)
        if member.given is None:
            member.given = dict(given)
        else:  # a second total of the same pieces
            before = member.given
            member.given = {name: np.maximum(given[name], before[name]) for name in before}

    def withheld(
        self, claim: Claim, plan: Plan, present: Mapping[str, NDArray[np.int64]]
    ) -> dict[str, list[str]]:
        """Per quantity and interval, why it must not be given out; "" where it may be.

        `present[quantity]` is int64[intervals], decrypted. Reasons: `impossible_count` (not 0..meters: what
        the next rule needs is unknown), `isolates` (it would leave 1 to minimum - 1 present meters alone).
        Raises ReleaseRefused (`inconsistent`) when no interval of any quantity has a possible count.
        """
        member = self.record(claim)
        family = self._families[claim.plan, claim.window]
        reasons: dict[str, list[str]] = {}
        possible_anywhere = False
        for quantity, counts in present.items():
            possible = (counts >= 0) & (counts <= claim.meters)
            possible_anywhere |= bool(possible.any())
            alone = family.withheld(member, quantity, np.where(possible, counts, 0), self.minimum(plan))
            reasons[quantity] = [
                "" if fine and not single else "isolates" if fine else "impossible_count"
                for fine, single in zip(possible, alone, strict=True)
            ]
        if not possible_anywhere:
            raise ReleaseRefused(
                "inconsistent", f"{claim} decrypts to no possible count: not a sum of this plan's batches"
            )
        return reasons


assert WITHHELD < 0  # noqa: S101  np.maximum in `answer` keeps a given count over a withheld one
