"""One part: a running encrypted total of one (plan, window, group), and when it is due to close."""

import hashlib
from dataclasses import dataclass, field

from gridhe.aggregator.accumulator import Accumulator
from gridhe.aggregator.totals import TotalKey, TotalRow
from gridhe.broker.total import Piece
from gridhe.keyring.plan import Plan

__all__ = ["Part", "member_digest"]

_DIGEST_MODULUS = 1 << 256


def member_digest(meter: str) -> int:
    """A meter's share of a member digest: SHA-256 of its name. Shares add up modulo 2^256, in any order."""
    return int.from_bytes(hashlib.sha256(meter.encode()).digest(), "big")


@dataclass(slots=True, kw_only=True)
class Part:
    """An open part. `total` is None while its ciphertext waits on disk."""

    key: TotalKey
    first_at: float  # when its first batch or part came, UTC epoch seconds
    leaf: bool
    meters: int = 0
    digest: int = 0
    pieces: list[Piece] = field(default_factory=list)  # of a roll-up; a leaf's part is its own piece
    children: set[str] = field(default_factory=set)  # of a roll-up: narrower groups whose part 0 is in
    total: Accumulator | None = None
    dirty: bool = False

    @classmethod
    def of_row(cls, row: TotalRow, *, leaf: bool, children: set[str]) -> "Part":
        """An open part as it was committed."""
        return cls(
            key=row.key,
            first_at=row.first_at,
            leaf=leaf,
            meters=row.meters,
            digest=row.digest,
            pieces=list(row.pieces),
            children=children,
        )

    def count(self, meters: int, digest: int) -> None:
        """Take note of what was just folded."""
        self.meters += meters
        self.digest = (self.digest + digest) % _DIGEST_MODULUS
        self.dirty = True

    def all_pieces(self) -> tuple[Piece, ...]:
        """The leaf parts it sums."""
        if self.leaf:
            return (Piece(self.key.group, self.key.part, self.meters),)
        return tuple(sorted(self.pieces))

    def row(
        self, *, ciphertext: bytes | None, payload: bytes | None = None, closed: bool = False
    ) -> TotalRow:
        """The part as it goes to disk."""
        return TotalRow(
            key=self.key,
            closed=closed,
            meters=self.meters,
            first_at=self.first_at,
            digest=self.digest,
            pieces=tuple(self.pieces),
            ciphertext=ciphertext,
            payload=payload,
        )

    def deadline(self, plan: Plan) -> float:
        """When it closes though meters are absent (UTC epoch seconds).

        The first part waits `grace_s` from the window's end, or from the first batch when an old window
        is only now sent; a part of late batches is open for `late_s`.
        """
        if self.key.part == 0:
            end_s = plan.window_start_s(self.key.window) + plan.window_s
            return max(end_s, self.first_at) + plan.grace_s
        return self.first_at + plan.late_s
