"""The member lists of a home: read from totals, stored in answers.db, loaded for the register.

The bitmap is stored as it came, with the version of the roster that it refers to; a group's meters at a
version never change (`Enrolment.group_meters`). The ledger has the digest of the names, so a list that reads
otherwise, for whatever reason, stops the program.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from gridhe.errors import ReleaseRefused, StateError
from gridhe.keyring.home.enrolment import Enrolment
from gridhe.keyring.release.answers import Answers
from gridhe.keyring.release.family import PieceKey
from gridhe.keyring.release.register import Members, Period, read_lists
from gridhe.plan.plan import Plan
from gridhe.wire.total import TotalHeader, TotalKey, positions_of

__all__ = ["StoredLists"]


class StoredLists:
    """The lists in `answers`, with the names of `enrolment`."""

    def __init__(self, answers: Answers, enrolment: Enrolment) -> None:
        self._answers, self._enrolment = answers, enrolment

    def read(
        self, header: TotalHeader, plan: Plan | None
    ) -> tuple[dict[PieceKey, Members], ReleaseRefused | None]:
        """The lists that a total brings; or none, and the refusal (`members`)."""
        enrolment = self._enrolment
        if plan is None:
            return {}, None
        try:
            lists = read_lists(header, plan, version=enrolment.version, group_meters=enrolment.group_meters)
        except ReleaseRefused as refused:
            return {}, refused
        return lists, None

    def check(self, decided: Iterable[TotalKey], ledger: Path) -> None:
        """Raise StateError if the list of a decided piece is missing."""
        stored = set(self._answers.listed())
        for piece in decided:
            if piece not in stored:
                raise StateError(
                    f"{self._answers.path} has no member list of {piece}, and {ledger} has its digest: the "
                    "answers are older; restore a newer copy of answers.db from a backup"
                )

    def load(self, period: Period, digests: Mapping[PieceKey, bytes]) -> dict[PieceKey, Members]:
        """The lists of a window. Raises StateError if they do not match the ledger's digests."""
        found: dict[PieceKey, Members] = {}
        for piece, roster, listed in self._answers.lists(*period):
            if piece in digests:
                meters = self._enrolment.group_meters(piece[0], roster)
                positions = [at for at in positions_of(listed.bitmap) if at < len(meters)]
                found[piece] = Members(names=tuple(meters[at] for at in positions), proofs=listed.proofs)
        for piece, digest in digests.items():
            if piece not in found or found[piece].digest != digest:
                raise StateError(
                    f"the stored member list of {piece[0]} window {period[1]} part {piece[1]} does not match "
                    "the ledger; restore answers.db and enrolment.db from a backup"
                )
        return found
