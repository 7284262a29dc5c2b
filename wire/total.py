"""Totals: the encrypted sum of a part, signed by the aggregator. Same shape as a batch.

msgpack array of three byte strings [header, ciphertext, signature]; the header is a msgpack map
{v, plan, key, aggregator, group, window, part, meters, roster, pieces}. `pieces` lists the leaf parts in
the sum: [group, part, meters] for a part whose own total was opened, [group, part, meters, bitmap, proofs]
for one that brings its member list. Bit i of a bitmap (1 << (i & 7) of byte i >> 3) is the group's i-th
meter in ascending order of name, of all meters that the roster with version `roster` names in the group,
now or formerly. `proofs` holds the members' proofs in that order, without separators.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from gridhe.errors import BundleError, ConfigError, EnvelopeError
from gridhe.plan.names import ROOT_GROUP, check_group, check_name
from gridhe.wire.codec import field, key_id, pack, plan_id, unpack, unpack_bins
from gridhe.wire.envelope import WINDOW_MAX
from gridhe.wire.signing import SIGNATURE_BYTES, SigningKey, verify

__all__ = [
    "TOTAL_HEADER_BYTES_MAX",
    "MemberList",
    "Piece",
    "Total",
    "TotalHeader",
    "TotalKey",
    "bitmap_of",
    "open_total",
    "positions_of",
    "seal_total",
]

VERSION = 2
# A roll-up lists each of its leaf parts, about 30 bytes each; a leaf its members, 9 to 1,032 bytes each.
TOTAL_HEADER_BYTES_MAX = 16 << 20
_DOMAIN = b"gridhe/v2/total\0"
_ROSTER_MAX = 2**48


class TotalKey(NamedTuple):
    """Names one part of a (plan, group, window). This is the order everywhere."""

    plan: str
    group: str
    window: int
    part: int

    def __str__(self) -> str:
        return f"{self.group} window {self.window} part {self.part}"


@dataclass(frozen=True, slots=True, order=True)
class MemberList:
    """The members of a leaf part: a bitmap over the group's meters, and their proofs in that order."""

    bitmap: bytes
    proofs: bytes


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """One leaf part: a disjoint set of `meters` meters' batches of one leaf group.

    `members` is None if the part's own total was opened, and has brought the list.
    """

    group: str
    part: int
    meters: int
    members: MemberList | None = None

    def record(self) -> list[object]:
        """The piece as it is encoded."""
        listed = () if self.members is None else (self.members.bitmap, self.members.proofs)
        return [self.group, self.part, self.meters, *listed]


def bitmap_of(positions: Iterable[int]) -> bytes:
    """The bitmap with these bits, without trailing zero bytes."""
    bits = 0
    for position in positions:
        bits |= 1 << position
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def positions_of(bitmap: bytes) -> list[int]:
    """The bits of a bitmap, ascending."""
    return [8 * at + bit for at, byte in enumerate(bitmap) if byte for bit in range(8) if byte >> bit & 1]


