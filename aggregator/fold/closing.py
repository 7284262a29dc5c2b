"""Closes parts, decides which are published, and moves small remainders to wider groups.

A group's parts are due when every enrolled meter below it has reported; or, for a leaf, when its part is
full; or, for a roll-up, when every narrower group has closed its first part and has the authority's verdict
on each part that it published; or when its time is over: `grace_s` after the window's end (or after the
first batch, if that arrives later), and `late_s` after the first batch of a later part. While a narrower
group has not finished, a roll-up waits one more `grace_s` for each level below it: a leaf that closes at the
end of its time still needs its verdict.

A part of at least the plan's minimum of meters is published, and added to the next wider group when the
authority has opened it (fold.verdicts). A smaller one is not published: it joins a *rest* of the wider
group, whose total brings its list of members. When the wider group closes,

  - a rest of at least the minimum is added to it: the wider total less its published narrower totals
    gives the sum of the whole rest, which has enough meters;
  - a smaller rest moves to the next wider group, because the wider total less its published parts would
    reveal it. In the widest group it waits for more, until the window is outdated. Then no batch of it
    can arrive any more, and the rest expires: it is counted and not published.

So no two opened totals differ by fewer meters than the minimum, and no batch is lost.

No part sums more than `largest_rollup` meters, or has longer lists than a total's header can take. A part
without room for an addition closes first. If a rest has no room, another rest is opened beside it.

A commit checks only the groups changed since the last commit, and those whose time has come. Other open
parts cost it nothing.
"""

import heapq
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count

from gridhe.aggregator.counters import Counters
from gridhe.aggregator.fold.groups import GroupTree, depth
from gridhe.aggregator.fold.parts import Node, OpenParts, Part, group_node, rest_node
from gridhe.aggregator.fold.plans import ActivePlan
from gridhe.aggregator.fold.rows import (
    PIECES_BYTES_MAX,
    PartStore,
    PieceRef,
    StrandStore,
    TotalRow,
    largest_leaf,
    pieces_bytes,
)
from gridhe.aggregator.fold.windows import WindowState, WindowStates
from gridhe.plan.plan import Plan
from gridhe.wire.strands import STRANDED_METERS
from gridhe.wire.total import TotalKey

__all__ = ["Closing", "due_at"]

_log = logging.getLogger(__name__)

_AT_ONCE, _NEVER = float("-inf"), float("inf")


def due_at(
    plan: Plan,
    window: int,
    parts: list[Part],
    *,
    expected: int,
    closed_meters: int | None,
    graces: int,
    widest: bool,
) -> float:
    """When the open parts of a group are due, UTC epoch seconds; -inf: at once, inf: never.

    `expected`: meters enrolled below the group. `closed_meters`: in its closed parts, None before the first.
    `graces`: how many times `grace_s` its first part waits; 0 if the narrower groups have finished.
    `widest`: the group has no wider group.
    """
    end_s = plan.window_start_s(window) + plan.window_s
    if widest and all(part.meters < plan.minimum_meters for part in parts):
        return _NEVER
    if sum(part.meters for part in parts) + (closed_meters or 0) >= expected:
        return _AT_ONCE
    if any(part.meters >= largest_leaf(plan) and not part.pieces for part in parts):
        return _AT_ONCE
    first_at = min(part.first_at for part in parts)
    if closed_meters is not None:
        return first_at + plan.late_s
    if not graces:
        return _AT_ONCE
    return max(end_s, first_at) + graces * plan.grace_s


