"""What has closed in a window: meters by group, and the totals that wait for the authority's verdict."""

from collections import OrderedDict
from dataclasses import dataclass

from gridhe.aggregator.fold.parts import Node, group_node
from gridhe.aggregator.fold.rows import PartStore
from gridhe.wire.total import TotalKey

__all__ = ["WindowState", "WindowStates"]

_CACHED = 64  # windows in memory


@dataclass(slots=True, kw_only=True)
class WindowState:
    """One window of one plan."""

    closed: dict[str, int]  # meters in closed parts by group; a rest counts for its group
    waiting: set[TotalKey]  # published parts without a verdict

    def waits_for(self, groups: set[str]) -> bool:
        """Whether a part of one of these groups waits for its verdict."""
        return any(key.group in groups for key in self.waiting)


class WindowStates:
    """The states of the windows used last; others are read from the store again."""

    def __init__(self, store: PartStore) -> None:
        self._store = store
        self._states: OrderedDict[tuple[str, int], WindowState] = OrderedDict()

    def of(self, plan: str, window: int) -> WindowState:
        """The state of a window, to be changed with each part that closes."""
        state = self._states.get((plan, window))
        if state is not None:
            self._states.move_to_end((plan, window))
            return state
        closed: dict[str, int] = {}
        for name, meters in self._store.closed_meters(plan, window).items():
            group = group_node((plan, name, window))[1]
            closed[group] = closed.get(group, 0) + meters
        state = WindowState(closed=closed, waiting=self._store.waiting(plan, window))
        self._states[plan, window] = state
        if len(self._states) > _CACHED:
            self._states.popitem(last=False)
        return state

    def closed(self, node: Node, meters: int) -> None:
        """Count the meters of a closed part for its group."""
        closed, group = self.of(node[0], node[2]).closed, group_node(node)[1]
        closed[group] = closed.get(group, 0) + meters
