"""Whether the wall clock can be believed, before anything is decided by it. Pure: both clocks are passed in.

    the wall clock says                                 it is believed
    a time before this program was made, or 30 years    never
    after that
    what the monotonic clock leads to expect, to a      at once
    minute
    a later time, at a start                            at once, up to LEAP_S after the last known time
    another time (a step, forwards or back)             once it has stood for SETTLE_S
    more than LEAP_S after the last known time          never: somebody has to say that it is right

The last known time is kept in the state by the caller, so that it outlives the process. While the clock is
not believed nothing is sealed, closed, pruned or refused for good.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from gridhe.errors import ConfigError

__all__ = ["BUILT", "LEAP_S", "SETTLE_S", "STEP_S", "PlausibleClock", "check_clock", "running_s"]

# When this program was made: no machine that runs it can be earlier. A test wants it in the past.
BUILT = datetime(2026, 11, 23, tzinfo=UTC)
STEP_S = 60.0  # what a clock may be off from one look to the next: daemons correct more than this by stepping
SETTLE_S = 120.0  # NTP needs less than this to put a wrong step right
LEAP_S = 400 * 86_400.0  # the longest time off that nobody has to vouch for
_LASTS_S = 30 * 366 * 86_400.0
_REMIND_S = 60.0


def running_s() -> float:
    """Seconds that only ever pass, those in which the machine was suspended included (where it is known)."""
    boot: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


def _date(at_s: float) -> str:
    try:
        return (
            datetime.fromtimestamp(at_s, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
        )
    except (ValueError, OverflowError, OSError):
        return f"{at_s:.0f} s after 1970"


def _impossible(at_s: float) -> str | None:
    built_s = BUILT.timestamp()
    if at_s < built_s:
        return f"the clock says {_date(at_s)}, which is before this program was made ({BUILT:%Y-%m-%d})"
    if not at_s < built_s + _LASTS_S:
        return f"the clock says {_date(at_s)}, which is far in the future"
    return None


def check_clock(now_s: float) -> float:
    """`now_s` (UTC epoch seconds), if it is possible at all. Raises ConfigError: set the clock."""
    doubt = _impossible(now_s)
    if doubt is not None:
        raise ConfigError(f"{doubt}; set this machine's clock")
    return now_s


class PlausibleClock:
    """The wall clock, as far as it can be believed. Ask often: steps show between looks."""

    def __init__(
        self,
        *,
        known_s: float | None,
        wall: Callable[[], float] = time.time,
        running: Callable[[], float] = running_s,
    ) -> None:
        """`known_s`: the last time an earlier process believed; None to believe the first look."""
        self._wall, self._running = wall, running
        self._expected_s, self._at_s = known_s, running()
        self._starting = True
        self._standing: tuple[float, float] | None = None  # a step's size, and since when it stands
        self._reminded_s: float | None = None
        self.doubt: str | None = None  # why the last look was not believed
        self.steps = (
            0  # that were believed: what was worked out from the time before has to be looked at again
        )

    def now(self) -> float | None:
        """UTC epoch seconds; None while the clock cannot be believed (`doubt` says why)."""
        wall_s, running_s = self._wall(), self._running()
        self.doubt = _impossible(wall_s) or self._unexpected(wall_s, running_s)
        if self.doubt is not None:
            return None
        self._expected_s, self._at_s = wall_s, running_s
        self._starting, self._standing = False, None
        return wall_s

    def _unexpected(self, wall_s: float, running_s: float) -> str | None:
        if self._expected_s is None:
            return None
        off_s = wall_s - (self._expected_s + running_s - self._at_s)
        if off_s > LEAP_S:
            self._standing = None
            return (
                f"the clock says {_date(wall_s)}, {off_s / 86_400:.0f} days after the last known time: "
                "set it, or start once with --trust-clock if it is right"
            )
        if abs(off_s) <= STEP_S or (self._starting and off_s > 0):
            return None
        if self._standing is None or abs(off_s - self._standing[0]) > STEP_S:
            self._standing = off_s, running_s
        if running_s - self._standing[1] >= SETTLE_S:
            self.steps += 1
            return None
        return (
            f"the clock stepped by {off_s:+.0f} s to {_date(wall_s)}: it is believed once that has stood for "
            f"{SETTLE_S:.0f} s"
        )

    def news(self) -> str | None:
        """What is worth a line in the log: a doubt, again every minute, and its end."""
        if self.doubt is None:
            ended, self._reminded_s = self._reminded_s is not None, None
            return "the clock is believed again" if ended else None
        running_s = self._running()
        if self._reminded_s is not None and running_s - self._reminded_s < _REMIND_S:
            return None
        self._reminded_s = running_s
        return self.doubt
