"""The register of member lists: which meters are in which piece of a window, so that none is in two.

A list belongs to a piece, a (group, part) of one window of one plan. The total that first brings the list
decides it, also if this total fails afterwards. Each refusal is a ReleaseRefused with one of these rules:

    members          a bitmap has a bit beyond the roster, its count is not the piece's meters, the proofs
                     have another length, the roster's version is newer than the authority's, or a piece
                     without list was not opened
    changed_members  this piece had another list, or another proof, before
    members_twice    a meter stands in another piece of this window, of whatever plan; or the piece failed

A leaf group's own total that fails may be split once, into further parts of the same group with the same
proofs. Each of them has one or more whole *strands* of the failed list, as `gridhe.wire.strands` divides it.
So an aggregator that lets a total fail cannot choose whose readings it gets instead. A meter of the failed
part may stand in one of them.

`Register` is pure. The digests of all lists are in memory (they are in the ledger), the lists themselves only
for windows in use: `load` brings them back.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgpack

from gridhe.errors import ReleaseRefused
from gridhe.keyring.release.family import PieceKey
from gridhe.keyring.release.policy import Claim
from gridhe.plan.plan import Plan
from gridhe.wire.strands import STRANDED_METERS
from gridhe.wire.total import Piece, TotalHeader, TotalKey, positions_of

__all__ = ["Members", "Period", "Register", "own_piece", "read_lists", "read_members"]

Period = tuple[str, int]  # plan, window
# In memory besides the window in use: so many members, about 200 bytes each, of so many windows.
_LOADED_MAX, _WINDOWS_MAX = 1 << 20, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """A piece's members in order of name, and their proofs in that order, without separators."""

    names: tuple[str, ...]
    proofs: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of names and proofs."""
        record: bytes = msgpack.packb([self.names, self.proofs])
        return hashlib.sha256(record).digest()

    def items(self) -> list[tuple[str, bytes]]:
        """Each member's name and proof."""
        size = len(self.proofs) // len(self.names)
        return [(name, self.proofs[at * size : (at + 1) * size]) for at, name in enumerate(self.names)]


def read_members(piece: Piece, meters: Sequence[str], proof_bytes: int) -> Members:
    """The members in a piece's list; `meters`: the group's, present and former, that the bitmap refers to.

    Raises ReleaseRefused (`members`).
    """
    if piece.members is None:
        raise ReleaseRefused("members", f"{piece.group} part {piece.part} brings no list")
    bits = int.from_bytes(piece.members.bitmap, "little")
    where = f"the list of {piece.group} part {piece.part}"
    if bits.bit_length() > len(meters):
        raise ReleaseRefused(
            "members",
            f"{where} has bit {bits.bit_length() - 1}, and the roster {len(meters)} meters in the group",
        )
    if bits.bit_count() != piece.meters:
        raise ReleaseRefused("members", f"{where} has {bits.bit_count()} members, not {piece.meters}")
    if len(piece.members.proofs) != piece.meters * proof_bytes:
        raise ReleaseRefused(
            "members",
            f"{where} has {len(piece.members.proofs)} bytes of proofs, not {piece.meters} x {proof_bytes}",
        )
    positions = positions_of(piece.members.bitmap)  # bounded now: a bitmap may have megabytes
    return Members(names=tuple(meters[at] for at in positions), proofs=piece.members.proofs)


def read_lists(
    header: TotalHeader, plan: Plan, *, version: int, group_meters: Callable[[str, int], Sequence[str]]
) -> dict[PieceKey, Members]:
    """The member lists that a total brings. `version` is the authority's roster's.

    `group_meters(group, version)` has the meters that a bitmap refers to. Raises ReleaseRefused (`members`).
    """
    listed = [piece for piece in header.pieces if piece.members is not None]
    if listed and header.roster > version:
        raise ReleaseRefused(
            "members", f"its lists refer to roster version {header.roster}, and the authority has {version}"
        )
    return {
        (piece.group, piece.part): read_members(
            piece, group_meters(piece.group, header.roster), plan.proof_bytes
        )
        for piece in listed
    }


@dataclass(slots=True)
class _Window:
    """The lists of one window, in the order in which they were decided."""

    pieces: dict[PieceKey, Members] = field(default_factory=dict)
    stands: dict[str, tuple[PieceKey, ...]] = field(default_factory=dict)  # by meter
    members: int = 0

    def add(self, piece: PieceKey, members: Members) -> None:
        if piece in self.pieces:
            return
        self.pieces[piece] = members
        self.members += len(members.names)
        for name in members.names:
            self.stands[name] = (*self.stands.get(name, ()), piece)


