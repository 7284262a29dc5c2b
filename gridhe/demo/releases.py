"""Read the authority's answers: one JSON object per line, as `gridhe-keyring release` writes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.demo.profile import GroupProfile
from gridhe.demo.workload import Workload
from gridhe.plan.plan import Plan

__all__ = ["Release", "ReleaseFile", "profile_of", "release_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One released part of a (group, window)."""

    group: str
    window: int
    part: int
    meters: int
    blocks: Mapping[str, Mapping[str, Sequence[int | None]]]  # quantity -> kind -> one integer an interval
    statistics: Mapping[str, Sequence[Mapping[str, Any]]]  # quantity -> one record an interval


class ReleaseFile:
    """The file that the authority appends to, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.releases: list[Release] = []
        self.refused: list[str] = []  # one line for each total that the policy refused

    def read(self) -> None:
        """Read the new complete lines."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._take(json.loads(line))

    def _take(self, record: Mapping[str, Any]) -> None:
        if "refused" in record:
            self.refused.append(f"{record['group']} window {record['window']}: {record['message']}")
        else:
            self.releases.append(release_of(record))


def release_of(record: Mapping[str, Any]) -> Release:
    """A release from its record."""
    intervals = record["intervals"]
    statistics = {
        name: [interval[name] for interval in intervals] for name in intervals[0] if name != "start"
    }
    return Release(
        group=record["group"],
        window=record["window"],
        part=record["part"],
        meters=record["meters"],
        blocks={name: _blocks(records) for name, records in statistics.items()},
        statistics=statistics,
    )


def _blocks(records: Sequence[Mapping[str, Any]]) -> dict[str, list[int | None]]:
    """The integers of each kind, one per interval; None for a withheld interval."""
    blocks: dict[str, list[int | None]] = {
        "reading": [interval["sum"] for interval in records],
        "present": [interval["present"] for interval in records],
    }
    if any("squares" in interval for interval in records):
        blocks["square"] = [interval.get("squares") for interval in records]
    bins = max((len(interval.get("bins", ())) for interval in records), default=0)
    for i in range(bins):
        blocks[f"bin:{i}"] = [interval["bins"][i] if "bins" in interval else None for interval in records]
    return blocks


def profile_of(workload: Workload, plan: Plan, group: str, releases: Sequence[Release]) -> GroupProfile:
    """A group's load over the run, in the plan's first quantity, summed over its parts.

    Withheld intervals and windows without a release count as without readings.
    """
    quantity = plan.quantities[0]
    intervals = workload.intervals
    sums = {
        kind: np.zeros(workload.windows * intervals, np.int64) for kind in plan.layout.kinds(quantity)
    }  # kind -> [T]
    mine = [release for release in releases if release.group == group]
    for release in mine:
        start = (release.window - workload.first_window) * intervals
        for kind, values in release.blocks[quantity.name].items():
            given: NDArray[np.int64] = np.array([value or 0 for value in values], np.int64)
            sums[kind][start : start + intervals] += given
    return GroupProfile(
        group=group,
        meters=len(workload.members()[group]),
        windows=len({release.window for release in mine}),
        quantity=quantity,
        start_s=workload.start_s,
        interval_s=workload.interval_s,
        sums=sums["reading"],
        present=sums["present"],
        squares=sums.get("square"),
        bins=np.stack([sums[f"bin:{i}"] for i in range(quantity.bins)]) if quantity.bins else None,
    )
