"""Open parts: the running encrypted totals, in memory up to a bound and otherwise on disk."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.aggregator.fold.plans import ActivePlan
from gridhe.aggregator.fold.rows import PartStore, PieceRef, StrandStore, TotalRow, pieces_bytes
from gridhe.wire.planes import PlaneViews
from gridhe.wire.strands import STRANDED_METERS, STRANDS
from gridhe.wire.total import TotalKey

__all__ = ["Node", "OpenParts", "Part", "Sum", "group_node", "rest_node"]

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


@dataclass(slots=True)
class Sum:
    """A running total of `meters` batches. `total` is None while its ciphertext is only on disk."""

    meters: int = 0
    total: Accumulator | None = None


@dataclass(slots=True, kw_only=True)
class Part:
    """An open part. It is kept in one sum, or in strands."""

    key: TotalKey
    first_at: float  # when its first batch or narrower part was added, UTC epoch seconds
    meters: int = 0
    pieces: list[PieceRef] = field(default_factory=list)  # of a roll-up; empty for a leaf, its own piece
    pieces_bytes: int = 0  # of `pieces` in a total's header, about
    sums: list[Sum] = field(default_factory=lambda: [Sum()])

    @property
    def node(self) -> Node:
        """The part's node."""
        return self.key.plan, self.key.group, self.key.window

    @property
    def stranded(self) -> bool:
        """Whether it is kept in strands."""
        return len(self.sums) > 1

    def row(self, *, ciphertext: bytes | None, closed: bool = False, strands: int = 1) -> TotalRow:
        """The part's stored form."""
        return TotalRow(
            key=self.key,
            closed=closed,
            meters=self.meters,
            first_at=self.first_at,
            pieces=tuple(self.pieces),
            strands=strands,
            ciphertext=ciphertext,
        )


