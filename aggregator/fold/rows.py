"""The stored form of a part, and the protocol through which the fold uses the store."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from gridhe.plan.plan import Plan
from gridhe.wire.total import TOTAL_HEADER_BYTES_MAX, TotalKey

__all__ = [
    "PIECES_BYTES_MAX",
    "Member",
    "MemberStore",
    "PartStore",
    "PieceRef",
    "StrandStore",
    "TotalRow",
    "largest_leaf",
    "pieces_bytes",
]

Member = tuple[int, bytes]  # a meter's number in its group, and the proof of its batch

# The other half of a total's header is room for the longer bitmaps of groups with many former meters.
PIECES_BYTES_MAX = TOTAL_HEADER_BYTES_MAX // 2
_PIECE_BYTES = 32  # of a piece without group and list


class PieceRef(NamedTuple):
    """A leaf part that a total sums. `listed`: the total must bring its member list."""

    group: str
    part: int
    meters: int
    listed: bool


def pieces_bytes(plan: Plan, pieces: Iterable[PieceRef]) -> int:
    """An estimate of the bytes of these pieces in a total's header, lists included."""
    bitmap = plan.largest_group // 8 + 1
    return sum(
        _PIECE_BYTES + len(piece.group) + piece.listed * (bitmap + piece.meters * plan.proof_bytes)
        for piece in pieces
    )


def largest_leaf(plan: Plan) -> int:
    """The largest number of meters in a leaf part: as many as the plan allows and a header lists."""
    return min(plan.largest_group, PIECES_BYTES_MAX // plan.proof_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalRow:
    """A part's stored form.

    `ciphertext` is present while the part is open and, for a published part, until the authority's verdict.
    It is not signed: each time the total is sent, it is signed with the aggregator's present key.
    """

    key: TotalKey
    closed: bool
    meters: int
    first_at: float
    pieces: tuple[PieceRef, ...]  # of a roll-up; empty for a leaf, its own piece
    strands: int = 1  # sums in which it is kept: while it is open, and for a published part until the verdict
    ciphertext: bytes | None

    def all_pieces(self) -> tuple[PieceRef, ...]:
        """The leaf parts it sums."""
        return self.pieces or (PieceRef(self.key.group, self.key.part, self.meters, True),)

    def opened(self) -> "TotalRow":
        """The same after the authority has opened it: a wider total need not bring its lists."""
        return replace(self, pieces=tuple(piece._replace(listed=False) for piece in self.all_pieces()))


class PartStore(Protocol):
    """Stores parts; writes happen inside the commit's transaction."""

    def open_totals(self) -> Iterator[TotalRow]:
        """The open parts."""

    def total(self, key: TotalKey) -> TotalRow:
        """One part."""

    def save(self, row: TotalRow) -> None:
        """Store a part."""

    def delete(self, key: TotalKey) -> None:
        """Delete a part that was added to another one, or that was replaced by its strands."""

    def drop(self, row: TotalRow) -> None:
        """Delete the ciphertexts of a closed part, which stays on record."""

    def is_waiting(self, key: TotalKey) -> bool:
        """Whether this is a published part without a verdict."""

    def waiting(self, plan: str, window: int) -> set[TotalKey]:
        """The published parts of a window without a verdict."""

    def next_part(self, plan: str, group: str, window: int) -> int:
        """The number of the next part of a (group, window)."""

    def closed_meters(self, plan: str, window: int) -> dict[str, int]:
        """Meters in the closed parts of a window, by group."""


class StrandStore(Protocol):
    """Stores the sums of strands; writes happen inside the commit's transaction."""

    def save(self, key: TotalKey, strand: int, meters: int, ciphertext: bytes) -> None:
        """Store a strand's sum."""

    def meters(self, key: TotalKey, total: int) -> list[int]:
        """How many meters each strand of a part of `total` meters has."""

    def ciphertext(self, key: TotalKey, strand: int) -> bytes:
        """A strand's sum."""

    def delete(self, key: TotalKey) -> None:
        """Delete the strands of a part."""


class MemberStore(Protocol):
    """Stores the members of leaf parts; writes happen inside the commit's transaction."""

    def by_strand(self, key: TotalKey, sizes: Sequence[int]) -> list[list[Member]]:
        """The members of a part, by strand. `sizes`: how many each must have."""

    def move(self, key: TotalKey, parts: Mapping[TotalKey, Sequence[Member]]) -> None:
        """Move all members of a part to these parts."""
