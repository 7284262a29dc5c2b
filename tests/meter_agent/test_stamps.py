"""A device's clock against this computer's: whose time dates a reading."""

from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.meter_agent.sources.reading import DeviceReading, Register
from gridhe.meter_agent.sources.stamps import CALM_S, DOUBTS, NEAR_S, Stamps

HOUR_S = 3_600
NOW_S = 1_732_500_000.0  # the start of an hour
FACTORY_S = 946_684_800.0  # 2000-01-01


def said(wh: int, at_s: float | None, power_w: int = 0) -> DeviceReading:
    return DeviceReading(imported={"r": Register(wh=Decimal(wh))}, power_w=Decimal(power_w), at_s=at_s)


def dated(made: Stamps, readings: Sequence[tuple[float, DeviceReading]]) -> list[float | None]:
    """The moment of each (arrival, reading)."""
    return [made.date(reading, arrived_s) for arrived_s, reading in readings]


def test_a_stamp_near_the_arrival_dates_the_reading() -> None:
    made = Stamps("auto")
    assert dated(made, [(NOW_S + at + 3.4, said(at, NOW_S + at)) for at in range(5)]) == [
        NOW_S + at for at in range(5)
    ]
    assert made.by == "device"


def test_without_a_stamp_the_arrival_dates_the_reading() -> None:
    assert dated(Stamps("auto"), [(NOW_S, said(1, None))]) == [NOW_S]


@pytest.mark.parametrize("stamp_s", [float("nan"), float("inf"), -1.0, 0.0, NOW_S * 1000])
def test_repro_a_stamp_that_is_no_time_dates_nothing(stamp_s: float) -> None:
    assert dated(Stamps("auto"), [(NOW_S, said(1, stamp_s))]) == [NOW_S]
    assert dated(Stamps("device"), [(NOW_S, said(1, stamp_s))]) == [None]


def test_note_2_a_clock_that_was_never_set_is_not_used() -> None:
    made = Stamps("auto")
    readings = [(NOW_S + at, said(427_708 + at, FACTORY_S)) for at in range(10)]
    assert dated(made, readings) == [None] * (DOUBTS - 1) + [NOW_S + at for at in range(DOUBTS - 1, 10)]
    assert made.events == {"clock": 1}
    assert made.by == "host"


def test_repro_a_frozen_clock_in_an_idle_house_is_dated_by_arrival() -> None:
    """Equal stamps and equal registers are no repeats once the clock is known to be wrong."""
    made = Stamps("auto")
    moments = dated(made, [(NOW_S + at, said(427_708, FACTORY_S)) for at in range(10)])
    assert moments[DOUBTS - 1 :] == [NOW_S + at for at in range(DOUBTS - 1, 10)]


