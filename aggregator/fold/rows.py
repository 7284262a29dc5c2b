"""The stored form of a part, and the protocol through which the fold uses the store."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gridhe.wire.total import TotalKey

__all__ = ["PartStore", "PieceRef", "TotalRow"]


class PieceRef(NamedTuple):
    """A leaf part that a total sums. `listed`: the total must bring its member list."""

    group: str
    part: int
    meters: int
    listed: bool


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
    pieces: tuple[PieceRef, ...]  # of a roll-up; empty for a leaf, its own piece
    ciphertext: bytes | None

    def all_pieces(self) -> tuple[PieceRef, ...]:
        """The leaf parts it sums."""
        return self.pieces or (PieceRef(self.key.group, self.key.part, self.meters, True),)


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