class Closing:
    """Closes due parts, inside the commit's transaction."""

    def __init__(
        self,
        *,
        parts: OpenParts,
        store: PartStore,
        strands: StrandStore,
        plans: Mapping[str, ActivePlan],
        counters: Counters,
    ) -> None:
        self._parts = parts
        self._store = store
        self._strands = strands
        self._plans = plans
        self._counters = counters
        self._tree = GroupTree({}, ())
        self._to_check: dict[int, set[Node]] = {}  # groups to check in this commit, by depth
        self._planned: dict[Node, float] = {}  # when to check a group again, UTC epoch seconds
        self._heap: list[tuple[float, Node]] = []  # the same in order, with outdated entries
        self._windows = WindowStates(store)
        self._published: list[TotalRow] = []
        self._outdated: Mapping[str, int] = {}

    @property
    def tree(self) -> GroupTree:
        """The tree of groups."""
        return self._tree

    @tree.setter
    def tree(self, tree: GroupTree) -> None:
        self._tree = tree
        for node in self._parts.groups:
            self.mark(node)

    def note_touched(self) -> None:
        """Mark the groups changed since the last commit for the next check."""
        for node in self._parts.touched:
            self.mark(group_node(node))

    def close_due(self, now: float) -> list[TotalRow]:
        """Close the parts due at `now`, narrow groups first. Returns the parts to publish."""
        self.note_touched()
        while self._heap and self._heap[0][0] <= now:
            at, node = heapq.heappop(self._heap)
            if self._planned.get(node) == at:
                del self._planned[node]
                self.mark(node)
        return self._close_all(now)

    def close_outdated(self, outdated: Mapping[str, int], now: float) -> list[TotalRow]:
        """Close all windows before these (by plan), as no batch can arrive. Returns the parts to publish."""
        self._outdated = outdated
        for node in self._parts.groups:
            if self._is_outdated(node):
                self.mark(node)
        return self._close_all(now)

    def _close_all(self, now: float) -> list[TotalRow]:
        while self._to_check:
            for node in sorted(
                self._to_check.pop(max(self._to_check))
            ):  # closing a group marks only wider ones
                self._close_if_due(node, now)
        published, self._published = self._published, []
        return published

    # when parts are due

    def mark(self, node: Node) -> None:
        """Check in the next commit, or in the rest of this one, whether a group is due."""
        self._to_check.setdefault(depth(node[1]), set()).add(node)

    def _close_if_due(self, node: Node, now: float) -> None:
        self._counters.looked_at += 1
        at = self._due_at(node)
        if at is not None and at <= now:
            self._close(node, now)
            at = self._due_at(node)
            if at is not None and at <= now:  # below the minimum in the widest group, and final
                for part in self._parts.of_group(node):
                    self._expire(part)
                at = None
        self._plan(node, at)

    def _is_outdated(self, node: Node) -> bool:
        return node[2] < self._outdated.get(node[0], 0)

    def _due_at(self, node: Node) -> float | None:
        """When the group's open parts are due; None if it has none."""
        parts = self._parts.of_group(node)
        if not parts:
            return None
        if self._is_outdated(node):
            return _AT_ONCE
        plan_id, group, window = node
        plan, state = self._plans[plan_id].plan, self._windows.of(plan_id, window)
        closed = state.closed
        start_s = plan.window_start_s(window)
        return due_at(
            plan,
            window,
            parts,
            expected=self._tree.expected(group, start_s),
            closed_meters=closed.get(group),
            graces=1 if group in closed else self._graces(node, state),
            widest=self._tree.parent(group) is None,
        )

    def _graces(self, node: Node, state: WindowState) -> int:
        """How many times `grace_s` a group's first part waits for narrower groups; 1 for a leaf."""
        plan_id, group, window = node
        children = self._tree.children(group, self._plans[plan_id].plan.window_start_s(window))
        if not children:
            return 1
        missing = children - state.closed.keys()
        if state.waits_for(children) or any(
            self._parts.of_group((plan_id, child, window)) for child in missing
        ):
            return 1 + self._tree.height(group)
        # Those without a batch so far may get one until their own time is over.
        return max((1 + self._tree.height(child) for child in missing), default=0)

    def _plan(self, node: Node, at: float | None) -> None:
        """Plan the next check of a group; None or inf: none."""
        if at is None or at == _NEVER:
            self._planned.pop(node, None)
        elif self._planned.get(node) != at:
            self._planned[node] = at
            heapq.heappush(self._heap, (at, node))
        if len(self._heap) > 2 * len(self._planned) + 64:
            self._heap = [(moment, each) for each, moment in self._planned.items()]
            heapq.heapify(self._heap)

    # closing parts

    def _close(self, node: Node, now: float) -> None:
        """Close the group's part: first add its large rests, and move small rests to the wider group."""
        minimum, wider = self._plans[node[0]].plan.minimum_meters, self.wider(node)
        own = self._parts.get(node)
        for rest in self._parts.of_group(node):
            if rest is own:
                continue
            if rest.meters >= minimum:
                row = rest.row(ciphertext=self._parts.pack(rest))
                self._parts.remove(rest)
                self._store.delete(rest.key)
                self.add_to_part(row, node, now)
            elif wider is not None:
                self._close_part(rest, wider, now)
        part = self._parts.get(node)
        if part is not None and (wider is not None or part.meters >= minimum):
            self._close_part(part, wider, now)

    def _close_part(self, part: Part, wider: Node | None, now: float) -> None:
        """Close one part: publish it if it has enough meters, else add it to a rest of the wider group."""
        ciphertext = self._parts.pack(part)
        is_rest = group_node(part.node) != part.node
        publish = part.meters >= self._plans[part.key.plan].plan.minimum_meters and not is_rest
        strands = len(part.sums) if publish and part.meters >= STRANDED_METERS else 1
        row = part.row(ciphertext=ciphertext, closed=True, strands=strands)
        self._shut(part, row if publish else replace(row, ciphertext=None))
        if publish:
            self.publish(row)
        elif wider is not None:
            self.add_to_rest(row, wider, now)

    def publish(self, row: TotalRow) -> None:
        """Publish a closed part after this commit."""
        self._published.append(row)
        self._windows.of(row.key.plan, row.key.window).waiting.add(row.key)

    def _shut(self, part: Part, row: TotalRow) -> None:
        """Store a part as closed."""
        key = part.key
        start_s = self._plans[key.plan].plan.window_start_s(key.window)
        expected = self._tree.expected(group_node(part.node)[1], start_s)
        if not part.pieces:
            self._counters.counted += part.meters
            if key.group not in self._windows.of(key.plan, key.window).closed:
                self._counters.expected += expected
        self._store.save(row)
        if row.strands > 1:
            self._parts.save_strands(part)
        elif part.stranded:
            self._strands.delete(key)
        self._parts.remove(part)
        self._windows.closed(part.node, part.meters)
        self._counters.closed += 1
        _log.info(
            "closed",
            extra={
                "group": key.group,
                "window": key.window,
                "part": key.part,
                "meters": part.meters,
                "expected": expected,
                "published": row.ciphertext is not None,
            },
        )

    def _expire(self, part: Part) -> None:
        """Close, unpublished, a part below the minimum to which no batch can be added any more."""
        self._shut(part, part.row(ciphertext=None, closed=True))
        self._counters.expired_parts += 1
        self._counters.expired_batches += part.meters
        _log.warning(
            "expired: too few meters for a total, and no more batches can arrive",
            extra={"group": part.key.group, "window": part.key.window, "meters": part.meters},
        )

    def add_to_rest(self, row: TotalRow, wider: Node, now: float) -> None:
        """Add a closed part to a rest of the wider group."""
        self.add_to_part(row, self._rest_with_room(wider, row), now)

    def add_to_part(self, row: TotalRow, target: Node, now: float) -> None:
        """Add a closed or absorbed part to the open part at `target`."""
        pieces = row.all_pieces()
        taking = self._parts.get(target)
        if taking is not None and not self._has_room(taking, row.meters, pieces):
            # A larger sum would not be exact, so the open part closes first. Only a group's own part can be
            # full here, because `_rest_with_room` chose the rest.
            self._close_part(taking, self.wider(target), now)
        taking = self._parts.take(target, now)
        self._parts.fold(taking, self._plans[row.key.plan].planes.views(row.ciphertext))
        self._parts.count(taking, row.meters, pieces)
        self.mark(group_node(target))

    def _has_room(self, part: Part, meters: int, pieces: Sequence[PieceRef]) -> bool:
        plan = self._plans[part.key.plan].plan
        return (
            part.meters + meters <= plan.largest_rollup
            and part.pieces_bytes + pieces_bytes(plan, pieces) <= PIECES_BYTES_MAX
        )

    def _rest_with_room(self, node: Node, row: TotalRow) -> Node:
        """The node of an open rest with room for this part, else a free rest node."""
        for part in self._parts.of_group(node):
            if part.node != node and self._has_room(part, row.meters, row.all_pieces()):
                return part.node
        return next(place for number in count(1) if self._parts.get(place := rest_node(node, number)) is None)

    def judged(self, key: TotalKey) -> None:
        """Note the authority's verdict on a total: the wider group may be due."""
        self._windows.of(key.plan, key.window).waiting.discard(key)
        wider = self.wider((key.plan, key.group, key.window))
        if wider is not None:
            self.mark(wider)

    def wider(self, node: Node) -> Node | None:
        """The node of the next wider group; None in the widest."""
        wider = self._tree.parent(node[1])
        return None if wider is None else (node[0], wider, node[2])
