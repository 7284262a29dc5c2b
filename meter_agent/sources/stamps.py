"""Dates a device's readings: by the device's own time, or by this computer's clock. Pure: both are passed in.

    clock    a reading's moment is
    host     its arrival
    device   the stamp in it; without a stamp the reading is not used
    auto     the stamp in it, else its arrival, as follows

`auto` trusts the device's clock at first. A stamp is used if it is within NEAR_S of the arrival and later
than the one before: an hourly register that arrives ten seconds after the hour belongs to the hour. These
readings are not used:

    reason       the reading
    repeat       has the stamp and the registers of an earlier one: a device sends its last values again, or
                 those of the hour before with a new power
    same_stamp   has the stamp of the one before and other registers
    late         has an older stamp
    far_stamp    has a stamp further from the arrival: old values, or a wrong clock

If DOUBTS readings in a row are `far_stamp`, the device's clock is wrong (never set, frozen, minutes fast):
event `clock`, and readings are dated by arrival, until the stamps have been near for CALM_S.
"""

from collections import Counter, deque
from typing import Any, Literal

from gridhe.meter_agent.sources.reading import DeviceReading

__all__ = ["CALM_S", "DOUBTS", "NEAR_S", "Stamps"]

NEAR_S = 60.0
DOUBTS = 3
CALM_S = 900.0
_LATEST_S = 1e11  # no time: NaN, infinity, milliseconds
_KEPT = 32  # stamps with their registers; devices repeat recent ones

_Key = tuple[float, str, str]  # stamp, import registers, export registers


class Stamps:
    """The clock of one device."""

    def __init__(self, clock: Literal["auto", "device", "host"]) -> None:
        self._clock = clock
        self._stamp_s: float | None = None  # the latest that dated a reading
        self._seen: deque[_Key] = deque(maxlen=_KEPT)
        self._doubts = 0
        self._wrong = False
        self._near_since_s: float | None = None  # while the clock is wrong: since when stamps are near
        self.counts: Counter[str] = Counter()  # readings that are not used, by reason
        self.events: Counter[str] = Counter()  # "clock"

    @property
    def by(self) -> str:
        """Whose clock dates readings with a stamp now: "device" or "host"."""
        return "host" if self._clock == "host" or self._wrong else "device"

    def date(self, reading: DeviceReading, arrived_s: float) -> float | None:
        """The moment of a reading (UTC epoch seconds); None if the reading is not to be used."""
        stamp_s = reading.at_s
        if stamp_s is not None and not 0 < stamp_s < _LATEST_S:
            stamp_s = None
        if self._clock == "host":
            return arrived_s
        if stamp_s is None:
            if self._clock == "device":
                self.counts["no_stamp"] += 1
                return None
            return arrived_s
        if self._clock == "auto" and self._is_wrong(reading, stamp_s, arrived_s):
            return arrived_s
        reason = self._unusable(reading, stamp_s)
        if reason is not None:
            self.counts[reason] += 1
            return None
        self._stamp_s = stamp_s
        self._seen.append(_key(reading, stamp_s))
        return stamp_s

    def _unusable(self, reading: DeviceReading, stamp_s: float) -> str | None:
        if _key(reading, stamp_s) in self._seen:
            return "repeat"
        if self._doubts:
            return "far_stamp"
        if self._stamp_s is not None and stamp_s <= self._stamp_s:
            return "same_stamp" if stamp_s == self._stamp_s else "late"
        return None

    def _is_wrong(self, reading: DeviceReading, stamp_s: float, arrived_s: float) -> bool:
        """Whether the device's clock is wrong, as far as this reading shows."""
        near = abs(stamp_s - arrived_s) <= NEAR_S
        if self._wrong:
            if not near:
                self._near_since_s = None
            elif self._near_since_s is None:
                self._near_since_s = arrived_s
            elif arrived_s - self._near_since_s >= CALM_S:
                self._wrong, self._near_since_s, self._doubts = False, None, 0
            return self._wrong
        if near:
            self._doubts = 0
        elif _key(reading, stamp_s) not in self._seen:
            self._doubts += 1
            if self._doubts >= DOUBTS:
                self._wrong = True
                self.events["clock"] += 1
        return self._wrong

    def state(self) -> list[Any]:
        """The whole state: lists, texts and numbers."""
        return [
            self._stamp_s,
            [list(key) for key in self._seen],
            self._doubts,
            self._wrong,
            self._near_since_s,
            dict(self.counts),
            dict(self.events),
        ]

    def restore(self, state: list[Any]) -> None:
        """Continue from a `state()`. Raises ValueError or TypeError if it is none."""
        self._stamp_s, seen, self._doubts, self._wrong, self._near_since_s, counts, events = state
        self._seen = deque(((at_s, first, second) for at_s, first, second in seen), maxlen=_KEPT)
        self.counts, self.events = Counter(counts), Counter(events)


def _key(reading: DeviceReading, stamp_s: float) -> _Key:
    first, second = (
        " ".join(f"{name}={each.wh}" for name, each in registers.items())
        for registers in (reading.imported, reading.exported)
    )
    return stamp_s, first, second
