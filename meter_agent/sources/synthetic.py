"""Synthetic households: a base load, a daily wave and noise.

Each reading depends on (seed, meter, interval) alone, so a restart, another speed or another order
gives the same readings. The random numbers come from a counter-based generator: SplitMix64's output
function (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) over
key + interval * golden ratio, with the key hashed from seed and meter.
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from gridhe.plan.plan import Plan

__all__ = ["SyntheticSource"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_DAY_S = 86_400
_BASE_W = (2_000.0, 3_000.0)
_WAVE_W = 600.0
_NOISE_W = 120.0


def _key(seed: int, meter: str, salt: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{meter}/{salt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _uniform(key: int, counters: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in (0, 1], one per counter."""
    mixed = (
        np.uint64(key) + counters * _GOLDEN
    )  # wraps modulo 2^64, as intended; numpy does so without a warning
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53


class SyntheticSource:
    """A WindowSource for any meter and any window of a plan's shape, without end."""

    def __init__(self, plan: Plan, *, seed: int = 0) -> None:
        self._plan = plan
        self._seed = seed

    @property
    def windows(self) -> tuple[int, int | None]:
        """From the epoch, without end."""
        return 0, None

    def window(self, meter: str, window: int) -> dict[str, NDArray[np.int64]]:
        """Integers int64[intervals] per quantity: mean W where the unit is W, else energy in Wh.

        They lie in 0..largest: values above the plan's `largest` are clipped.
        """
        plan = self._plan
        counters = np.arange(window * plan.intervals, (window + 1) * plan.intervals, dtype=np.uint64)
        middle_s = (counters.astype(np.float64) + 0.5) * plan.interval_s
        readings = {}
        for quantity in plan.quantities:
            drawn = _uniform(_key(self._seed, meter, quantity.name + "/base"), np.zeros(1, np.uint64))
            base = _BASE_W[0] + (_BASE_W[1] - _BASE_W[0]) * float(drawn[0])
            # Box-Muller, from two streams.
            radius = np.sqrt(-2.0 * np.log(_uniform(_key(self._seed, meter, quantity.name + "/r"), counters)))
            angle = 2.0 * math.pi * _uniform(_key(self._seed, meter, quantity.name + "/a"), counters)
            # Lowest at 06:00 UTC, highest at 18:00.
            wave = -_WAVE_W * np.sin(2.0 * math.pi * (middle_s % _DAY_S) / _DAY_S)
            watts = base + wave + _NOISE_W * radius * np.cos(angle)
            amount = watts if quantity.unit == "W" else watts * plan.interval_s / 3600.0
            readings[quantity.name] = np.clip(np.rint(amount), 0, quantity.largest).astype(np.int64)
        return readings

    def where(self, meter: str, window: int, interval: int) -> str:
        """The place of a reading."""
        return f"synthetic meter {meter}, window {window}, interval {interval}"