class OpenParts:
    """All open parts. Up to `limit_bytes` of ciphertexts stay in memory, the latest used ones.

    A new part is kept in strands only if all strands fit that memory beside one sum for each leaf group. Sums
    beyond the limit would be read and written again for every few batches.
    """

    def __init__(
        self, store: PartStore, strands: StrandStore, plans: Mapping[str, ActivePlan], limit_bytes: int
    ) -> None:
        self._store = store
        self._strands = strands
        self._plans = plans
        self._limit_bytes = limit_bytes
        # Bytes in memory of each sum, least recently used first.
        self._resident: OrderedDict[tuple[Node, int], int] = OrderedDict()
        self.resident_bytes = 0
        self._stranded_bytes = 0  # of all parts in strands, if all were in memory
        self._parts: dict[Node, Part] = {}
        self._by_group: dict[Node, list[Part]] = {}  # a group's own part and its rests
        self._touched: dict[Node, tuple[Part, set[int]]] = {}  # changed since the last commit, with its sums
        for row in store.open_totals():
            meters = strands.meters(row.key, row.meters) if row.strands > 1 else [row.meters]
            self._open(
                Part(
                    key=row.key,
                    first_at=row.first_at,
                    meters=row.meters,
                    pieces=list(row.pieces),
                    pieces_bytes=pieces_bytes(plans[row.key.plan].plan, row.pieces),
                    sums=[Sum(each) for each in meters],
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

    def take(self, node: Node, now: float, *, meters: int = 0, leaves: int = 0) -> Part:
        """The open part of a node, created if there is none.

        For a new leaf part, `meters` is the number of expected batches, `leaves` that of leaf groups. With
        enough meters, and room in memory, the part is kept in strands.
        """
        part = self._parts.get(node)
        if part is None:
            part = Part(key=TotalKey(*node, self._store.next_part(*node)), first_at=now)
            size = self._sum_bytes(part)
            if (
                meters >= STRANDED_METERS
                and self._stranded_bytes + (STRANDS + leaves) * size <= self._limit_bytes
            ):
                part.sums = [Sum() for _ in range(STRANDS)]
            self._open(part)
        return part

    def _sum_bytes(self, part: Part) -> int:
        return Accumulator.bytes_of(self._plans[part.key.plan].planes)

    @property
    def stranded(self) -> int:
        """Count of parts that are kept in strands."""
        return sum(part.stranded for part in self._parts.values())

    def _open(self, part: Part) -> None:
        self._parts[part.node] = part
        self._by_group.setdefault(group_node(part.node), []).append(part)
        if part.stranded:
            self._stranded_bytes += STRANDS * self._sum_bytes(part)

    def fold(self, part: Part, planes: PlaneViews, strand: int = 0) -> None:
        """Add a checked ciphertext to a part's running total."""
        self._total(part, strand).fold(planes)

    def count(self, part: Part, meters: int, pieces: Sequence[PieceRef] = (), strand: int = 0) -> None:
        """Record the meters and pieces of what was just folded."""
        part.meters += meters
        part.sums[strand].meters += meters
        if pieces:
            part.pieces.extend(pieces)
            part.pieces_bytes += pieces_bytes(self._plans[part.key.plan].plan, pieces)
        self._touch(part).add(strand)

    def _touch(self, part: Part) -> set[int]:
        touched = self._touched.get(part.node)
        if touched is None:
            touched = self._touched[part.node] = part, set()
        return touched[1]

    def pack(self, part: Part) -> bytes:
        """A part's total as a packed ciphertext."""
        if not part.stranded:
            return self._total(part, 0).pack()
        planes = self._plans[part.key.plan].planes
        total = Accumulator(planes)
        for strand, each in enumerate(part.sums):
            if each.meters:
                total.fold(planes.views(self._total(part, strand).pack()))
        return total.pack()

    def save_strands(self, part: Part) -> None:
        """Write the strands changed since the last commit; inside a transaction."""
        for strand in sorted(self._touch(part)):
            ciphertext = self._total(part, strand).pack()
            self._strands.save(part.key, strand, part.sums[strand].meters, ciphertext)

    def remove(self, part: Part) -> None:
        """Remove a part that is closed or absorbed."""
        node = part.node
        for strand in range(len(part.sums)):
            self._put_away(part, strand)
        if part.stranded:
            self._stranded_bytes -= STRANDS * self._sum_bytes(part)
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
                self._touch(part)

    def save(self) -> None:
        """Write every changed part; inside a transaction."""
        for part, _ in self._touched.values():
            if part.stranded:
                self.save_strands(part)
                self._store.save(part.row(ciphertext=None, strands=STRANDS))
            else:
                self._store.save(part.row(ciphertext=self.pack(part)))

    def saved(self) -> None:
        """Call when the transaction is durable: least recently used totals beyond the bound leave memory."""
        self._touched.clear()
        while self.resident_bytes > self._limit_bytes and self._resident:
            node, strand = next(iter(self._resident))
            self._put_away(self._parts[node], strand)

    @property
    def memory_full(self) -> bool:
        """Whether totals in memory exceed the limit; a commit frees some of them."""
        return self.resident_bytes > self._limit_bytes

    def _total(self, part: Part, strand: int) -> Accumulator:
        each = part.sums[strand]
        if each.total is not None:
            self._resident.move_to_end((part.node, strand))
            return each.total
        planes = self._plans[part.key.plan].planes
        if not each.meters:
            ciphertext = None
        elif part.stranded:
            ciphertext = self._strands.ciphertext(part.key, strand)
        else:
            ciphertext = self._store.total(part.key).ciphertext
        return self._place(part, strand, Accumulator(planes, ciphertext))

    def _place(self, part: Part, strand: int, total: Accumulator) -> Accumulator:
        part.sums[strand].total = total
        self._resident[part.node, strand] = total.nbytes
        self.resident_bytes += total.nbytes
        return total

    def _put_away(self, part: Part, strand: int) -> None:
        part.sums[strand].total = None
        self.resident_bytes -= self._resident.pop((part.node, strand), 0)
