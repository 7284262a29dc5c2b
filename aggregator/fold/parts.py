"""Open parts: the running encrypted totals, in memory up to a bound and otherwise on disk."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.aggregator.fold.plans import ActivePlan
from gridhe.aggregator.fold.rows import PartStore, PieceRef, TotalRow, pieces_bytes
from gridhe.wire.planes import PlaneViews
from gridhe.wire.total import TotalKey

__all__ = ["Node", "OpenParts", "Part", "group_node", "rest_node"]

# Suffix of the names of a group's rests: `north~`, and `north~~` if the first is full. Group names cannot
# contain it.
_REST = "~"

Node = tuple[str, str, int]  # plan id, group or rest, window: at most one part is open for each


def group_node(node: Node) -> Node:
    """The node of a rest's group: (..., `north~`) -> (..., `north`)."""
    return node[0], node[1].rstrip(_REST), node[2]


def rest_node(node: Node, number: int) -> Node:
    """The node of the group's rest with this number (from 1)."""
    return node[0], node[1] + _REST * number, node[2]


@dataclass(slots=True, kw_only=True)
class Part:
    """An open part. `total` is None while its ciphertext is only on disk."""

    key: TotalKey
    first_at: float  # when its first batch or narrower part was added, UTC epoch seconds
    meters: int = 0
    pieces: list[PieceRef] = field(default_factory=list)  # of a roll-up; empty for a leaf, its own piece
    total: Accumulator | None = None
    pieces_bytes: int = 0  # of `pieces` in a total's header, about

    @property
    def node(self) -> Node:
        """The part's node."""
        return self.key.plan, self.key.group, self.key.window

    def row(self, *, ciphertext: bytes | None, closed: bool = False) -> TotalRow:
        """The part's stored form."""
        return TotalRow(
            key=self.key,
            closed=closed,
            meters=self.meters,
            first_at=self.first_at,
            pieces=tuple(self.pieces),
            ciphertext=ciphertext,
        )


class OpenParts:
    """All open parts. Up to `limit_bytes` of ciphertexts stay in memory, the latest used ones."""

    def __init__(self, store: PartStore, plans: Mapping[str, ActivePlan], limit_bytes: int) -> None:
        self._store = store
        self._plans = plans
        self._limit_bytes = limit_bytes
        self._resident: OrderedDict[Node, int] = OrderedDict()  # bytes in memory, least recently used first
        self.resident_bytes = 0
        self._parts: dict[Node, Part] = {}
        self._by_group: dict[Node, list[Part]] = {}  # a group's own part and its rests
        self._touched: dict[Node, Part] = {}  # changed since the last commit
        for row in store.open_totals():
            self._open(
                Part(
                    key=row.key,
                    first_at=row.first_at,
                    meters=row.meters,
                    pieces=list(row.pieces),
                    pieces_bytes=pieces_bytes(plans[row.key.plan].plan, row.pieces),
                )
            )

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts.values())

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def groups(self) -> Iterable[Node]:
        """The nodes of the groups that have open parts."""
        return self._by_group.keys()

    @property
    def touched(self) -> Iterable[Node]:
        """The nodes of the parts changed since the last commit."""
        return self._touched.keys()

    def get(self, node: Node) -> Part | None:
        """The open part of a node; None if there is none."""
        return self._parts.get(node)

    def of_group(self, node: Node) -> list[Part]:
        """The open parts of a group: its own part and its rests."""
        return list(self._by_group.get(node, ()))

    def take(self, node: Node, now: float) -> Part:
        """The open part of a node, created if there is none."""
        part = self._parts.get(node)
        if part is None:
            part = Part(key=TotalKey(*node, self._store.next_part(*node)), first_at=now)
            self._open(part)
            self._place(part, Accumulator(self._plans[node[0]].planes))
        return part

    def _open(self, part: Part) -> None:
        self._parts[part.node] = part
        self._by_group.setdefault(group_node(part.node), []).append(part)

    def fold(self, part: Part, planes: PlaneViews) -> None:
        """Add a checked ciphertext to a part's running total."""
        self._total(part).fold(planes)

    def count(self, part: Part, meters: int, pieces: Sequence[PieceRef] = ()) -> None:
        """Record the meters and pieces of what was just folded."""
        part.meters += meters
        part.pieces.extend(pieces)
        part.pieces_bytes += pieces_bytes(self._plans[part.key.plan].plan, pieces)
        self._touched[part.node] = part

    def pack(self, part: Part) -> bytes:
        """A part's total as a packed ciphertext."""
        return self._total(part).pack()

    def remove(self, part: Part) -> None:
        """Remove a part that is closed or absorbed."""
        node = part.node
        self._put_away(node)
        del self._parts[node]
        self._touched.pop(node, None)
        group = group_node(node)
        self._by_group[group].remove(part)
        if not self._by_group[group]:
            del self._by_group[group]

    def opened_by(self, now: float) -> None:
        """After a step of the clock to `now`: limit the parts' opening times to `now`."""
        for part in self._parts.values():
            if part.first_at > now:
                part.first_at = now
                self._touched[part.node] = part

    def save(self) -> None:
        """Write every changed part; inside a transaction."""
        for part in self._touched.values():
            self._store.save(part.row(ciphertext=self.pack(part)))

    def saved(self) -> None:
        """Call when the transaction is durable: least recently used totals beyond the bound leave memory."""
        self._touched.clear()
        while self.resident_bytes > self._limit_bytes and self._resident:
            self._put_away(next(iter(self._resident)))

    @property
    def memory_full(self) -> bool:
        """Whether totals in memory exceed the limit; a commit frees some of them."""
        return self.resident_bytes > self._limit_bytes

    def _total(self, part: Part) -> Accumulator:
        if part.total is None:
            planes = self._plans[part.key.plan].planes
            self._place(part, Accumulator(planes, self._store.total(part.key).ciphertext))
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
