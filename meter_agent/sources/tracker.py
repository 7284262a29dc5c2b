"""Decides whether a device's register may become a sample. Pure: no clock, no I/O.

A register counts up, and its differences are the readings. Each value is judged against the last accepted:

    the value is                                       then
    from last to last + bound                          accepted
    below last by at most the jitter                   accepted as `last`: nothing was counted
    past its modulus, by a small true increase         accepted, event `rollover`
    of another equipment id                            accepted with a break, event `swap`
    in another resolution, and else plausible          accepted with a break, event `resolution`
    anything else                                      a suspect: ignored, counted as `dip`, `spike` or
                                                       `parts_changed`

    bound = largest_w * (time since the last value + lag) / 3600 + the register's step

Suspects are a 0 after a restart, a value times 1000, a register that holds another one's number, a tariff
that is absent from a sum. They are forgotten when a value on the old line arrives that does not follow from
them too: a register that fell back a little and counts on soon passes its old value. If PERSIST_READINGS of
them over PERSIST_S seconds follow plausibly from each other, they become the line, with a break and an event.
No time has to pass for values above a line of fewer readings than that: a device's first value may be a dip.

    reset      counted from about zero since the last accepted value
    restored   lower than that value: an older one, from before a power cut
    jump       higher
    parts      other registers make up the sum than before

No break is a rise that persists and that `largest_w` explains since the register last moved, but of a quarter
of an hour at most: some devices refresh their registers every few minutes. From then on that time is the
device's lag. A register that stands still all night, such as a roof's export, may jump like any other.

A break means that the increase since the sample before is not known. The interval in which it lies is
missing, never guessed and never negative. A direction without registers is absent from the sample, not zero.

The state is a part of the meter's journal, so a fault is judged across a restart as without one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from typing import Any

from gridhe.meter_agent.sources.protocol import Sample
from gridhe.meter_agent.sources.reading import DeviceReading, Register

__all__ = ["DIRECTIONS", "EVENTS", "PERSIST_READINGS", "PERSIST_S", "Tracker"]

DIRECTIONS = ("imported", "exported")
PERSIST_READINGS = 3
PERSIST_S = 300.0  # restarted devices send 0 for some minutes
_LAG_S = 10.0  # devices refresh their registers up to this much later than they send
_LAG_MAX_S = 910.0  # the longest lag that is learned: a register that is refreshed every quarter of an hour
_BACK_S = 120.0  # a reading that is so much earlier than the last sample: the clock went back
_NEAR_ZERO_WH = Decimal(1000)
_ROLLOVER = Decimal("0.01")  # of the modulus: a larger rise is a dip to 0, and no rollover
_JITTER_WH = Decimal(2)  # rounding, also of sums of registers that are rounded one by one
_RESOLUTION = 100  # steps that differ by this factor are other resolutions: 1 kWh, and 10, 1 or 0.1 Wh
_LARGEST_WH = Decimal(10) ** 15  # no meter counts further; 64 bits of ones are above it

EVENTS: Mapping[str, str] = {
    "swap": "the meter was exchanged: its equipment id is another one",
    "reset": "the register started again from zero",
    "restored": "the register went back to an older value",
    "jump": "the register jumped further than source.largest_w allows",
    "parts": "other registers make up the sum than before",
    "resolution": "the register's resolution changed",
    "rollover": "the register passed its largest value and continues from zero",
    "locked": "the meter shows whole kWh only: enter its PIN at the meter for exact readings",
}


@dataclass(frozen=True, slots=True)
class _Part:
    """One register; `turns` is the number of times that it rolled over."""

    wh: Decimal
    step_wh: Decimal
    modulus_wh: Decimal | None
    turns: int

    @property
    def total_wh(self) -> Decimal:
        return self.wh if self.modulus_wh is None else self.wh + self.turns * self.modulus_wh


@dataclass(frozen=True, slots=True)
class _Line:
    """One direction's registers at a moment."""

    parts: Mapping[str, _Part]
    at_s: float
    moved_s: float  # when they last rose
    lag_s: float = _LAG_S
    count: int = 1  # readings on it, up to PERSIST_READINGS

    @property
    def total_wh(self) -> Decimal:
        return sum((part.total_wh for part in self.parts.values()), Decimal(0))