def test_note_14_equal_stamp_and_equal_registers_are_a_repeat() -> None:
    made = Stamps("auto")
    readings = [(NOW_S + at, said(at // 10, NOW_S + at // 10 * 10)) for at in range(30)]
    assert [each for each in dated(made, readings) if each is not None] == [NOW_S, NOW_S + 10, NOW_S + 20]
    assert made.counts == {"repeat": 27}


def test_several_telegrams_in_one_second_count_once() -> None:
    made = Stamps("auto")
    assert dated(
        made, [(NOW_S, said(1, NOW_S)), (NOW_S + 0.5, said(2, NOW_S)), (NOW_S + 1, said(3, NOW_S + 1))]
    ) == [
        NOW_S,
        None,
        NOW_S + 1,
    ]
    assert made.counts == {"same_stamp": 1}


def test_note_31_a_repeated_snapshot_of_the_hour_before_is_no_reading_of_this_hour() -> None:
    """Received 11 s after four hours; the third has the second's clock and register, and a new power."""
    made = Stamps("auto")
    registers = [109_552_250, 109_554_020, 109_554_020, 109_562_070]
    hours = [0, 1, 1, 3]
    readings = [
        (NOW_S + at * HOUR_S + 11, said(wh, NOW_S + hour * HOUR_S, power_w=at * 1_000))
        for at, (wh, hour) in enumerate(zip(registers, hours, strict=True))
    ]
    assert dated(made, readings) == [NOW_S, NOW_S + HOUR_S, None, NOW_S + 3 * HOUR_S]
    assert made.counts == {"repeat": 1}
    assert made.events == {}


def test_repro_repeats_for_hours_do_not_make_the_devices_clock_wrong() -> None:
    made = Stamps("auto")
    readings = [(NOW_S + 11, said(5, NOW_S))]
    readings += [(NOW_S + at * HOUR_S + 11, said(5, NOW_S)) for at in range(1, 9)]
    readings += [(NOW_S + 9 * HOUR_S + 11, said(50, NOW_S + 9 * HOUR_S))]
    assert dated(made, readings) == [NOW_S, *[None] * 8, NOW_S + 9 * HOUR_S]


def test_note_32_hourly_registers_that_arrive_after_the_hour_belong_to_the_hour() -> None:
    readings = [(NOW_S + at * HOUR_S + 10, said(at, NOW_S + at * HOUR_S)) for at in range(4)]
    assert dated(Stamps("auto"), readings) == [NOW_S + at * HOUR_S for at in range(4)]


def test_note_34_a_clock_that_is_8_minutes_fast_is_not_used() -> None:
    made = Stamps("auto")
    moments = dated(made, [(NOW_S + 15 * at, said(at, NOW_S + 15 * at + 480)) for at in range(9)])
    assert moments[DOUBTS - 1 :] == [NOW_S + 15 * at for at in range(DOUBTS - 1, 9)]
    assert made.events == {"clock": 1}


def test_note_20_a_clock_that_jumps_by_minutes_is_left_and_used_again_when_it_has_been_calm() -> None:
    made = Stamps("auto")
    jumping = [(NOW_S + at, said(at, NOW_S + at + (300 if at % 2 else 500))) for at in range(10)]
    dated(made, jumping)
    assert made.by == "host"
    calm = [(NOW_S + at, said(at, NOW_S + at + 1)) for at in range(10, 12 + int(CALM_S))]
    moments = dated(made, calm)
    assert moments[: int(CALM_S)] == [arrived_s for arrived_s, _ in calm[: int(CALM_S)]]
    assert moments[-1] == calm[-1][1].at_s
    assert made.by == "device"


def test_stamps_that_are_near_now_and_then_are_not_calm() -> None:
    """A stamp of every quarter of an hour is near for a minute after it."""
    made = Stamps("auto")
    readings = [(NOW_S + at, said(at, NOW_S + at // 900 * 900)) for at in range(300, 4_000, 10)]
    moments = dated(made, readings)
    assert moments[DOUBTS:] == [arrived_s for arrived_s, _ in readings[DOUBTS:]]
    assert made.events == {"clock": 1}


def test_one_reading_with_an_old_stamp_is_old_and_no_reason_to_leave_the_devices_clock() -> None:
    """A retained message of last week, then the device itself."""
    made = Stamps("auto")
    week_s = 7 * 24 * HOUR_S
    readings = [(NOW_S, said(5_000, NOW_S - week_s)), (NOW_S + 1, said(5_123, NOW_S + 1))]
    assert dated(made, readings) == [None, NOW_S + 1]
    assert made.counts == {"far_stamp": 1}


def test_a_reading_that_is_older_than_the_last_is_late() -> None:
    made = Stamps("auto")
    assert dated(made, [(NOW_S, said(5, NOW_S)), (NOW_S + 11, said(4, NOW_S - 10))]) == [NOW_S, None]
    assert made.counts == {"late": 1}


def test_a_clock_that_freezes_while_the_registers_move_is_left() -> None:
    made = Stamps("auto")
    readings = [(NOW_S + at, said(at, NOW_S + min(at, 20))) for at in range(0, 200)]
    moments = dated(made, readings)
    assert moments[20] == NOW_S + 20
    assert moments[21 : 21 + int(NEAR_S)] == [None] * int(NEAR_S)
    assert moments[-1] == NOW_S + 199
    assert made.events == {"clock": 1}


def test_clock_device_dates_by_the_stamp_alone() -> None:
    made = Stamps("device")
    assert dated(made, [(NOW_S, said(1, FACTORY_S)), (NOW_S + 1, said(2, None))]) == [FACTORY_S, None]
    assert made.counts == {"no_stamp": 1}


def test_clock_host_dates_by_the_arrival_alone() -> None:
    made = Stamps("host")
    assert dated(made, [(NOW_S, said(1, NOW_S - 5)), (NOW_S + 1, said(1, NOW_S - 5))]) == [NOW_S, NOW_S + 1]


@pytest.mark.parametrize("clock", ["auto", "device"])
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(-100, 100), st.integers(0, 3)), max_size=60),
    st.data(),
)
def test_a_restart_anywhere_changes_nothing_and_stamps_only_rise(
    clock: str, steps: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    readings, arrived_s = [], NOW_S
    for wait_s, off_s, wh in steps:
        arrived_s += wait_s
        readings.append((arrived_s, said(wh, arrived_s + off_s)))
    cut = data.draw(st.integers(0, len(readings)))
    straight, before, after = (Stamps(clock) for _ in range(3))  # type: ignore[arg-type]  # a Literal
    truth = dated(straight, readings)
    found = dated(before, readings[:cut])
    after.restore(before.state())
    assert found + dated(after, readings[cut:]) == truth
    assert after.state() == straight.state()
    if clock == "device":
        used = [each for each in truth if each is not None]
        assert used == sorted(set(used))
