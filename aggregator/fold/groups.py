"""The tree of groups: the roll-ups, and how many meters are enrolled in each."""

from collections.abc import Iterable, Mapping, Sequence

from gridhe.plan.names import ROOT_GROUP, ancestors, parent_group
from gridhe.wire import topics

__all__ = ["GroupTree", "depth"]


def depth(group: str) -> int:
    """The group's level: 0 for the root group, 1 for `north`, 2 for `north/f1`."""
    return 0 if group == ROOT_GROUP else group.count("/") + 1


class GroupTree:
    """Leaves with their enrolment, and every wider group that this aggregator covers.

    `enrolled` is {leaf: [(from_s, meters), ...]}, times in UTC epoch seconds. A leaf that all meters have
    left has an empty list: its last totals are still rolled up. A wider group is covered when each leaf below
    it that has meters matches one of the topic filters. Only covered groups are rolled up, so two aggregators
    with different filters never publish parts of one group.
    """

    def __init__(self, enrolled: Mapping[str, Sequence[tuple[int, int]]], filters: Iterable[str]) -> None:
        self._enrolled = enrolled
        filters = tuple(filters)
        covered = {
            leaf for leaf in enrolled if any(topics.matches(one, topics.batch(leaf, "m")) for one in filters)
        }
        left_out = [leaf for leaf, meters in enrolled.items() if meters and leaf not in covered]
        missing = {wider for leaf in left_out for wider in ancestors(leaf)}
        self._leaves_below: dict[str, list[str]] = {}
        self._children: dict[str, set[str]] = {}
        self._height: dict[str, int] = {}
        for leaf in covered:
            self._leaves_below.setdefault(leaf, []).append(leaf)
            node = leaf
            for height, wider in enumerate(ancestors(leaf), 1):
                if wider in missing:
                    break
                self._height[wider] = max(height, self._height.get(wider, 0))
                self._leaves_below.setdefault(wider, []).append(leaf)
                self._children.setdefault(wider, set()).add(node)
                node = wider

    @property
    def leaves(self) -> int:
        """Count of covered leaf groups."""
        return len(self._leaves_below.keys() - self._children.keys())

    def parent(self, group: str) -> str | None:
        """The next wider group, if it is covered."""
        wider = parent_group(group)
        return wider if wider in self._leaves_below else None

    def height(self, group: str) -> int:
        """How many levels the deepest leaf is below `group`; 0 for a leaf."""
        return self._height.get(group, 0)

    def expected(self, group: str, window_start_s: int) -> int:
        """How many meters below `group` are enrolled for a window."""
        return sum(
            meters
            for leaf in self._leaves_below.get(group, ())
            for from_s, meters in self._enrolled[leaf]
            if from_s <= window_start_s
        )

    def children(self, group: str, window_start_s: int) -> set[str]:
        """The next narrower groups that have meters enrolled for a window."""
        below = self._children.get(group, ())
        return {child for child in below if self.expected(child, window_start_s)}
