"""Open parts: the running encrypted totals, in memory within a bound and otherwise on disk."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gridhe.aggregator.admission import ActivePlan
from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.aggregator.state.totals import TotalKey, TotalRow, Totals
from gridhe.wire.planes import PlaneViews
from gridhe.wire.total import Piece

__all__ = ["Node", "OpenParts", "Part", "member_digest"]

_DIGEST_MODULUS = 1 << 256

Node = tuple[str, int, str]  # plan id, window, group: where at most one part is open


def member_digest(meter: str) -> int:
    """A meter's share of a member digest: SHA-256 of its name. Shares add up modulo 2^256, in any order."""
    return int.from_bytes(hashlib.sha256(meter.encode()).digest(), "big")


@dataclass(slots=True, kw_only=True)
class Part:
    """An open part. `total` is None while its ciphertext waits on disk."""

    key: TotalKey
    first_at: float  # when its first batch or narrower part came, UTC epoch seconds
    meters: int = 0
    digest: int = 0
    pieces: list[Piece] = field(default_factory=list)  # of a roll-up; empty for a leaf, its own piece
    total: Accumulator | None = None
    dirty: bool = False

    @property
    def node(self) -> Node:
        """Where it is open."""
        return self.key.plan, self.key.window, self.key.group

    def count(self, meters: int, digest: int) -> None:
        """Take note of what was just folded."""
        self.meters += meters
        self.digest = (self.digest + digest) % _DIGEST_MODULUS
        self.dirty = True

    def all_pieces(self) -> tuple[Piece, ...]:
        """The leaf parts it sums."""
        return tuple(sorted(self.pieces)) or (Piece(self.key.group, self.key.part, self.meters),)

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


class OpenParts:
    """All open parts. Their ciphertexts stay in memory up to `limit_bytes`, the latest used first."""

    def __init__(self, totals: Totals, plans: Mapping[str, ActivePlan], limit_bytes: int) -> None:
        self._totals = totals
        self._plans = plans
        self._limit_bytes = limit_bytes
        self._resident: OrderedDict[Node, int] = OrderedDict()  # bytes in memory, oldest use first
        self.resident_bytes = 0
        self._parts: dict[Node, Part] = {}
        for row in totals.open_totals():
            part = Part(
                key=row.key,
                first_at=row.first_at,
                meters=row.meters,
                digest=row.digest,
                pieces=list(row.pieces),
            )
            self._parts[part.node] = part

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts.values())

    def __len__(self) -> int:
        return len(self._parts)

    def get(self, node: Node) -> Part | None:
        """The open part there, if there is one."""
        return self._parts.get(node)

    def take(self, node: Node, now: float) -> Part:
        """The open part there, made if there is none."""
        part = self._parts.get(node)
        if part is None:
            plan, window, group = node
            number, _ = self._totals.parts(plan, window, group)
            part = Part(key=TotalKey(plan, window, group, number), first_at=now)
            self._parts[node] = part
            self._place(part, Accumulator(self._plans[plan].planes))
        return part

    def fold(self, part: Part, planes: PlaneViews) -> None:
        """Add a checked ciphertext to a part's running total."""
        self._total(part).fold(planes)

    def pack(self, part: Part) -> bytes:
        """A part's ciphertext."""
        return self._total(part).pack()

    def remove(self, part: Part) -> None:
        """The part is closed."""
        self._put_away(part.node)
        del self._parts[part.node]

    def save(self) -> None:
        """Write every touched part; inside a transaction."""
        for part in self._parts.values():
            if part.dirty:
                self._totals.save(part.row(ciphertext=self.pack(part)))

    def saved(self) -> None:
        """The transaction is durable: parts used longest ago may leave memory."""
        for part in self._parts.values():
            part.dirty = False
        while self.resident_bytes > self._limit_bytes and self._resident:
            self._put_away(next(iter(self._resident)))

    @property
    def memory_full(self) -> bool:
        """Whether more is in memory than should be; a commit lets some of it go."""
        return self.resident_bytes > self._limit_bytes

    def _total(self, part: Part) -> Accumulator:
        if part.total is None:
            planes = self._plans[part.key.plan].planes
            self._place(part, Accumulator(planes, self._totals.total(part.key).ciphertext))
        else:
            self._resident.move_to_end(part.node)
        assert part.total is not None  # noqa: S101 - for the type checker; _place has just set it
        return part.total

    def _place(self, part: Part, total: Accumulator) -> None:
        part.total = total
        self._resident[part.node] = total.nbytes
        self.resident_bytes += total.nbytes

    def _put_away(self, node: Node) -> None:
        self._parts[node].total = None
        self.resident_bytes -= self._resident.pop(node, 0)
