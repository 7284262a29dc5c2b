"""A grid whose readings name their batch: from a total's integers one sees which is missing or doubled.

With M meters a window has M intervals. Meter i reads `mark(i, window)`, which is above 0, in interval i,
and 0 in all others: slot i of any total is then the mark times how often meter i's batch was added.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from gridhe.base.files import write_private
from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.planner import choose, make_plan
from gridhe.wire import topics
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.credential import AggregatorCredential, DeviceCredential, FleetCredential
from gridhe.wire.ingest import derive_key, new_ingest_secret
from gridhe.wire.planes import Planes
from gridhe.wire.roster import Roster, RosterEntry
from gridhe.wire.signing import SigningKey, authority_id
from gridhe.wire.tenseal_format import to_tenseal

__all__ = ["LARGE_RING", "SMALL_RING", "Key", "World"]

SMALL_RING = CkksParameters(2048, (40, 14))
LARGE_RING = CkksParameters(4096, (48, 41, 20))  # 96 KB a batch
_LARGEST = 100


@dataclass(frozen=True, slots=True)
class Key:
    """A plan with the key pair behind it."""

    plan: Plan
    context: Any  # TenSEAL's, with the secret key
    bundle: Bundle
    planes: Planes

    def decrypted(self, ciphertext: bytes) -> NDArray[np.int64]:
        """int64[used]: the slots, by plain TenSEAL."""
        residues = self.planes.unpack(ciphertext)
        sealed = to_tenseal(residues, self.plan.parameters, self.plan.scale)
        slots = np.array(ts.ckks_vector_from(self.context, sealed).decrypt(), np.float64)
        whole: NDArray[np.int64] = np.rint(slots).astype(np.int64)
        return whole[: self.plan.layout.used]


class World:
    """An authority, an aggregator `main`, and meters in leaf groups of two levels."""

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
        self.folder, self.windows, self.aggregator = folder, windows, aggregator
        self.meters = [f"m{i:04d}" for i in range(meters)]
        self.number = {meter: i for i, meter in enumerate(self.meters)}
        self.group = {meter: f"r{i % groups % 2}/f{i % groups}" for meter, i in self.number.items()}
        # As many intervals as meters; `window_s` makes them longer than a second.
        self.interval_s = 1 if window_s is None else window_s // meters
        self.window_s = meters * self.interval_s
        self.first_window = int(now_s // self.window_s) - windows
        self.settings = Settings(
            ckks=CkksSettings(ring_degree=ring.ring_degree, prime_bits=ring.prime_bits, flooding_bits=0),
            plan=PlanSettings(
                window_s=self.window_s,
                interval_s=self.interval_s,
                quantities=(QuantitySettings(largest=_LARGEST, statistics=("sum", "mean")),),
                largest_group=max(2, meters),
                largest_rollup=max(2, meters),
                minimum_meters=minimum_meters,
                grace_s=grace_s,
                late_s=late_s,
            ),
        )
        self._choice = choose(self.settings)
        self.authority = SigningKey.generate()
        self.secret = new_ingest_secret()
        self.aggregator_key = SigningKey.generate()
        self.keys: dict[str, Key] = {}
        self.add_key(self.first_window)

    def add_key(self, first_window: int) -> Key:
        """A new key pair and the plan that uses it from `first_window` on: a rotation, after the first."""
        parameters = self._choice.parameters
        context = ts.context(
            ts.SCHEME_TYPE.CKKS,
            parameters.ring_degree,
            coeff_mod_bit_sizes=list(parameters.prime_bits),
            n_threads=1,
        )
        public_key = context.serialize(
            save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
        plan = make_plan(
            self.settings,
            self._choice,
            authority=authority_id(self.authority.verify_key),
            key_id=key_id_of(public_key),
            first_window=first_window,
        )
        key = Key(plan, context, Bundle(plan=plan, public_key=public_key), Planes(plan.parameters))
        self.keys[plan.plan_id] = key
        return key

    @property
    def key(self) -> Key:
        """The newest."""
        return next(reversed(self.keys.values()))

    @property
    def batches(self) -> int:
        """How many there will be in all."""
        return len(self.meters) * self.windows

    @property
    def all_windows(self) -> range:
        """Their indices."""
        return range(self.first_window, self.first_window + self.windows)

    @property
    def start_s(self) -> int:
        """Where the first window starts, UTC epoch seconds."""
        return self.first_window * self.window_s

    def members(self, group: str) -> list[str]:
        """The meters below a group, `grid` included."""
        inside = [m for m in self.meters if group in ("grid", self.group[m])]
        return inside or [m for m in self.meters if self.group[m].startswith(f"{group}/")]

    # -- readings --------------------------------------------------------------------------------

    @staticmethod
    def mark(number: int, window: int) -> int:
        """What meter `number` reads in its own interval of a window: 1 to 97."""
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
        return DeviceCredential(
            meter=meter,
            group=self.group[meter],
            password="x" * 16,
            ingest_key=derive_key(self.secret, meter),
            authority_key=self.authority.verify_key,
        )

    @property
    def credential(self) -> AggregatorCredential:
        """The aggregator's."""
        return AggregatorCredential(
            aggregator=self.aggregator,
            password="x" * 16,
            ingest_secret=self.secret,
            signing_key=self.aggregator_key.private_bytes(),
            authority_key=self.authority.verify_key,
        )

    def roster(self, version: int = 1) -> bytes:
        """The signed roster."""
        entries = [RosterEntry(meter, self.group[meter]) for meter in self.meters]
        return Roster.of(version, entries).encode(self.authority)

    def bundles(self) -> dict[str, bytes]:
        """Every signed bundle by its topic, and the newest as the current one."""
        signed = {topics.plan(plan): key.bundle.encode(self.authority) for plan, key in self.keys.items()}
        return {**signed, topics.PLAN_CURRENT: self.key.bundle.encode(self.authority)}

    def write(self, settings: Settings) -> None:
        """Write what the processes read: settings, credentials, readings."""
        write_private(self.folder / "gridhe.yaml", settings.model_dump_json().encode())
        self.credential.save(self.folder / "aggregator.json")
        self.write_fleet("fleet", self.meters)
        rows = [",".join(["row", *self.meters])]
        for window in self.all_windows:
            for interval in range(len(self.meters)):
                cells = ["0"] * len(self.meters)
                cells[interval] = str(self.mark(interval, window))
                rows.append(",".join([f"w{window}", *cells]))  # no time stamp: `--start` says when
        write_private(self.folder / "meters.csv", ("\n".join(rows) + "\n").encode())

    def write_fleet(self, name: str, meters: Sequence[str]) -> Path:
        """A fleet's credential file."""
        path = self.folder / f"{name}.json"
        FleetCredential(devices=tuple(self.device(meter) for meter in meters)).save(path)
        return path

    def describe(self) -> str:
        """What a run's log starts with."""
        shape = {"meters": len(self.meters), "windows": self.windows, "ring": str(self._choice.parameters)}
        return json.dumps(shape)
