"""The plan: an immutable record of the collected quantities and their encryption. Its id is its hash."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import msgpack

from gridhe.errors import PlanError
from gridhe.plan.noise import flooding_sigma
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.quantity import Quantity
from gridhe.plan.slots import SlotLayout

__all__ = ["GUARD_BITS", "PROOF_SIV_BYTES", "TAGS", "Plan"]

_VERSION = 2
TAGS = 8  # tag slots: the last of the guards (gridhe.plan.guards)
PROOF_SIV_BYTES = 8  # of a batch's proof; the sealed presence follows
GUARD_BITS = (14, 16)


# The exact types in the msgpack record: a float in place of an integer (4096.0) would pass every comparison.
_PLAN_TYPES: dict[str, type[Any]] = {
    **dict.fromkeys(("authority", "key"), str),
    **dict.fromkeys(("first_window", "window_s", "interval_s", "largest_group", "largest_rollup"), int),
    **dict.fromkeys(("minimum_meters", "ring_degree", "scale_bits", "flooding_bits", "decryptions"), int),
    "guard_bits": int,
    **dict.fromkeys(("grace_s", "late_s", "early_s", "horizon_s"), float),
    **dict.fromkeys(("quantities", "prime_bits"), list),
}
_QUANTITY_TYPES: dict[str, type[Any]] = {
    **dict.fromkeys(("name", "unit"), str),
    **dict.fromkeys(("largest", "square_shift"), int),
    **dict.fromkeys(("statistics", "bin_edges"), list),
}
# The largest legal values, equal to those of the settings (`gridhe.config.settings`).
_LARGEST: dict[str, int] = {
    "window_s": 31 * 86_400,
    "interval_s": 86_400,
    "largest_group": 10_000_000,
    "largest_rollup": 10_000_000,
    "minimum_meters": 1_000_000,
    "grace_s": 31 * 86_400,
    "late_s": 31 * 86_400,
    "early_s": 86_400,
    "horizon_s": 50 * 365 * 86_400,
    "flooding_bits": 64,
    "decryptions": 2**40,
}
_QUANTITIES_MAX = 16
_START_MAX_S = 253_402_300_800  # the year 10000: Python has no later date
_ITEM_TYPES: dict[str, type[Any]] = {"prime_bits": int, "statistics": str, "bin_edges": int}


def _check_types(record: dict[str, Any], types: dict[str, type[Any]]) -> None:
    if record.keys() != types.keys():
        raise PlanError(f"a plan record has the fields {sorted(types)}")
    for name, value in record.items():
        item = _ITEM_TYPES.get(name)  # the type of a list's items
        if type(value) is not types[name] or (item and any(type(one) is not item for one in value)):
            raise PlanError(f"{name} of this plan record is not of type {types[name].__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parameters that all roles share. Times are in seconds; windows count from the UTC epoch.

    Raises PlanError when a field is out of range. Exactness is not checked here: the planner checks it
    before a plan is signed (`gridhe.plan.planner.make_plan`).
    """

    authority: str
    key_id: str
    first_window: int
    window_s: int
    interval_s: int
    quantities: tuple[Quantity, ...]
    largest_group: int
    largest_rollup: int
    minimum_meters: int
    grace_s: float
    late_s: float
    early_s: float
    horizon_s: float
    parameters: CkksParameters
    scale_bits: int
    flooding_bits: int
    decryptions: int
    guard_bits: int

    def __post_init__(self) -> None:
        for name, largest in _LARGEST.items():
            if getattr(self, name) > largest:
                raise PlanError(f"{name} {getattr(self, name)} is too large: at most {largest}")
        if self.window_s < 1 or self.interval_s < 1 or self.window_s % self.interval_s:
            raise PlanError(f"window_s {self.window_s} must be a multiple of interval_s {self.interval_s}")
        if not self.quantities or len({q.name for q in self.quantities}) != len(self.quantities):
            raise PlanError("a plan needs quantities with different names")
        if self.minimum_meters < 2 or not 1 <= self.largest_group <= self.largest_rollup:
            raise PlanError("minimum_meters must be at least 2, and 1 <= largest_group <= largest_rollup")
        if self.minimum_meters > self.largest_rollup:
            raise PlanError(
                f"minimum_meters {self.minimum_meters} is more than largest_rollup {self.largest_rollup}: "
                "nothing could ever be released"
            )
        for name in ("grace_s", "late_s", "early_s", "horizon_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise PlanError(f"{name} {value} must be a number of seconds, 0 or more")
        if len(self.quantities) > _QUANTITIES_MAX:
            raise PlanError(f"a plan has at most {_QUANTITIES_MAX} quantities")
        if not 0 <= self.first_window * self.window_s < _START_MAX_S:
            raise PlanError(f"first_window {self.first_window} is out of range")
        if not 1 <= self.scale_bits <= 120 or self.flooding_bits < 0 or self.decryptions < 1:
            raise PlanError("scale_bits, flooding_bits or decryptions is out of range")
        if self.guard_bits not in GUARD_BITS:
            raise PlanError(f"guard_bits {self.guard_bits} must be one of {GUARD_BITS}")
        if self.guards < TAGS:
            raise PlanError(
                f"{self.layout.used} slots and {TAGS} tag slots are needed, {self.parameters} has "
                f"{self.parameters.slots}: fewer bins, longer intervals or a larger ring"
            )

    @property
    def plan_id(self) -> str:
        """`p` and the first 16 hex digits of SHA-256 over the encoded plan."""
        return "p" + hashlib.sha256(self.encode()).hexdigest()[:16]

    @property
    def scale(self) -> float:
        """The factor by which readings are multiplied before encryption."""
        return 2.0**self.scale_bits

    @property
    def intervals(self) -> int:
        """Intervals in a window, B."""
        return self.window_s // self.interval_s

    @property
    def layout(self) -> SlotLayout:
        """The slots of this plan's ciphertexts."""
        return SlotLayout(self.quantities, self.intervals)

    @property
    def guards(self) -> int:
        """Guard slots: all slots that the layout does not use, G. The last `TAGS` are tag slots."""
        return self.parameters.slots - self.layout.used

    @property
    def proof_bytes(self) -> int:
        """Size of a batch's proof: 8 bytes of siv, and a bit for each quantity and interval."""
        return PROOF_SIV_BYTES + -(-len(self.quantities) * self.intervals // 8)

    @property
    def flooding_sigma(self) -> float:
        """Standard deviation, per coefficient, of the noise added at release."""
        return flooding_sigma(
            self.parameters.ring_degree, self.largest_rollup, self.flooding_bits, self.decryptions
        )

    @property
    def start_s(self) -> int:
        """Start of the first window, UTC epoch seconds. The plan ends where the next plan starts."""
        return self.first_window * self.window_s

    def window_of(self, at_s: float) -> int:
        """The index of the window that contains `at_s` (UTC epoch seconds)."""
        return int(at_s // self.window_s)

    def window_start_s(self, window: int) -> int:
        """Start of a window, UTC epoch seconds."""
        return window * self.window_s

    def encode(self) -> bytes:
        """The plan as canonical msgpack: equal plans always have equal bytes."""
        record = {
            "v": _VERSION,
            "authority": self.authority,
            "key": self.key_id,
            "first_window": self.first_window,
            "window_s": self.window_s,
            "interval_s": self.interval_s,
            "quantities": [
                {
                    "name": q.name,
                    "unit": q.unit,
                    "largest": q.largest,
                    "statistics": list(q.statistics),
                    "bin_edges": list(q.bin_edges),
                    "square_shift": q.square_shift,
                }
                for q in self.quantities
            ],
            "largest_group": self.largest_group,
            "largest_rollup": self.largest_rollup,
            "minimum_meters": self.minimum_meters,
            "grace_s": float(self.grace_s),
            "late_s": float(self.late_s),
            "early_s": float(self.early_s),
            "horizon_s": float(self.horizon_s),
            "ring_degree": self.parameters.ring_degree,
            "prime_bits": list(self.parameters.prime_bits),
            "scale_bits": self.scale_bits,
            "flooding_bits": self.flooding_bits,
            "decryptions": self.decryptions,
            "guard_bits": self.guard_bits,
        }
        encoded: bytes = msgpack.packb(record)
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> "Plan":
        """The plan in these bytes. Raises PlanError unless `encode` writes exactly these bytes."""
        try:
            record: dict[str, Any] = msgpack.unpackb(data)
            if record.pop("v") != _VERSION:
                raise PlanError("this plan is of another version of gridhe; upgrade this machine")
            _check_types(record, _PLAN_TYPES)
            for quantity in record["quantities"]:
                _check_types(quantity, _QUANTITY_TYPES)
            quantities = tuple(
                Quantity(
                    name=q["name"],
                    unit=q["unit"],
                    largest=q["largest"],
                    statistics=tuple(q["statistics"]),
                    bin_edges=tuple(q["bin_edges"]),
                    square_shift=q["square_shift"],
                )
                for q in record.pop("quantities")
            )
            parameters = CkksParameters(record.pop("ring_degree"), tuple(record.pop("prime_bits")))
            plan = cls(key_id=record.pop("key"), quantities=quantities, parameters=parameters, **record)
        except PlanError:
            raise
        # msgpack raises many kinds of error for junk, and a wrong type fails at its first use.
        except Exception as error:
            raise PlanError(f"this is not a plan record ({type(error).__name__})") from None
        if plan.encode() != data:
            raise PlanError("this plan record is not in canonical form")
        return plan
