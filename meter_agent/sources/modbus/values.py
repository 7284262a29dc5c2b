"""The value of registers: bytes to exact numbers, or the reason why they are none."""

import math
import struct
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

import numpy as np

from gridhe.errors import RemoteError
from gridhe.meter_agent.sources.reading import Register

__all__ = ["LARGEST_WH", "Encoding", "Missing", "Order", "Type", "energy", "power"]

Type = Literal["u16", "i16", "u32", "i32", "u64", "i64", "float32", "float64"]
Order = Literal["ABCD", "CDAB", "BADC", "DCBA"]
Missing = Literal["all_ones", "largest", "smallest", "zero"]

LARGEST_WH = 10**11  # eight digits of kWh, the longest display of a meter
_SMALLEST_FLOAT_WH = 1e-3  # a float between 0 and this is no energy but words in another order
_WH = Decimal(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a number stands in registers."""

    type: Type
    order: Order = "ABCD"  # of the bytes: ABCD high word first, CDAB low word first
    missing: tuple[Missing | int, ...] = ()  # patterns that mean "not available"

    @property
    def count(self) -> int:
        """Registers (16 bits each)."""
        return int("".join(filter(str.isdigit, self.type))) // 16

    @property
    def floating(self) -> bool:
        """Whether this is IEEE 754."""
        return self.type.startswith("float")

    def raw(self, data: bytes) -> int:
        """The registers' bits as a whole number, the high byte first."""
        words = [data[at : at + 2] for at in range(0, len(data), 2)]
        if self.order in ("CDAB", "DCBA"):
            words.reverse()
        if self.order in ("BADC", "DCBA"):
            words = [word[::-1] for word in words]
        return int.from_bytes(b"".join(words), "big")

    def number(self, data: bytes) -> int | float | None:
        """The number of `2 * count` bytes; None: not available (a pattern of `missing`, NaN, infinity)."""
        bits = 16 * self.count
        raw = self.raw(data)
        top = 1 << (bits - 1)
        patterns = {"all_ones": (1 << bits) - 1, "largest": top - 1, "smallest": top, "zero": 0}
        if any(raw == (patterns[each] if isinstance(each, str) else each) for each in self.missing):
            return None
        if self.floating:
            value: float = struct.unpack(">f" if bits == 32 else ">d", raw.to_bytes(bits // 8, "big"))[0]
            if "zero" in self.missing and value == 0:  # -0.0 too
                return None
            return value if math.isfinite(value) else None
        return raw - (1 << bits) if self.type.startswith("i") and raw >= top else raw


def energy(
    encoding: Encoding,
    data: bytes,
    scale_wh: Decimal,
    *,
    step_wh: Decimal = Decimal(0),
    modulus_wh: Decimal | None = None,
) -> Register | None:
    """The register in Wh: exactly number * scale_wh, a float rounded to whole Wh. None: not available.

    The step is the scale, or the distance of neighbouring floats at this size (7.8125 Wh for a float32 of
    over 65536 kWh), or `step_wh` if that is larger. Raises RemoteError for a number that is no meter's
    energy: "negative", or "implausible", which is usually a wrong address or word order.
    """
    number = encoding.number(data)
    if number is None:
        return None
    rough_wh = number * float(scale_wh)
    if rough_wh < 0:
        raise RemoteError("negative", "an energy register below zero")
    if encoding.floating and 0 < rough_wh < _SMALLEST_FLOAT_WH:
        raise RemoteError("implausible", "a float close to zero: words in another order")
    if rough_wh > LARGEST_WH:
        raise RemoteError("implausible", f"more than {LARGEST_WH} Wh: a wrong address or word order")
    wh, step = Decimal(number) * scale_wh, abs(scale_wh)
    if encoding.floating:
        wh = abs(wh).quantize(_WH, rounding=ROUND_HALF_EVEN)  # abs: -0.0 is 0
        kind = np.float32 if encoding.type == "float32" else np.float64
        step = max(Decimal(float(np.spacing(kind(abs(number))))) * step, _WH)
    return Register(wh=wh, step_wh=max(step, step_wh), modulus_wh=modulus_wh)


def power(encoding: Encoding, data: bytes, scale_w: Decimal) -> Decimal | None:
    """The power in W; a float as the shortest decimal that it stands for. None: not available."""
    number = encoding.number(data)
    if number is None:
        return None
    if isinstance(number, float):
        shortest = str(np.float32(number)) if encoding.type == "float32" else repr(number)
        return Decimal(shortest) * scale_w
    return Decimal(number) * scale_w