def _check_total_group(group: str) -> None:
    if group != ROOT_GROUP:
        check_group(group)


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalHeader:
    """The identity of a total, and its members. `roster`: the version that the bitmaps refer to."""

    plan: str
    key: str
    aggregator: str
    group: str
    window: int
    part: int
    meters: int
    roster: int
    pieces: tuple[Piece, ...]

    def encode(self) -> bytes:
        """The header as msgpack."""
        return pack(
            {
                "v": VERSION,
                "plan": self.plan,
                "key": self.key,
                "aggregator": self.aggregator,
                "group": self.group,
                "window": self.window,
                "part": self.part,
                "meters": self.meters,
                "roster": self.roster,
                "pieces": [piece.record() for piece in self.pieces],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "TotalHeader":
        """The header in these bytes. Raises EnvelopeError `version` or `malformed`."""
        record = unpack(data)
        if field(record, "v", int) != VERSION:
            raise EnvelopeError("version", f"total version {record['v']}, this is version {VERSION}")
        if len(record) != 10:
            raise EnvelopeError("malformed", f"a total's header has 10 fields, not {len(record)}")
        window, part, meters = (field(record, name, int) for name in ("window", "part", "meters"))
        if not (0 <= window < WINDOW_MAX and 0 <= part < WINDOW_MAX and 0 < meters < WINDOW_MAX):
            raise EnvelopeError(
                "malformed", f"window {window}, part {part} or meters {meters} is out of range"
            )
        roster = field(record, "roster", int)
        if not 0 <= roster < _ROSTER_MAX:
            raise EnvelopeError("malformed", f"roster version {roster} is out of range")
        return cls(
            plan=field(record, "plan", str, check=plan_id),
            key=field(record, "key", str, check=key_id),
            aggregator=field(record, "aggregator", str, check=check_name),
            group=field(record, "group", str, check=_check_total_group),
            window=window,
            part=part,
            meters=meters,
            roster=roster,
            pieces=_pieces(field(record, "pieces", tuple), meters),
        )


def _pieces(entries: tuple[object, ...], meters: int) -> tuple[Piece, ...]:
    pieces = []
    for entry in entries:
        types = [type(part) for part in entry] if isinstance(entry, tuple) else []
        if types not in ([str, int, int], [str, int, int, bytes, bytes]):
            raise EnvelopeError(
                "malformed", "a piece must be a group, a part, a number of meters, and a member list or none"
            )
        group, part, count, *listed = cast("tuple[Any, ...]", entry)
        try:
            check_group(group)
        except ConfigError as error:
            raise EnvelopeError("malformed", str(error)) from None
        if not 0 <= part < WINDOW_MAX or count < 1:
            raise EnvelopeError(
                "malformed", f"part {part} or meters {count} of piece {group} is out of range"
            )
        pieces.append(Piece(group, part, count, MemberList(*listed) if listed else None))
    if len({(piece.group, piece.part) for piece in pieces}) != len(pieces):
        raise EnvelopeError("malformed", "a piece occurs twice")
    if sum(piece.meters for piece in pieces) != meters:
        raise EnvelopeError("malformed", f"the pieces do not add up to {meters} meters")
    return tuple(pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A decoded total. Do not trust its content before `check_signature`."""

    header: TotalHeader
    header_bytes: bytes
    ciphertext: bytes
    signature: bytes

    def is_signed_with(self, verify_key: bytes) -> bool:
        """Whether the signature is valid for this verify key."""
        try:
            verify(verify_key, _DOMAIN + self.header_bytes + self.ciphertext, self.signature)
        except BundleError:
            return False
        return True

    def check_signature(self, verify_key: bytes) -> None:
        """Raise EnvelopeError `signature` unless the signature is valid for this verify key."""
        if not self.is_signed_with(verify_key):
            raise EnvelopeError(
                "signature", f"the total of {self.header.group} is not signed by {self.header.aggregator}"
            )


def seal_total(header: TotalHeader, ciphertext: bytes, key: SigningKey) -> bytes:
    """The total's bytes; the signature covers `gridhe/v2/total`, a zero byte, header and ciphertext."""
    header_bytes = header.encode()
    return pack([header_bytes, ciphertext, key.sign(_DOMAIN + header_bytes + ciphertext)])


def open_total(payload: bytes, max_bytes: int) -> Total:
    """The total in these bytes, at most `max_bytes`. Raises EnvelopeError; the signature is not checked."""
    header_bytes, ciphertext, signature = unpack_bins(payload, 3, max_bytes)
    if len(header_bytes) > TOTAL_HEADER_BYTES_MAX or len(signature) != SIGNATURE_BYTES:
        raise EnvelopeError(
            "malformed", f"a header of {len(header_bytes)} or a signature of {len(signature)} bytes"
        )
    return Total(
        header=TotalHeader.decode(bytes(header_bytes)),
        header_bytes=bytes(header_bytes),
        ciphertext=bytes(ciphertext),
        signature=bytes(signature),
    )
