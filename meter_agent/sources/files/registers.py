"""A meter's register, read at many times, becomes differences: nothing is guessed.

value              then                                        becomes
falls              rises above the earlier value again soon    the low samples are set aside (a dip)
falls              was nearly full, and has begun again         a rollover: the difference goes over it
falls              counts on, and so passes it                 missing (an older value came back)
falls              neither                                     missing (meter swap or reset)
rises too fast     falls back soon                             the high samples are set aside (a spike)
rises too fast     stays                                       missing
"""

import numpy as np
from numpy.typing import NDArray

from gridhe.meter_agent.sources.files.scale import MILLI
from gridhe.meter_agent.sources.files.table import Findings, Samples

__all__ = ["clean_register"]

_ROLLOVER_MIN_WH = 10**7  # no register has fewer than five digits of kWh
_AHEAD = 8  # samples in which a dip or a spike has to be over
_RISES = 3  # of low samples one after the other: not a dip, but a register that counts on


def clean_register(
    times_s: NDArray[np.int64],
    milli: NDArray[np.int64],
    lines: NDArray[np.int64],
    *,
    unit_wh: int,
    largest_w: int,
    column: str,
    findings: Findings,
) -> tuple[Samples, NDArray[np.int64]]:
    """A continuous register in whole Wh, and the index of each kept sample.

    `times_s` rises; `milli` are registers in 1/1000 Wh; `unit_wh` is the unit that the register counts in
    (1000 for kWh), which its rollover is a power of ten of.
    """
    kept: list[int] = []
    breaks: list[bool] = []
    shift = 0  # what rollovers and swaps have added so far
    shifts: list[int] = []
    at, count = 0, len(times_s)
    while at < count:
        if not kept:
            kept.append(at)
            breaks.append(True)
            shifts.append(0)
            at += 1
            continue
        last = kept[-1]
        rise = int(milli[at] - milli[last])

        def plausible(amount: int, index: int, since: int = last) -> bool:
            most = largest_w * MILLI * int(times_s[index] - times_s[since]) // 3600
            return 0 <= amount <= most + unit_wh * MILLI // 1000

        ahead = range(at + 1, min(at + 1 + _AHEAD, count))
        if rise < 0 or not plausible(rise, at):
            back = next((j for j in ahead if plausible(int(milli[j] - milli[last]), j)), None)
            if rise < 0 and back is not None and back - at > 1:
                rises = np.diff(milli[at : at + 1 + _RISES]).tolist()
                steps = [each > 0 and plausible(each, j, j - 1) for j, each in enumerate(rises, at + 1)]
                if len(steps) == _RISES and all(steps):
                    back = None
            modulus = _modulus(int(milli[last]), unit_wh)
            full = modulus >= _ROLLOVER_MIN_WH * MILLI and 10 * int(milli[last]) >= 9 * modulus
            if rise < 0 and full and plausible(rise + modulus, at):
                findings.add(int(lines[at]), column, "the register rolls over", settled=True)
                shift += modulus
            elif back is not None:
                for index in range(at, back):
                    what = "falls" if rise < 0 else "jumps"
                    findings.add(int(lines[index]), column, f"the register {what} for a moment", settled=True)
                at = back
                continue
            else:
                what = "falls: meter swap or reset" if rise < 0 else "rises faster than is possible"
                findings.add(
                    int(lines[at]), column, f"the register {what}; this interval is missing", settled=True
                )
                shift -= rise
                kept.append(at)
                breaks.append(True)
                shifts.append(shift)
                at += 1
                continue
        kept.append(at)
        breaks.append(False)
        shifts.append(shift)
        at += 1
    chosen = np.array(kept, np.int64)
    total = milli[chosen] + np.array(shifts, np.int64)
    whole, rest = np.divmod(total, MILLI)
    whole = whole + ((2 * rest > MILLI) | ((2 * rest == MILLI) & (whole % 2 == 1)))
    return Samples(times_s=times_s[chosen], wh=whole, breaks=np.array(breaks, np.bool_)), chosen


def _modulus(milli: int, unit_wh: int) -> int:
    """Where a register with this value rolls over: the next power of ten of its unit."""
    step = unit_wh * MILLI
    modulus = step
    while modulus <= milli:
        modulus *= 10
    return modulus
