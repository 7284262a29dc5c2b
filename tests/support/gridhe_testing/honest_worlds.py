"""Authorities with meters and sealed batches of one window, one for each ring of the planner."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.home.vault import Kdf
from gridhe.meter_agent.sealing import Encryptor
from gridhe.plan.parameters import RINGS
from gridhe.plan.quantity import Quantity
from gridhe.plan.slots import MISSING
from gridhe.wire.credential import load_aggregator, load_fleet
from gridhe.wire.planes import Planes
from gridhe.wire.signing import SigningKey
from gridhe_testing.totals import Batch, make_batch

__all__ = ["WINDOW", "WORLDS", "HonestWorld", "WorldOptions"]

WINDOW = 490_000
AGGREGATOR = "main"
SMALL = (3, 4)  # groups that are too small to be released alone, in each region
_HOURS, _DAY_S = 3_600, 86_400
_TWO = (QuantitySettings(), QuantitySettings(name="export_wh", largest=5_000, bins=8))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldOptions:
    """A ring, what is collected, and the sizes of the leaf groups besides the small ones."""

    ring: int  # its place in RINGS
    sizes: Sequence[int]
    quantities: Sequence[QuantitySettings] = (QuantitySettings(),)
    window_s: int = _DAY_S
    interval_s: int = _HOURS
    flooding_bits: int = 40

    def settings(self) -> Settings:
        """The settings of this world."""
        ring = RINGS[self.ring]
        meters = sum(self.sizes) + 2 * sum(SMALL) + 10
        return Settings(
            ckks=CkksSettings(
                ring_degree=ring.ring_degree, prime_bits=ring.prime_bits, flooding_bits=self.flooding_bits
            ),
            plan=PlanSettings(
                window_s=self.window_s,
                interval_s=self.interval_s,
                quantities=tuple(self.quantities),
                largest_group=meters,
                largest_rollup=meters,
                minimum_meters=5,
                small_groups="accepted",
            ),
        )


WORLDS = [
    WorldOptions(
        ring=0,
        sizes=(5, 6, 9, 20, 40),
        quantities=[QuantitySettings(largest=20, bins=4, statistics=("sum", "mean", "min", "max"))],
        window_s=_HOURS,
        interval_s=900,
        flooding_bits=0,  # the smallest rings have no room for 40 bits
    ),
    WorldOptions(
        ring=1,
        sizes=(5, 6, 9, 20, 40),
        quantities=[QuantitySettings(largest=200, bins=4, statistics=("sum", "mean", "min", "max"))],
        window_s=_HOURS,
        interval_s=900,
        flooding_bits=25,
    ),
    WorldOptions(ring=2, sizes=(5, 6, 8, 15, 40, 100)),
    WorldOptions(ring=3, sizes=(5, 6, 7, 12, 25, 60, 150, 700)),
    WorldOptions(ring=4, sizes=(5, 6, 12, 30, 60)),
    WorldOptions(ring=5, sizes=(5, 6, 12, 30, 60), quantities=_TWO),
    WorldOptions(ring=6, sizes=(5, 7, 20), interval_s=900),
    WorldOptions(ring=7, sizes=(5, 7, 20), interval_s=900),
]


class HonestWorld:
    """A home, its enrolled meters, and the batch of each. Use `close` at the end."""

    def __init__(self, folder: Path, options: WorldOptions, rng: np.random.Generator) -> None:
        self.options, self.settings, self._rng = options, options.settings(), rng
        self.home = AuthorityHome.init(
            folder / "home", self.settings, os.urandom(16).hex().encode(), kdf=Kdf(n=2**14)
        )
        credential = load_aggregator(self.home.enrol_aggregator(AGGREGATOR, self.settings))
        self.signer = SigningKey.from_private_bytes(credential.signing_key)
        self.groups: dict[str, list[str]] = {
            group: [f"{group.replace('/', '-')}-m{at:03}" for at in range(size)]
            for group, size in self._sizes()
        }
        fleet = folder / "fleet.json"
        places = [(meter, group) for group, meters in self.groups.items() for meter in meters]
        self.home.enrol_meters(places, self.settings, fleet_file=fleet)
        self.plan = self.home.bundle().plan
        self.planes = Planes(self.plan.parameters)
        encryptor = Encryptor(self.home.bundle())
        self.batches: dict[str, Batch] = {
            device.meter: make_batch(encryptor, device, WINDOW, self._readings())
            for device in load_fleet(fleet).devices
        }

    def close(self) -> None:
        """Close the home."""
        self.home.close()

    def _sizes(self) -> Iterator[tuple[str, int]]:
        for at, size in enumerate(self.options.sizes):
            yield f"{('north', 'south')[at % 2]}/f{size}", size
        for region in ("north", "south"):
            for size in SMALL:
                yield f"{region}/small{size}", size

    def _readings(self) -> dict[str, NDArray[np.int64]]:
        return {quantity.name: self._household(quantity) for quantity in self.plan.quantities}

    def _household(self, quantity: Quantity) -> NDArray[np.int64]:
        """Readings of one of several kinds of household; those at the largest lose most in doubles."""
        rng, intervals, largest = self._rng, self.plan.intervals, quantity.largest
        usual = np.minimum(rng.gamma(0.6, largest * rng.choice([0.02, 0.2]), intervals), largest)
        kinds: dict[str, Any] = {
            "usual": usual,
            "uniform": rng.integers(0, largest + 1, intervals),
            "at the largest": np.full(intervals, largest),
            "half of them at the largest": np.where(rng.random(intervals) < 0.5, largest, 0),
            "one at the largest": np.where(np.arange(intervals) == rng.integers(intervals), largest, 0),
            "nothing": np.zeros(intervals),
        }
        share = np.array([8, 3, 2, 2, 2, 1], np.float64)
        readings = np.asarray(kinds[str(rng.choice(list(kinds), p=share / share.sum()))], np.int64)
        gaps = rng.choice([0.0, 0.05, 0.5])
        readings = np.where(rng.random(intervals) < gaps, MISSING, readings)
        if rng.random() < 0.05:  # offline
            readings = np.full(intervals, MISSING)
        return readings
