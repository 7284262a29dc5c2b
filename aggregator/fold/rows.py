"""The stored form of a part, and the protocol through which the fold uses the store."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from gridhe.wire.total import Piece, TotalHeader, TotalKey

__all__ = ["PartStore", "TotalRow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalRow:
    """A part's stored form.

    `ciphertext` is present while the part is open and, for a published part, until the authority's receipt.
    It is not signed: each time the total is sent, it is signed with the aggregator's present key.
    """

    key: TotalKey
    closed: bool
    meters: int
    first_at: float
    digest: int
    pieces: tuple[Piece, ...]  # of a roll-up; empty for a leaf, its own piece
    ciphertext: bytes | None

    def header(self, *, key_id: str, aggregator: str) -> TotalHeader:
        """The header of the published total; the same for the same part each time."""
        key = self.key
        return TotalHeader(
            plan=key.plan,
            key=key_id,
            aggregator=aggregator,
            group=key.group,
            window=key.window,
            part=key.part,
            meters=self.meters,
            roster=0,
            pieces=tuple(sorted(self.pieces)) or (Piece(key.group, key.part, self.meters),),
        )


class PartStore(Protocol):
    """Stores parts; writes happen inside the commit's transaction."""

    def open_totals(self) -> Iterator[TotalRow]:
        """The open parts."""

    def total(self, key: TotalKey) -> TotalRow:
        """One part."""

    def save(self, row: TotalRow) -> None:
        """Store a part."""

    def delete(self, key: TotalKey) -> None:
        """Delete a part that was added to another one."""

    def next_part(self, plan: str, group: str, window: int) -> int:
        """The number of the next part of a (group, window)."""

    def closed_meters(self, plan: str, window: int) -> dict[str, int]:
        """Meters in the closed parts of a window, by group."""
