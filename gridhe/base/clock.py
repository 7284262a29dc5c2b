"""A plausibility check of the wall clock. Pure: both clocks are passed in.

    the wall clock says                                 it is believed
    a time before this program was made, or 30 years    never
    after that
    the time that the monotonic clock predicts,         at once
    within a minute
    a later time, at a start                            at once, up to LEAP_S after the last known time
    another time (a step, forwards or back)             after it has lasted for SETTLE_S
    more than LEAP_S after the last known time          only with --trust-clock

The caller stores the last known time, so that it survives a restart. While the clock is not believed,
nothing is sealed, closed, pruned or finally refused.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from gridhe.errors import ConfigError

__all__ = ["BUILT", "LEAP_S", "SETTLE_S", "STEP_S", "PlausibleClock", "check_clock", "running_s"]

# The date of this program: a correct clock cannot be earlier. A test checks that it is in the past.
BUILT = datetime(2026, 11, 23, tzinfo=UTC)
STEP_S = 60.0  # largest deviation that is not a step: time daemons correct larger ones by a step
SETTLE_S = 120.0  # NTP corrects a wrong step faster than this
LEAP_S = 400 * 86_400.0  # longest time switched off that needs no --trust-clock
_LASTS_S = 30 * 366 * 86_400.0
_REMIND_S = 60.0


def running_s() -> float:
    """Monotonic seconds, which on Linux include the time in which the machine was suspended."""
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
    """Return `now_s` (UTC epoch seconds). Raises ConfigError if it is impossible: set the clock."""
    doubt = _impossible(now_s)
    if doubt is not None:
        raise ConfigError(f"{doubt}; set this machine's clock")
    return now_s


class PlausibleClock:
    """The wall clock while it is plausible. Call `now` often: a step is detected between two calls."""

    def __init__(
        self,
        *,
        known_s: float | None,
        wall: Callable[[], float] = time.time,
        running: Callable[[], float] = running_s,
    ) -> None:
        """`known_s`: the last time that an earlier process believed; None to believe the first reading."""
        self._wall, self._running = wall, running
        self._expected_s, self._at_s = known_s, running()
        self._starting = True
        self._standing: tuple[float, float] | None = None  # a step's size, and the time since which it lasts
        self._reminded_s: float | None = None
        self.doubt: str | None = None  # the reason why the last reading was not believed
        self.steps = 0  # believed steps; after one, times computed before are wrong

    def now(self) -> float | None:
        """UTC epoch seconds; None while the clock is not plausible (`doubt` has the reason)."""
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
            f"the clock stepped by {off_s:+.0f} s to {_date(wall_s)}: it is believed if this lasts for "
            f"{SETTLE_S:.0f} s"
        )

    def news(self) -> str | None:
        """A line for the log, if due: the doubt, repeated every minute, and its end."""
        if self.doubt is None:
            ended, self._reminded_s = self._reminded_s is not None, None
            return "the clock is believed again" if ended else None
        running_s = self._running()
        if self._reminded_s is not None and running_s - self._reminded_s < _REMIND_S:
            return None
        self._reminded_s = running_s
        return self.doubt