class Register:
    """The member lists of all decided totals."""

    def __init__(
        self,
        load: Callable[[Period, Mapping[PieceKey, bytes]], Mapping[PieceKey, Members]],
        strand_of: Callable[[str, int], int],
    ) -> None:
        """`load(period, digests)` returns the decided lists of a window; `digests` are theirs, in order.

        `strand_of(meter, window)` is the meter's strand.
        """
        self._load, self._strand_of = load, strand_of
        self._digests: dict[Period, dict[PieceKey, bytes]] = {}
        self._spent: dict[Period, set[PieceKey]] = {}  # pieces whose list a failed total has brought
        self._split: dict[Period, set[PieceKey]] = {}  # those that were a leaf group's own total
        self._windows: OrderedDict[Period, _Window] = OrderedDict()

    # -- reading ---------------------------------------------------------------------------------

    def lists(self, period: Period) -> Mapping[PieceKey, Members]:
        """All lists of a window."""
        return self._window(period).pieces

    def totals(self) -> Iterable[TotalKey]:
        """Every piece that has a list, as the key of its own total."""
        for (plan, window), digests in self._digests.items():
            yield from (TotalKey(plan, group, window, part) for group, part in digests)

    def digest(self, period: Period, piece: PieceKey) -> bytes | None:
        """The digest of a piece's list, if it was decided."""
        return self._digests.get(period, {}).get(piece)

    def failed_part(self, claim: Claim, lists: Mapping[PieceKey, Members]) -> int | None:
        """The failed part of the group of which this total is a strand; None if it is none.

        The total was decided, or was checked with these lists that it brings.
        """
        window, own = self._window((claim.plan, claim.window)), own_piece(claim)
        if own is None or (members := window.pieces.get(own) or lists.get(own)) is None:
            return None
        first, *_ = window.stands.get(members.names[0], (own,))
        return None if first == own else first[1]

    def check(
        self,
        claim: Claim,
        lists: Mapping[PieceKey, Members],
        *,
        opened: Callable[[TotalKey], bool],
        overlapping: Iterable[Period] = (),
    ) -> None:
        """Check the members of a total that was not decided before.

        `opened(total)`: whether this total has an answer. `overlapping`: the windows of other plans that
        overlap this one in time. Raises ReleaseRefused (`members`, `changed_members`, `members_twice`).
        """
        period = claim.plan, claim.window
        for group, part, _ in claim.pieces:
            if (group, part) not in lists and not opened(TotalKey(claim.plan, group, claim.window, part)):
                raise ReleaseRefused(
                    "members", f"{claim} names {group} part {part}, which was not opened and brings no list"
                )
        others = [self._window(other) for other in overlapping]
        here = _Window()
        for piece, members in lists.items():
            name = f"{piece[0]} part {piece[1]}"
            known = self.digest(period, piece)
            if known is not None and known != members.digest:
                raise ReleaseRefused("changed_members", f"{claim}: {name} had another list before")
            if piece in self._spent.get(period, ()):
                raise ReleaseRefused("members_twice", f"{claim}: {name} was in a total that failed")
            if known is None:
                self._check_once(claim, piece, members, [here, *others])
            here.add(piece, members)

    def _check_once(self, claim: Claim, piece: PieceKey, members: Members, others: Sequence[_Window]) -> None:
        """Refuse a new list if a meter of it stands in another piece, unless the piece is a strand."""
        stands = self._window((claim.plan, claim.window)).stands
        strand = self._is_strand(claim, piece, members)
        for meter in members.names:
            before = next((each.stands[meter] for each in others if meter in each.stands), ())
            if not strand:
                before = before or stands.get(meter, ())
            if before:
                raise ReleaseRefused(
                    "members_twice",
                    f"{claim}: meter {meter} of {piece[0]} part {piece[1]} stands in {before[0][0]} part "
                    f"{before[0][1]} of this time too",
                )

    def _is_strand(self, claim: Claim, piece: PieceKey, members: Members) -> bool:
        """Whether a new list is whole strands of a failed one, and none of its meters stands elsewhere."""
        period = claim.plan, claim.window
        window = self._window(period)
        failed, *_ = window.stands.get(members.names[0], (piece,))
        if piece[0] != failed[0] or failed not in self._split.get(period, ()):
            return False
        listed = window.pieces[failed]
        strands = {self._strand_of(name, claim.window) for name in members.names}
        whole = tuple(name for name in listed.names if self._strand_of(name, claim.window) in strands)
        if len(listed.names) < STRANDED_METERS or whole != members.names or whole == listed.names:
            return False
        proofs = dict(listed.items())
        return all(
            proofs.get(name) == proof and window.stands[name] == (failed,) for name, proof in members.items()
        )

    # -- recording -------------------------------------------------------------------------------

    def record(self, claim: Claim) -> None:
        """Add a decided claim; call this in the order of the ledger."""
        for (group, part, _), digest in zip(claim.pieces, claim.members, strict=True):
            if digest:
                self._digests.setdefault((claim.plan, claim.window), {}).setdefault((group, part), digest)

    def add(self, claim: Claim, lists: Mapping[PieceKey, Members]) -> None:
        """Add the lists of a decided claim."""
        period = claim.plan, claim.window
        window = self._window(period)
        self.record(claim)
        for piece, members in lists.items():
            window.add(piece, members)

    def fail(self, claim: Claim) -> None:
        """Note that this decided total failed."""
        period, own = (claim.plan, claim.window), own_piece(claim)
        listed = {
            (group, part)
            for (group, part, _), digest in zip(claim.pieces, claim.members, strict=True)
            if digest
        }
        self._spent.setdefault(period, set()).update(listed)
        if own in listed:
            self._split.setdefault(period, set()).add(own)

    def _window(self, period: Period) -> _Window:
        window = self._windows.get(period)
        if window is None:
            window = _Window()
            digests = self._digests.get(period)
            lists = self._load(period, digests) if digests else {}
            for piece in digests or ():
                window.add(piece, lists[piece])
            self._windows[period] = window
        self._windows.move_to_end(period)
        while len(self._windows) > 1 and (
            len(self._windows) > _WINDOWS_MAX
            or sum(each.members for each in self._windows.values()) > _LOADED_MAX
        ):
            self._windows.popitem(last=False)
        return window


def own_piece(claim: Claim) -> PieceKey | None:
    """The piece of a leaf group's own total."""
    [(group, part, _), *more] = claim.pieces
    return (group, part) if not more and (group, part) == (claim.group, claim.part) else None
