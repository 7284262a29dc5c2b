"""Opened pieces: their answers and guard sums, out of which a wider total is made or checked.

A wider total whose pieces were all opened, with nothing withheld in them, is the sum of their answers: its
ciphertext is not decrypted. The guards of any other total are the sums of its pieces': stored ones for pieces
that were in an opened total, computed ones for those that bring their list.
"""

import functools
import operator
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gridhe.keyring.release.answers import Answer, Answers
from gridhe.keyring.release.family import PieceKey
from gridhe.keyring.release.opening import Opener, decode_sums, encode_sums
from gridhe.keyring.release.policy import Claim
from gridhe.keyring.release.register import Register
from gridhe.plan.guards import GuardSums
from gridhe.plan.plan import Plan
from gridhe.wire.total import TotalKey

__all__ = ["Pieces"]


class Pieces:
    """The pieces of decided totals."""

    def __init__(
        self, answers: Answers, register: Register, opener: Opener, body: Callable[[TotalKey], bytes | None]
    ) -> None:
        """`body(total)` returns a stored answer, checked against the ledger."""
        self._answers, self._register, self._opener, self._body = answers, register, opener, body

    def added_up(self, plan: Plan, claim: Claim) -> dict[str, dict[str, NDArray[np.int64]]] | None:
        """The blocks int64[intervals] of a total, if all its pieces were opened completely; else None."""
        if any(claim.members):
            return None
        total = plan.layout.split(np.zeros(plan.layout.used, np.int64))
        for group, part, _ in claim.pieces:
            body = self._body(TotalKey(claim.plan, group, claim.window, part))
            answer = None if body is None else Answer.decode(body)
            if answer is None or any(reason for reasons in answer.withheld.values() for reason in reasons):
                return None
            for name, kinds in answer.blocks.items():
                for kind, values in kinds.items():
                    total[name][kind] += np.array(values, np.int64)
        return total

    def sums(
        self, plan: Plan, claim: Claim, *, stored: bool = True
    ) -> tuple[GuardSums, dict[PieceKey, bytes]]:
        """The guard sums of a decided total, and those of its pieces that were computed, encoded.

        `stored`: use stored sums where there are some.
        """
        lists = self._register.lists((claim.plan, claim.window))
        found, new = [], {}
        for group, part, _ in claim.pieces:
            known = self._answers.sums(TotalKey(claim.plan, group, claim.window, part)) if stored else None
            if known is None:
                found.append(self._opener.sums(plan, claim.window, lists[group, part]))
                new[group, part] = encode_sums(found[-1])
            else:
                found.append(decode_sums(known, plan))
        return functools.reduce(operator.add, found), new
