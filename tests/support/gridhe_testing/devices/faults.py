"""Seeded faults of a line and of a device: what becomes of one telegram on its way."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["FaultyLine", "Shown"]

# Of a hundred telegrams. Values: a restarted device, an older value, a wrong digit, another register's.
_LINE: Mapping[str, float] = {"corrupt": 3, "cut": 2, "lost_bytes": 2, "repeat": 2, "noise": 2}
_VALUE: Mapping[str, float] = {"zero": 2, "older": 2, "tenfold": 2, "other_register": 2}
_DIP_LONGEST = 3  # telegrams; a value that stays for minutes is no fault any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a device shows: its register and its equipment's number."""

    wh: int
    serial: int
    at_s: float


class FaultyLine:
    """Makes the bytes of telegrams, about one in four with a fault. `counts` has the faults by kind."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._before = b""
        self._wrong: tuple[str, int] | None = None  # a wrong value, and for how many more telegrams
        self._calm = 0
        self.counts: Counter[str] = Counter()

    def calm(self, telegrams: int) -> None:
        """No wrong values in the next telegrams: a meter's very first value is believed."""
        self._calm, self._wrong = telegrams, None

    def next(self, shown: Shown, write: Callable[[Shown], bytes]) -> bytes:
        """The bytes of the next telegram as `write` makes it, perhaps with a fault."""
        data = write(self._value(shown))
        kind = self._draw(_LINE)
        before, self._before = self._before, data
        if kind is None:
            return data
        self.counts[kind] += 1
        return self._spoil(kind, data, before)

    def _draw(self, weights: Mapping[str, float]) -> str | None:
        drawn = self._random.uniform(0, 100)
        for kind, weight in weights.items():
            drawn -= weight
            if drawn < 0:
                return kind
        return None

    def _value(self, shown: Shown) -> Shown:
        if self._calm:
            self._calm -= 1
            return shown
        if self._wrong is None:
            kind = self._draw(_VALUE)
            if kind is None:
                return shown
            self._wrong = (kind, self._random.randint(1, _DIP_LONGEST))
        kind, left = self._wrong
        self._wrong = (kind, left - 1) if left > 1 else None
        self.counts[kind] += 1
        wrong = {
            "zero": 0,
            "older": max(0, shown.wh - 5_000),
            "tenfold": shown.wh * 10,
            "other_register": shown.wh // 3,
        }[kind]
        return Shown(wh=wrong, serial=shown.serial, at_s=shown.at_s)

    def _spoil(self, kind: str, data: bytes, before: bytes) -> bytes:
        draw = self._random
        at = draw.randrange(len(data))
        if kind == "corrupt":
            # A burst of up to 16 bits: every CRC-16 finds it.
            flips = draw.randrange(1, 1 << 16).to_bytes(2, "big")
            return data[:at] + bytes(a ^ b for a, b in zip(data[at:], flips, strict=False)) + data[at + 2 :]
        if kind == "cut":
            return data[:at]
        if kind == "lost_bytes":
            return data[:at] + data[at + draw.randint(1, 40) :]
        if kind == "repeat":
            return before + data + data
        return draw.randbytes(draw.randint(1, 60)) + data
