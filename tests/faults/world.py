"""A grid whose readings identify their batch: a total's integers show which batch is missing or doubled.

With M meters a window has M intervals. Meter i reads `mark(i, window)`, which is above 0, in interval i,
and 0 in all others: slot i of any total is then the mark times how often meter i's batch was added.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gridhe.base.files import write_private
from gridhe.bench.authority import MadeUpAuthority
from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.plan.parameters import CkksParameters
from gridhe.wire.credential import DeviceCredential, FleetCredential
from gridhe.wire.roster import RosterEntry

__all__ = ["LARGE_RING", "SMALL_RING", "World"]

SMALL_RING = CkksParameters(2048, (40, 14))
LARGE_RING = CkksParameters(4096, (48, 41, 20))  # 96 KB a batch
_LARGEST = 100


class World(MadeUpAuthority):
    """An authority, an aggregator, and meters in leaf groups of two levels."""

    def __init__(
        self,
        folder: Path,
        *,
        meters: int = 40,
        groups: int = 4,
        windows: int = 50,
        now_s: float,
        ring: CkksParameters = SMALL_RING,
        minimum_meters: int = 2,
        grace_s: float = 86_400.0,
        late_s: float = 86_400.0,
        aggregator: str = "main",
        window_s: int | None = None,
    ) -> None:
        """`windows` of the past, the last just over at `now_s`. Raises PlanError if no such plan is exact."""
        self.folder, self.windows = folder, windows
        self.meters = [f"m{i:04d}" for i in range(meters)]
        self.number = {meter: i for i, meter in enumerate(self.meters)}
        self.group = {meter: f"r{i % groups % 2}/f{i % groups}" for meter, i in self.number.items()}
        # As many intervals as meters; `window_s` makes them longer than a second.
        self.interval_s = 1 if window_s is None else window_s // meters
        self.window_s = meters * self.interval_s
        self.first_window = int(now_s // self.window_s) - windows
        settings = Settings(
            ckks=CkksSettings(ring_degree=ring.ring_degree, prime_bits=ring.prime_bits, flooding_bits=0),
            plan=PlanSettings(
                window_s=self.window_s,
                interval_s=self.interval_s,
                quantities=(QuantitySettings(largest=_LARGEST, statistics=("sum", "mean")),),
                largest_group=max(2, meters),
                largest_rollup=max(2, meters),
                minimum_meters=minimum_meters,
                small_groups="accepted",
                grace_s=grace_s,
                late_s=late_s,
            ),
        )
        super().__init__(settings, self.first_window, aggregator=aggregator)

    @property
    def batches(self) -> int:
        """The number of batches of the whole run."""
        return len(self.meters) * self.windows

    @property
    def all_windows(self) -> range:
        """Their indices."""
        return range(self.first_window, self.first_window + self.windows)

    @property
    def start_s(self) -> int:
        """The start of the first window, UTC epoch seconds."""
        return self.first_window * self.window_s

    def members(self, group: str) -> list[str]:
        """The meters below a group, `grid` included."""
        inside = [m for m in self.meters if group in ("grid", self.group[m])]
        return inside or [m for m in self.meters if self.group[m].startswith(f"{group}/")]

    # -- readings --------------------------------------------------------------------------------

    @staticmethod
    def mark(number: int, window: int) -> int:
        """The reading of meter `number` in its own interval of a window: 1 to 97."""
        return 1 + (7 * number + 13 * window) % 97

    def readings(self, meter: str, window: int) -> NDArray[np.int64]:
        """int64[intervals]."""
        number = self.number[meter]
        values = np.zeros(len(self.meters), np.int64)
        values[number] = self.mark(number, window)
        return values

    # -- files and messages ----------------------------------------------------------------------

    def device(self, meter: str) -> DeviceCredential:
        """A meter's credential."""
        return self.credential_of(meter, self.group[meter])

    def roster(self, version: int = 1) -> bytes:
        """The signed roster."""
        return self.signed_roster((RosterEntry(m, self.group[m]) for m in self.meters), version)

    def write(self, settings: Settings) -> None:
        """Write the processes' input: settings, credentials, readings."""
        write_private(self.folder / "gridhe.yaml", settings.model_dump_json().encode())
        self.credential.save(self.folder / "aggregator.json")
        self.write_fleet("fleet", self.meters)
        rows = [",".join(["row", *self.meters])]
        for window in self.all_windows:
            for interval in range(len(self.meters)):
                cells = ["0"] * len(self.meters)
                cells[interval] = str(self.mark(interval, window))
                rows.append(",".join([f"w{window}", *cells]))  # no time stamp: `--start` gives the time
        write_private(self.folder / "meters.csv", ("\n".join(rows) + "\n").encode())

    def write_fleet(self, name: str, meters: Sequence[str]) -> Path:
        """A fleet's credential file."""
        path = self.folder / f"{name}.json"
        FleetCredential(devices=tuple(self.device(meter) for meter in meters)).save(path)
        return path

    def describe(self) -> str:
        """The first line of a run's log."""
        shape = {"meters": len(self.meters), "windows": self.windows, "ring": str(self.choice.parameters)}
        return json.dumps(shape)
