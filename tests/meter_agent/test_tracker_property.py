"""Whatever a device says: no reading exceeds what its register counted, and a restart changes nothing."""

import bisect
from dataclasses import dataclass, replace
from decimal import Decimal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gridhe.meter_agent.policy import ABSENT
from gridhe.meter_agent.sources.protocol import Sample
from gridhe.meter_agent.sources.reading import DeviceReading, Register
from gridhe.meter_agent.sources.tracker import Tracker
from gridhe.meter_agent.windows import WindowBuilder

INTERVAL_S, WINDOW_S, LARGEST_W = 60, 240, 20_000
FAR = 10**7  # Wh: beyond every bound here
JITTER = 2


@dataclass(frozen=True)
class Step:
    wait_s: int
    watts: int  # true mean power since the step before
    says: str  # the register, or a fault that passes
    becomes: str  # what happens to the meter at this step


FAULTS = ["true"] * 12 + ["zero", "high", "high", "times_1000", "null", "jitter", "late", "tariff"]
CHANGES = ["same"] * 20 + ["reset", "restored", "swap", "stuck_high", "stuck_zero"]
steps = st.lists(
    st.builds(
        Step,
        wait_s=st.integers(1, 80),
        watts=st.integers(0, LARGEST_W),
        says=st.sampled_from(FAULTS),
        becomes=st.sampled_from(CHANGES),
    ),
    max_size=150,
)


class House:
    """A house that counts true energy, and its meter, which shows it less well."""

    def __init__(self) -> None:
        self.at_s, self.milli_wh = 1_000_000, 5 * FAR * 1_000
        self.offset, self.device, self.stuck = 0, 1, 0
        self.true: dict[float, int] = {float(self.at_s): self.milli_wh // 1_000}  # Wh by time
        self.last = float(self.at_s), DeviceReading()

    def step(self, step: Step) -> tuple[float, DeviceReading]:
        if step.says == "late":
            return self.last
        self.at_s += step.wait_s
        self.milli_wh += step.watts * step.wait_s * 1_000 // 3_600
        true = self.true[float(self.at_s)] = self.milli_wh // 1_000
        if step.becomes == "reset":
            self.offset = true
        elif step.becomes == "restored":
            self.offset = min(true, self.offset + 500)
        elif step.becomes == "swap":
            self.offset, self.device, self.stuck = true - 7_000, self.device + 1, 0
        elif step.becomes == "stuck_high":
            self.stuck = 0 if self.stuck else 25  # messages in which a fault stays
        shown = true - self.offset
        says = step.says
        if self.stuck:
            self.stuck, says = self.stuck - 1, "high" if step.becomes != "stuck_zero" else "zero"
        wh = {
            "zero": 0,
            "high": shown + FAR,
            "times_1000": shown * 1_000 + FAR,
            "jitter": max(0, shown - JITTER),
        }.get(says, shown)
        parts = {"r": Register(wh=Decimal(wh))}
        if says == "tariff":
            parts["t"] = Register(wh=Decimal(1))
        reading = DeviceReading(imported={} if says == "null" else parts, device=str(self.device))
        self.last = float(self.at_s), reading
        return self.last


def window_builder() -> WindowBuilder:
    return WindowBuilder(quantities=["imported"], kind="register", window_s=WINDOW_S, interval_s=INTERVAL_S)


def closed(builder: WindowBuilder) -> dict[int, int]:
    """The readings by interval that are known."""
    return {
        each.window * WINDOW_S // INTERVAL_S + at: int(reading)
        for each in builder.closed
        for at, reading in enumerate(each.readings["imported"])
        if reading != ABSENT
    }


def far_too_long(step: Step, count: int) -> list[Step]:
    return [replace(step, wait_s=20)] * count


STEADY = Step(wait_s=10, watts=10_000, says="true", becomes="same")


@settings(max_examples=300, deadline=None)
@given(steps)
@example([*[STEADY] * 30, *far_too_long(replace(STEADY, says="high"), 20), *[STEADY] * 60])
@example([*[STEADY] * 30, *far_too_long(replace(STEADY, says="zero"), 20), *[STEADY] * 60])
@example([*[STEADY] * 30, replace(STEADY, becomes="swap"), *[STEADY] * 60])
@example([*[STEADY] * 30, replace(STEADY, becomes="reset"), *[STEADY] * 90])
def test_no_reading_exceeds_what_the_register_counted_and_none_is_negative(given_steps: list[Step]) -> None:
    house, made, builder = House(), Tracker(largest_w=LARGEST_W), window_builder()
    accepted: list[float] = []
    for step in given_steps:
        at_s, reading = house.step(step)
        sample = made.take(reading, at_s)
        if sample is not None:
            accepted.append(sample.at_s)
            builder.add(sample)
    builder.finish(partial=True)
    found = closed(builder)
    for interval, reading in found.items():
        begin = bisect.bisect_right(accepted, interval * INTERVAL_S) - 1
        end = bisect.bisect_left(accepted, (interval + 1) * INTERVAL_S)
        counted = house.true[accepted[end]] - house.true[accepted[begin]]
        assert 0 <= reading <= counted + JITTER, interval
    if found:
        whole = house.true[accepted[-1]] - house.true[accepted[0]]
        assert sum(found.values()) <= whole + JITTER * (1 + builder.counts.breaks)


@settings(max_examples=200, deadline=None)
@given(steps, st.data())
def test_a_restart_anywhere_changes_nothing(given_steps: list[Step], data: st.DataObject) -> None:
    house = House()
    said = [house.step(step) for step in given_steps]
    cut = data.draw(st.integers(0, len(said)))

    def run(made: Tracker, part: list[tuple[float, DeviceReading]]) -> list[Sample | None]:
        return [made.take(reading, at_s) for at_s, reading in part]

    straight = Tracker(largest_w=LARGEST_W)
    truth = run(straight, said)
    before, after = Tracker(largest_w=LARGEST_W), Tracker(largest_w=LARGEST_W)
    found = run(before, said[:cut])
    after.restore(before.state())
    assert found + run(after, said[cut:]) == truth
    assert after.state() == straight.state()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 300)), min_size=2, max_size=200))
def test_without_faults_every_reading_is_the_registers_difference(said: list[tuple[int, int]]) -> None:
    """Readings on every boundary too: then an interval is exactly the difference, and none is missing."""
    made, builder = Tracker(largest_w=10**9), window_builder()
    at_s, wh, registers = 0, 10**9, {0: 10**9}
    for wait_s, rise in said:
        at_s, wh = at_s + wait_s, wh + rise
        registers[at_s] = wh
    for boundary_s in range(0, at_s, INTERVAL_S):
        if boundary_s not in registers:
            registers[boundary_s] = registers[max(each for each in registers if each < boundary_s)]
    for moment_s in sorted(registers):
        sample = made.take(
            DeviceReading(imported={"r": Register(wh=Decimal(registers[moment_s]))}), float(moment_s)
        )
        assert sample is not None
        builder.add(sample)
    assert closed(builder) == {
        interval: registers[(interval + 1) * INTERVAL_S] - registers[interval * INTERVAL_S]
        for interval in range(builder.closed_until_s // INTERVAL_S if builder.closed else 0)
    }