@dataclass(frozen=True, slots=True)
class _Suspects:
    """Values beside the line that follow from each other."""

    first: _Line
    last: _Line
    count: int
    rises: int = 0  # how often they rose


@dataclass(slots=True)
class _Direction:
    line: _Line | None = None
    suspects: _Suspects | None = None
    broken: bool = False  # the line does not continue the one before; used within one reading

    @property
    def is_high(self) -> bool:
        """Whether the suspects are above the line."""
        if self.line is None or self.suspects is None:
            return False
        return self.suspects.last.total_wh > self.line.total_wh

    @property
    def is_counting(self) -> bool:
        """Whether the suspects are a register that counts on: they have risen one by one."""
        return self.suspects is not None and self.suspects.rises >= PERSIST_READINGS


class Tracker:
    """The registers of one device, over time."""

    def __init__(self, *, largest_w: int) -> None:
        """`largest_w`: the most power, in W, that the connection can carry."""
        self._largest_w = Decimal(largest_w)
        self._at_s: float | None = None  # of the last sample
        self._was_back: set[str] = set()  # directions without a sample since the clock went back
        self._device: str | None = None
        self._locked = False
        self._directions = {name: _Direction() for name in DIRECTIONS}
        self.counts: Counter[str] = Counter()  # ignored values, by reason
        self.events: Counter[str] = Counter()  # by name: EVENTS

    def take(self, reading: DeviceReading, at_s: float) -> Sample | None:
        """The sample of a reading at `at_s` (UTC epoch seconds), by direction; None if nothing is usable.

        Its values are whole Wh, rounded down. Samples rise in time: an earlier reading is counted as `late`.
        """
        if not reading.imported and not reading.exported:
            self.counts["no_register"] += 1
            return None
        if self._at_s is not None and at_s <= self._at_s:
            self.counts["late"] += 1
            if self._at_s - at_s > _BACK_S:
                self._was_back.update(DIRECTIONS)
            return None
        if reading.locked and not self._locked:
            self.events["locked"] += 1
        self._locked = reading.locked
        if reading.device is not None and reading.device != self._device:
            if self._device is not None:
                self.events["swap"] += 1
                self._directions = {name: _Direction() for name in DIRECTIONS}
            self._device = reading.device
        values: dict[str, int] = {}
        breaks = set()
        with localcontext(prec=60):  # sums of registers are exact
            for name, registers in zip(DIRECTIONS, (reading.imported, reading.exported), strict=True):
                direction = self._directions[name]
                # What was counted while the clock was ahead and then back is not of this moment's interval.
                direction.broken = direction.line is None or name in self._was_back
                if not registers or not self._judge(direction, registers, at_s):
                    continue
                assert direction.line is not None  # noqa: S101 - `_judge` returned True
                values[name] = int(direction.line.total_wh // 1)
                if direction.broken:
                    breaks.add(name)
        if not values:
            return None
        self._at_s = at_s
        self._was_back -= values.keys()
        return Sample(at_s=at_s, values=values, breaks=frozenset(breaks))

    # -- judging -------------------------------------------------------------------------------

    def _bound_wh(self, seconds: float) -> Decimal:
        return self._largest_w * Decimal(seconds) / 3600

    def _judge(self, direction: _Direction, registers: Mapping[str, Register], at_s: float) -> bool:
        """Move the direction's line to these registers. Returns False if they are ignored."""
        if not all(map(_is_possible, registers.values())):
            self.counts["impossible"] += 1
            return False
        line = direction.line
        if line is None:
            direction.line = _line_of(registers, at_s)
            return True
        bound_wh = self._bound_wh(at_s - line.at_s + line.lag_s)
        # The bound grows with time and would reach a spike that stays; and a register that fell back and
        # counts on passes the line's value again.
        in_doubt = direction.is_high or direction.is_counting
        stays = self._follow_suspects(direction, registers, at_s) if in_doubt else None
        following = _follow(line, registers, at_s, bound_wh) if stays is None else None
        if following is None and _is_rescaled(line, registers, bound_wh):
            following, direction.broken = _line_of(registers, at_s), True
            self.events["resolution"] += 1
        elif following is None:
            following = self._suspect(direction, line, registers, at_s)
        elif any(part.turns > line.parts[name].turns for name, part in following.parts.items()):
            self.events["rollover"] += 1
        if following is None:
            return False
        direction.line, direction.suspects = following, None
        return True

    def _suspect(
        self, direction: _Direction, line: _Line, registers: Mapping[str, Register], at_s: float
    ) -> _Line | None:
        """Collect values beside the line. Returns the new line once they persist."""
        new = replace(_line_of(registers, at_s), lag_s=line.lag_s)
        low, changed = new.total_wh < line.total_wh, registers.keys() != line.parts.keys()
        self.counts["parts_changed" if changed else "dip" if low else "spike"] += 1
        suspects, following = direction.suspects, self._follow_suspects(direction, registers, at_s)
        if suspects is None or following is None:
            direction.suspects = _Suspects(first=new, last=new, count=1)
            return None
        first, count = suspects.first, suspects.count + 1
        rises = suspects.rises + (following.total_wh > suspects.last.total_wh)
        direction.suspects = _Suspects(first=first, last=following, count=count, rises=rises)
        low = first.total_wh < line.total_wh
        # A line of one or two readings may itself be the dip: devices send a 0 as their first value.
        is_new = line.count < PERSIST_READINGS and not low and not changed
        if count < PERSIST_READINGS or at_s - first.at_s < (0.0 if is_new else PERSIST_S):
            return None
        still_s = min(first.at_s - line.moved_s, max(first.at_s - line.at_s, _LAG_MAX_S))
        rise_wh = following.total_wh - first.total_wh
        caught_up = None if low else _follow(line, registers, at_s, self._bound_wh(still_s) + rise_wh)
        if caught_up is not None:
            return replace(caught_up, lag_s=max(line.lag_s, min(still_s, _LAG_MAX_S)))
        from_zero_wh = max(self._bound_wh(at_s - line.at_s), _NEAR_ZERO_WH)
        if changed:
            event = "parts"
        elif not low:
            event = "jump"
        else:
            from_zero = following.total_wh <= min(from_zero_wh, line.total_wh / 2)
            event = "reset" if from_zero else "restored"
        self.events[event] += 1
        direction.broken = True
        return following

    def _follow_suspects(
        self, direction: _Direction, registers: Mapping[str, Register], at_s: float
    ) -> _Line | None:
        if direction.suspects is None:
            return None
        last = direction.suspects.last
        return _follow(last, registers, at_s, self._bound_wh(at_s - last.at_s + last.lag_s))

    # -- state ---------------------------------------------------------------------------------

    def state(self) -> list[Any]:
        """The whole state: lists, texts and numbers."""
        directions = []
        for each in self._directions.values():
            suspects = each.suspects
            directions.append(
                [
                    None if each.line is None else _packed(each.line),
                    None
                    if suspects is None
                    else [_packed(suspects.first), _packed(suspects.last), suspects.count, suspects.rises],
                ]
            )
        return [
            self._at_s,
            self._device,
            self._locked,
            directions,
            dict(self.counts),
            dict(self.events),
            sorted(self._was_back),
        ]

    def restore(self, state: list[Any]) -> None:
        """Continue from a `state()`. Raises ValueError, TypeError or ArithmeticError if it is none."""
        at_s, device, locked, directions, counts, events, *was_back = state
        restored = {}
        for name, (line, suspects) in zip(DIRECTIONS, directions, strict=True):
            restored[name] = _Direction(
                line=None if line is None else _unpacked(line),
                suspects=None
                if suspects is None
                else _Suspects(_unpacked(suspects[0]), _unpacked(suspects[1]), *suspects[2:]),
            )
        self._at_s, self._device, self._locked = at_s, device, locked
        self._was_back = set(was_back[0]) if was_back else set()
        self._directions, self.counts, self.events = restored, Counter(counts), Counter(events)


def _is_possible(register: Register) -> bool:
    return register.wh.is_finite() and 0 <= register.wh < _LARGEST_WH and register.step_wh > 0


def _line_of(registers: Mapping[str, Register], at_s: float) -> _Line:
    parts = {
        name: _Part(wh=each.wh, step_wh=each.step_wh, modulus_wh=each.modulus_wh, turns=0)
        for name, each in registers.items()
    }
    return _Line(parts=parts, at_s=at_s, moved_s=at_s)


def _follow(line: _Line, registers: Mapping[str, Register], at_s: float, bound_wh: Decimal) -> _Line | None:
    """The line that rises from `line` to these registers by at most `bound_wh`; None if it does not."""
    if registers.keys() != line.parts.keys():
        return None
    parts = {}
    for name, register in registers.items():
        part = _next_part(line.parts[name], register, bound_wh)
        if part is None:
            return None
        parts[name] = part
    rise_wh = sum((part.total_wh for part in parts.values()), Decimal(0)) - line.total_wh
    if rise_wh > bound_wh + sum(part.step_wh for part in parts.values()):
        return None
    moved_s = at_s if rise_wh else line.moved_s
    count = min(line.count + 1, PERSIST_READINGS)
    return _Line(parts=parts, at_s=at_s, moved_s=moved_s, lag_s=line.lag_s, count=count)


def _next_part(last: _Part, register: Register, bound_wh: Decimal) -> _Part | None:
    if _rescales(last, register):
        return None
    step_wh = max(last.step_wh, register.step_wh)
    modulus_wh = last.modulus_wh or register.modulus_wh
    for turn in (0,) if modulus_wh is None else (0, 1, -1):
        part = _Part(wh=register.wh, step_wh=register.step_wh, modulus_wh=modulus_wh, turns=last.turns + turn)
        rise_wh, most_wh = part.total_wh - last.total_wh, bound_wh + step_wh
        if modulus_wh is not None and turn:
            most_wh = min(most_wh, modulus_wh * _ROLLOVER)
        if 0 <= rise_wh <= most_wh:
            return part
        if -max(_JITTER_WH, step_wh) <= rise_wh < 0:
            return last
    return None


def _rescales(last: _Part, register: Register) -> bool:
    low_wh, high_wh = sorted((last.step_wh, register.step_wh))
    return high_wh >= low_wh * _RESOLUTION


def _is_rescaled(line: _Line, registers: Mapping[str, Register], bound_wh: Decimal) -> bool:
    """Whether these are the line's registers in another resolution, and plausible up to that."""
    if registers.keys() != line.parts.keys():
        return False
    pairs = [(line.parts[name], each) for name, each in registers.items()]
    return any(_rescales(last, each) for last, each in pairs) and all(
        -max(last.step_wh, each.step_wh) <= each.wh - last.wh <= bound_wh + max(last.step_wh, each.step_wh)
        for last, each in pairs
    )


def _packed(line: _Line) -> list[Any]:
    parts = [
        [name, *(None if each is None else str(each) for each in (p.wh, p.step_wh, p.modulus_wh)), p.turns]
        for name, p in line.parts.items()
    ]
    return [parts, line.at_s, line.moved_s, line.lag_s, line.count]


def _unpacked(packed: list[Any]) -> _Line:
    parts, at_s, moved_s, lag_s, count = packed
    return _Line(
        parts={
            name: _Part(
                wh=Decimal(wh),
                step_wh=Decimal(step_wh),
                modulus_wh=None if modulus_wh is None else Decimal(modulus_wh),
                turns=turns,
            )
            for name, wh, step_wh, modulus_wh, turns in parts
        },
        at_s=at_s,
        moved_s=moved_s,
        lag_s=lag_s,
        count=count,
    )
