"""When parts close, what is published, and how the rest joins wider groups.

A group's part is due when every enrolled meter below it is in; or, for a roll-up, when every
narrower group has had its first part; or when its time is over: `grace_s` from the window's end
(or from the first batch, when an old window is only now sent), `late_s` for what comes later.

A part of at least the plan's minimum of meters is published, and added to the next wider group. A
smaller one is not: it joins the wider group's *rest*. When the wider group closes,

  - a rest of at least the minimum is added in: whoever subtracts the published narrower totals from
    the wider one is left with all of the rest, and those are enough;
  - a smaller rest moves on to the next wider group, since the wider total less its published parts
    would show it. In the widest group it waits for more.

So no two published totals differ by fewer meters than the minimum, and nothing is lost on the way.
"""

import logging
from collections.abc import Mapping

from gridhe.aggregator.admission import ActivePlan
from gridhe.aggregator.counters import Counters
from gridhe.aggregator.fold.groups import GroupTree, depth
from gridhe.aggregator.fold.parts import Node, OpenParts, Part
from gridhe.aggregator.state.totals import TotalKey, Totals
from gridhe.wire.signing import SigningKey
from gridhe.wire.total import DIGEST_BYTES, TotalHeader, seal_total

__all__ = ["Closing"]

_log = logging.getLogger(__name__)

_REST = "~"  # ends the name under which a group's rest is kept; no group's name can hold it


def _rest_of(node: Node) -> Node:
    return node[0], node[1], node[2] + _REST


class Closing:
    """Closes what is due; inside the commit's transaction."""

    def __init__(
        self,
        *,
        parts: OpenParts,
        totals: Totals,
        plans: Mapping[str, ActivePlan],
        key: SigningKey,
        aggregator: str,
        counters: Counters,
    ) -> None:
        self._parts = parts
        self._totals = totals
        self._plans = plans
        self._key = key
        self._aggregator = aggregator
        self._counters = counters
        self.tree = GroupTree({}, ())
        self._published: list[TotalKey] = []

    def close_due(self, now: float) -> list[TotalKey]:
        """Close what is due at `now`, narrow groups before wide ones; returns the parts to publish."""
        self._published = []
        settled: dict[tuple[str, int], set[str]] = {}
        deepest = max((depth(part.key.group) for part in self._parts), default=0)
        for level in range(deepest, -1, -1):
            for node in self._nodes_at(level):
                window = node[0], node[1]
                if window not in settled:
                    settled[window] = {name.removesuffix(_REST) for name in self._totals.settled(*window)}
                if self._due(node, settled[window], now):
                    self._close(node, now)
                    settled[window].add(node[2])
        return self._published

    def _nodes_at(self, level: int) -> list[Node]:
        names = ((part.key.plan, part.key.window, part.key.group.removesuffix(_REST)) for part in self._parts)
        return sorted({node for node in names if depth(node[2]) == level})

    def _due(self, node: Node, settled: set[str], now: float) -> bool:
        plan_id, window, group = node
        plan = self._plans[plan_id].plan
        start_s = plan.window_start_s(window)
        open_parts = [part for part in (self._parts.get(node), self._parts.get(_rest_of(node))) if part]
        enough = any(part.meters >= plan.minimum_meters for part in open_parts)
        if self.tree.parent(group) is None and not enough:
            return False  # there is nothing wider to join
        seen = sum(part.meters for part in open_parts)
        first = group not in settled
        if not first:
            seen += self._totals.closed_meters(*node) + self._totals.closed_meters(*_rest_of(node))
        if seen >= self.tree.expected(group, start_s):
            return True
        children = self.tree.children(group, start_s)
        if first and children and children <= settled:
            return True
        first_at = min(part.first_at for part in open_parts)
        if first:
            return now >= max(start_s + plan.window_s, first_at) + plan.grace_s
        return now >= first_at + plan.late_s

    def _close(self, node: Node, now: float) -> None:
        """Close a group's part, and see its rest off."""
        minimum = self._plans[node[0]].plan.minimum_meters
        wider = self.tree.parent(node[2])
        rest = self._parts.get(_rest_of(node))
        if rest is not None and rest.meters >= minimum:
            self._add(rest, self._parts.pack(rest), node, now)
            self._parts.remove(rest)
            self._totals.delete(rest.key)
        elif rest is not None and wider is not None:
            ciphertext = self._shut(rest, publish=False)
            self._add(rest, ciphertext, _rest_of((node[0], node[1], wider)), now)
        part = self._parts.get(node)
        if part is None:
            return
        publish = part.meters >= minimum
        ciphertext = self._shut(part, publish=publish)
        if wider is not None:
            target = (node[0], node[1], wider)
            self._add(part, ciphertext, target if publish else _rest_of(target), now)

    def _shut(self, part: Part, *, publish: bool) -> bytes:
        """Write a part as closed, with its signed total if it is published; returns its ciphertext."""
        key, active = part.key, self._plans[part.key.plan]
        ciphertext = self._parts.pack(part)
        payload = None
        if publish:
            header = TotalHeader(
                plan=key.plan,
                key=active.plan.key_id,
                aggregator=self._aggregator,
                group=key.group,
                window=key.window,
                part=key.part,
                meters=part.meters,
                members=part.digest.to_bytes(DIGEST_BYTES, "big"),
                pieces=part.all_pieces(),
            )
            payload = seal_total(header, ciphertext, self._key)
            self._published.append(key)
        self._totals.save(part.row(ciphertext=None, payload=payload, closed=True))
        self._parts.remove(part)
        self._counters.closed += 1
        _log.info(
            "closed",
            extra={
                "group": key.group,
                "window": key.window,
                "part": key.part,
                "meters": part.meters,
                "published": publish,
            },
        )
        return ciphertext

    def _add(self, part: Part, ciphertext: bytes, target: Node, now: float) -> None:
        """Fold a part that is closed or absorbed into the open part at `target`."""
        active = self._plans[part.key.plan]
        taking = self._parts.get(target)
        if taking is not None and taking.meters + part.meters > active.plan.largest_rollup:
            # More would no longer be exact: what is there closes as it is.
            self._close((target[0], target[1], target[2].removesuffix(_REST)), now)
        taking = self._parts.take(target, now)
        self._parts.fold(taking, active.planes.views(ciphertext))
        taking.count(part.meters, part.digest)
        taking.pieces.extend(part.all_pieces())
