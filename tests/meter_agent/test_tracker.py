"""The register machine: dips, spikes, swaps, resets and roll-overs are told apart as in the field notes."""

from collections.abc import Sequence
from decimal import Decimal

import pytest

from gridhe.meter_agent.sources.protocol import Sample
from gridhe.meter_agent.sources.reading import DeviceReading, Register
from gridhe.meter_agent.sources.tracker import PERSIST_READINGS, PERSIST_S, Tracker

Readings = Sequence[tuple[float, DeviceReading]]
MODULUS = 10**9  # Wh: a register of 999999.999 kWh


def register(wh: int | str, step: str = "1", modulus: int | None = None) -> Register:
    return Register(
        wh=Decimal(wh), step_wh=Decimal(step), modulus_wh=None if modulus is None else Decimal(modulus)
    )


def imported(
    *registers: Register, device: str | None = None, locked: bool = False, exported: Register | None = None
) -> DeviceReading:
    return DeviceReading(
        imported={f"r{at}": each for at, each in enumerate(registers)},
        exported={} if exported is None else {"e": exported},
        device=device,
        locked=locked,
    )


def tracker(largest_w: int = 100_000) -> Tracker:
    return Tracker(largest_w=largest_w)


def samples(made: Tracker, readings: Readings) -> list[Sample | None]:
    return [made.take(reading, at_s) for at_s, reading in readings]


def values(found: Sequence[Sample | None], direction: str = "imported") -> list[float | None]:
    """The value of each reading's sample; None where it gave none."""
    return [None if each is None else each.values.get(direction) for each in found]


def breaks(found: Sequence[Sample | None], direction: str = "imported") -> list[float]:
    """When the direction broke; the first sample does by its nature, and is left out."""
    return [each.at_s for each in found[1:] if each is not None and direction in each.breaks]


def line(*wh: int | str, every_s: float = 10, from_s: float = 0, step: str = "1") -> Readings:
    """Readings of one register, evenly spaced."""
    return [(from_s + at * every_s, imported(register(each, step))) for at, each in enumerate(wh)]


def persisting(wh: int, rise: int, *, from_s: float, every_s: float = 10) -> Readings:
    """Readings of a register that stands at `wh` and rises, until just over PERSIST_S have passed."""
    count = int(PERSIST_S // every_s) + 2
    return line(*(wh + at * rise for at in range(count)), every_s=every_s, from_s=from_s)


# -- what is accepted ------------------------------------------------------------------------------


def test_a_register_becomes_whole_watt_hours_rounded_down() -> None:
    made = tracker()
    found = samples(made, line("100.9", "101.2", "101.99", "102.0", step="0.1"))
    assert values(found) == [100, 101, 101, 102]
    assert breaks(found) == []
    assert (made.counts, made.events) == ({}, {})


def test_note_3_tariffs_are_added_and_the_sum_is_rounded_once() -> None:
    found = samples(tracker(), [(0, imported(register("1.6"), register("2.6")))])
    assert values(found) == [4]


def test_import_and_export_are_judged_apart() -> None:
    made = tracker()
    found = samples(
        made,
        [
            (0, imported(register(100), exported=register(50))),
            (10, imported(register(0), exported=register(51))),
            (20, imported(register(101), exported=register(52))),
        ],
    )
    assert values(found) == [100, None, 101]
    assert values(found, "exported") == [50, 51, 52]
    assert made.counts == {"dip": 1}


def test_note_11_a_direction_without_a_register_is_absent_and_not_zero() -> None:
    (found,) = samples(tracker(), [(0, imported(register(100)))])
    assert found is not None
    assert found.values == {"imported": 100}


def test_note_30_a_null_between_two_values_changes_nothing() -> None:
    made = tracker()
    found = samples(
        made, [*line(100), (10, DeviceReading(power_w=Decimal(5))), (20, imported(register(101)))]
    )
    assert values(found) == [100, None, 101]
    assert breaks(found) == []
    assert made.counts == {"no_register": 1}


def test_readings_that_are_not_later_are_ignored() -> None:
    made = tracker()
    assert values(
        samples(made, [*line(100, 101), (10, imported(register(102))), (5, imported(register(9)))])
    )[2:] == [None, None]
    assert made.counts == {"late": 2}


# -- another meter ---------------------------------------------------------------------------------


def test_note_1_a_swapped_meter_is_known_by_its_equipment_id_and_breaks_at_once() -> None:
    made = tracker()
    found = samples(
        made,
        [
            (0, imported(register(29_078_063), device="old")),
            (12_600, imported(register(2), device="new")),
            (12_601, imported(register(3), device="new")),
        ],
    )
    assert values(found) == [29_078_063, 2, 3]
    assert breaks(found) == [12_600]
    assert made.events == {"swap": 1}
    assert made.counts == {}


def test_repro_a_new_meter_that_continues_the_old_ones_value_is_a_swap_all_the_same() -> None:
    made = tracker()
    found = samples(
        made, [(0, imported(register(100), device="a")), (10, imported(register(101), device="b"))]
    )
    assert breaks(found) == [10]
    assert made.events == {"swap": 1}


def test_a_swap_breaks_a_direction_that_comes_back_later() -> None:
    made = tracker()
    found = samples(
        made,
        [
            (0, imported(register(100), device="a", exported=register(50))),
            (10, imported(register(3), device="b")),
            (20, imported(register(4), device="b", exported=register(51))),
        ],
    )
    assert breaks(found, "exported") == [20]


def test_an_id_that_is_absent_for_a_while_is_no_swap() -> None:
    made = tracker()
    readings = [
        (0, imported(register(100), device="a")),
        (10, imported(register(101))),
        (20, imported(register(102), device="a")),
    ]
    assert breaks(samples(made, readings)) == []
    assert made.events == {}


# -- a step back -----------------------------------------------------------------------------------


def test_note_47_a_step_back_of_1_wh_holds_the_value() -> None:
    made = tracker()
    found = samples(made, line(3_000_000, 3_000_001, 3_000_000, 3_000_001, 3_000_002, every_s=1))
    assert values(found) == [3_000_000, 3_000_001, 3_000_001, 3_000_001, 3_000_002]
    assert breaks(found) == []
    assert (made.counts, made.events) == ({}, {})


def test_repro_jitter_for_ever_never_adds_up() -> None:
    found = samples(tracker(), line(*([100, 99] * 500)))
    assert set(values(found)) == {100}


def test_note_46_a_dip_to_0_that_comes_back_is_ignored() -> None:
    made = tracker()
    found = samples(made, line(1_000_075, 0, 1_000_085))
    assert values(found) == [1_000_075, None, 1_000_085]
    assert breaks(found) == []
    assert made.counts == {"dip": 1}


def test_note_50_zeros_for_minutes_after_a_restart_are_ignored() -> None:
    made = tracker()
    zeros = line(*([0] * int(PERSIST_S // 10)), from_s=10)
    found = samples(made, [*line(8_345_460), *zeros, (PERSIST_S + 10, imported(register(8_345_500)))])
    assert [each for each in values(found) if each is not None] == [8_345_460, 8_345_500]
    assert breaks(found) == []
    assert made.events == {}


def test_note_47_two_percent_back_for_a_moment_is_ignored() -> None:
    assert values(samples(tracker(), line(1_000_000, 980_000, 1_000_010))) == [1_000_000, None, 1_000_010]


def test_note_48_a_plug_that_glitches_to_low_values_and_times_1000_keeps_its_line() -> None:
    made = tracker()
    found = samples(made, line(978_438, 7_439, 1_150, 978_439, 978_439_000, 978_440, every_s=1))
    assert values(found) == [978_438, None, None, 978_439, None, 978_440]
    assert made.counts == {"dip": 2, "spike": 1}
    assert breaks(found) == []


def test_note_51_a_counter_that_starts_at_0_on_reboot_is_a_reset_once_it_persists() -> None:
    made = tracker()
    found = samples(made, [*line(7_258), *persisting(0, 1, from_s=10)])
    got = [each for each in values(found) if each is not None]
    assert got == [7_258, 30, 31]
    assert breaks(found) == [10 + PERSIST_S]
    assert made.events == {"reset": 1}


def test_note_53_an_older_value_after_a_power_cut_is_restored_once_it_persists() -> None:
    made = tracker()
    found = samples(made, [*line(359_067), *persisting(235_611, 1, from_s=62)])
    assert made.events == {"restored": 1}
    assert breaks(found) == [62 + PERSIST_S]


def test_note_49_a_plug_that_falls_back_a_little_is_restored() -> None:
    made = tracker()
    samples(made, [*line(7_420), *persisting(7_380, 0, from_s=10)])
    assert made.events == {"restored": 1}


def test_repro_a_dip_that_persists_and_then_ends_gives_no_energy() -> None:
    """The true value comes back after the rebase: that is a jump with a break, and not 8 MWh."""
    made = tracker()
    low = persisting(0, 0, from_s=10)
    found = samples(made, [*line(8_000_000), *low, *persisting(8_000_100, 0, from_s=low[-1][0] + 10)])
    assert made.events == {"reset": 1, "jump": 1}
    assert len(breaks(found)) == 2


def test_repro_two_readings_alone_do_not_rebase_however_far_apart() -> None:
    found = samples(tracker(), [*line(5_000), *line(0, 0, every_s=3_600, from_s=3_600)])
    assert values(found) == [5_000, None, None]
    assert PERSIST_READINGS == 3


def test_repro_many_readings_in_a_short_time_do_not_rebase() -> None:
    found = samples(tracker(), [*line(5_000), *line(*([0] * 1_000), every_s=0.1, from_s=10)])
    assert set(values(found)[1:]) == {None}


def test_repro_suspects_that_do_not_follow_from_each_other_never_rebase() -> None:
    made = tracker()
    wild = line(*([10, 4_000_000, 77, 900_000] * 50), from_s=10)
    found = samples(made, [*line(5_000_000), *wild, *line(5_000_100, from_s=3_000)])
    assert [each for each in values(found) if each is not None] == [5_000_000, 5_000_100]
    assert made.events == {}


def test_repro_a_0_as_the_first_value_costs_three_readings_and_not_five_minutes() -> None:
    made = tracker()
    found = samples(made, line(0, 8_345_460, 8_345_461, 8_345_462, 8_345_463))
    assert values(found) == [0, None, None, 8_345_462, 8_345_463]
    assert breaks(found) == [30]
    assert made.events == {"jump": 1}


def test_suspects_are_forgotten_when_the_old_line_comes_back() -> None:
    made = tracker()
    half = line(*([0] * 20), from_s=10)
    found = samples(
        made, [*line(5_000), *half, (210, imported(register(5_001))), *line(*([0] * 20), from_s=220)]
    )
    assert [each for each in values(found) if each is not None] == [5_000, 5_001]


# -- a step too large ------------------------------------------------------------------------------


def test_note_37_another_registers_number_is_a_spike() -> None:
    made = tracker()
    found = samples(made, line(1_000_100, 10_478_105, 1_000_110))
    assert values(found) == [1_000_100, None, 1_000_110]
    assert made.counts == {"spike": 1}


def test_note_45_a_sample_of_65536_times_the_value_is_a_spike() -> None:
    assert values(samples(tracker(), line(4_567, 4_567 * 65_536, 4_568))) == [4_567, None, 4_568]


def test_note_41_all_ones_are_no_register() -> None:
    made = tracker()
    found = samples(made, line(12_345_670, 2**64 - 1, 12_345_680))
    assert values(found) == [12_345_670, None, 12_345_680]
    assert made.counts == {"impossible": 1}


@pytest.mark.parametrize("wh", ["NaN", "sNaN", "Infinity", "-1"])
def test_repro_values_that_no_register_can_have(wh: str) -> None:
    made = tracker()
    assert values(samples(made, line(5, wh, 6))) == [5, None, 6]
    assert made.counts == {"impossible": 1}


def test_note_44_accumulators_that_read_0_at_wake_up_give_no_energy_when_they_return() -> None:
    found = samples(tracker(), line(1_234_567, 0, 0, 1_234_570, every_s=60))
    assert values(found) == [1_234_567, None, None, 1_234_570]


def test_a_jump_that_persists_is_the_register_with_a_break() -> None:
    made = tracker()
    found = samples(made, [*line(1_000, 1_000, 1_000), *persisting(900_000, 1, from_s=30)])
    assert made.events == {"jump": 1}
    assert breaks(found) == [30 + PERSIST_S]


def test_a_rise_over_hours_without_a_reading_is_believed() -> None:
    found = samples(tracker(largest_w=10_000), [*line(0), *line(20_000, from_s=7_200)])
    assert values(found) == [0, 20_000]


def test_the_bound_follows_largest_w() -> None:
    """20 s (10 s and the lag) of 3600 W are 20 Wh, and the register's step is 1 Wh."""
    assert values(samples(tracker(3_600), line(0, 21))) == [0, 21]
    assert values(samples(tracker(3_600), line(0, 22))) == [0, None]


def test_repro_the_bound_is_for_the_sum_and_not_for_each_tariff() -> None:
    """20 s of 3600 W are 20 Wh; three tariffs that rise by 15 Wh each are 45 Wh."""
    made = tracker(3_600)
    found = samples(
        made,
        [
            (0, imported(*[register(0)] * 3)),
            (10, imported(*[register(15)] * 3)),
            (20, imported(*[register(1)] * 3)),
        ],
    )
    assert values(found) == [0, None, 3]


def test_a_step_back_by_the_registers_own_step_holds() -> None:
    made = tracker()
    assert values(samples(made, line(12_345_600, 12_345_500, 12_345_600, step="100"))) == [12_345_600] * 3
    assert made.counts == {}


def test_a_restart_keeps_since_when_a_register_stands_still() -> None:
    """A refresh after a quarter of an hour is no jump, also if the agent restarted in between."""
    readings = line(*(at // 90 * 2_000 for at in range(140)))
    before, after = tracker(10_000), tracker(10_000)
    samples(before, readings[:60])
    after.restore(before.state())
    samples(after, readings[60:])
    assert after.events == {}


def test_a_register_that_is_refreshed_every_quarter_of_an_hour_is_learned() -> None:
    """Its rises of 2 kWh persist, and 100 kW explain them over a quarter of an hour: no break, no loss."""
    made = tracker()
    readings = line(*(at // 90 * 2_000 for at in range(90 * 6)))
    found = samples(made, readings)
    assert breaks(found) == []
    assert values(found)[-1] == 10_000
    assert made.counts == {"spike": 31}, "only the first rise has to persist"
    assert made.events == {}


def test_repro_a_jump_of_a_register_that_was_just_moving_is_no_refresh() -> None:
    made = tracker()
    samples(made, [*line(*range(0, 500, 5)), *persisting(5_000, 5, from_s=1_000)])
    assert made.events == {"jump": 1}


def test_repro_a_jump_after_a_night_without_energy_is_no_refresh() -> None:
    """10 kW could have counted 80 kWh in 8 hours, but the register was read all the time and stood still."""
    made = tracker(10_000)
    found = samples(made, [*line(*[100_000] * 2_880), *persisting(160_000, 0, from_s=28_800)])
    assert breaks(found) == [28_800 + PERSIST_S]
    assert made.events == {"jump": 1}


@pytest.mark.parametrize("cut", [0, 55, 65, 80])
def test_repro_a_register_that_fell_back_and_passes_its_old_value_within_minutes_breaks(cut: int) -> None:
    """A plug restored its value of 100 Wh ago and counts 10 Wh a reading: what it used since is not known."""
    before, after = tracker(), tracker()
    readings = line(*range(1_000, 1_500, 10), *range(1_400, 2_000, 10))
    found = samples(before, readings[:cut])
    after.restore(before.state())
    found += samples(after, readings[cut:])
    assert breaks(found) == [500 + PERSIST_S]
    assert after.events == {"restored": 1}


@pytest.mark.parametrize("cut", [0, 3, 5])
def test_repro_the_energy_of_an_hour_with_a_wrong_clock_is_not_of_the_interval_after_it(cut: int) -> None:
    """The clock was an hour ahead for a while. 80 W are 80 Wh since then, which 100 kW explain in seconds."""
    before, after = tracker(), tracker()
    readings = [*line(0, 1, from_s=3_600), *line(2, 3, 79, from_s=30, every_s=1_000), *line(81, from_s=3_620)]
    found = samples(before, readings[:cut])
    after.restore(before.state())
    found += samples(after, readings[cut:])
    assert values(found) == [0, 1, None, None, None, 81]
    assert breaks(found) == [3_620]


def test_repro_a_spike_that_stays_for_minutes_is_not_reached_by_the_growing_bound() -> None:
    """100 kW are 5 kWh in 3 minutes; the spike of 4 kWh stays for 4."""
    made = tracker()
    stuck = line(*([5_000] * 24), from_s=1_000)
    found = samples(made, [*line(*range(0, 500, 5)), *stuck, *line(900, 905, from_s=1_250)])
    assert values(found)[-26:] == [None] * 24 + [900, 905]
    assert breaks(found) == []


# -- roll-over -------------------------------------------------------------------------------------


def rolling(*wh: int, other: int = 2_000_000) -> Readings:
    return [
        (10 * at, imported(register(each, modulus=MODULUS), register(other, modulus=MODULUS), device="m"))
        for at, each in enumerate(wh)
    ]


def test_a_tariff_that_rolls_over_counts_on_at_once() -> None:
    made = tracker()
    found = samples(made, rolling(999_999_998, 999_999_999, 1, 3))
    assert values(found) == [1_001_999_998, 1_001_999_999, 1_002_000_001, 1_002_000_003]
    assert breaks(found) == []
    assert made.events == {"rollover": 1}


def test_a_step_back_over_the_roll_over_holds() -> None:
    made = tracker()
    found = samples(made, rolling(999_999_999, 0, 999_999_999, 1))
    assert values(found) == [1_001_999_999, 1_002_000_000, 1_002_000_000, 1_002_000_001]
    assert made.events == {"rollover": 1}


def test_repro_a_dip_far_from_the_modulus_is_no_roll_over() -> None:
    """After 60 days 100 kW could have counted 144 MWh, and only 100 MWh are left to the modulus."""
    made = tracker()
    readings = [(60 * 86_400 * at, said) for at, (_, said) in enumerate(rolling(900_000_000, 0, 900_000_001))]
    assert values(samples(made, readings)) == [902_000_000, None, 902_000_001]
    assert made.events == {}


# -- the parts of a sum ----------------------------------------------------------------------------


def test_a_tariff_that_is_absent_from_one_telegram_costs_that_telegram() -> None:
    made = tracker()
    both = [register(16_366_258), register(13_315_593)]
    found = samples(made, [(0, imported(*both)), (1, imported(both[0])), (2, imported(*both))])
    assert values(found) == [29_681_851, None, 29_681_851]
    assert made.counts == {"parts_changed": 1}
    assert breaks(found) == []


def test_a_set_of_registers_that_persists_is_accepted_with_a_break() -> None:
    made = tracker()
    two = imported(register(16_366_258), register(13_315_593))
    found = samples(made, [(0, two), *persisting(29_681_851, 0, from_s=10)])
    assert breaks(found) == [10 + PERSIST_S]
    assert made.events == {"parts": 1}


# -- resolution ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["0.1", "1", "10"])
def test_note_17_after_the_pin_the_resolution_changes_with_a_break(step: str) -> None:
    made = tracker()
    coarse = [(at, imported(register(25_892_000, "1000"), locked=True)) for at in (0.0, 10.0)]
    fine = [(20.0, imported(register("25892776.1", step))), (30.0, imported(register("25892777.3", step)))]
    found = samples(made, [*coarse, *fine])
    assert values(found) == [25_892_000, 25_892_000, 25_892_776, 25_892_777]
    assert breaks(found) == [20]
    assert made.events == {"locked": 1, "resolution": 1}


def test_note_18_a_list_that_falls_back_to_whole_kwh_is_no_step_back() -> None:
    made = tracker()
    found = samples(
        made,
        [
            (0, imported(register("25892776.1", "0.1"))),
            (10, imported(register(25_892_000, "1000"), locked=True)),
            (20, imported(register(25_893_000, "1000"), locked=True)),
        ],
    )
    assert values(found) == [25_892_776, 25_892_000, 25_893_000]
    assert breaks(found) == [10]
    assert made.counts == {}


def test_repro_another_resolution_is_no_licence_for_any_value() -> None:
    made = tracker()
    found = samples(
        made,
        [(0, imported(register("25892776.1", "0.1"))), (10, imported(register(2_000, "1000")))],
    )
    assert values(found) == [25_892_776, None]
    assert made.counts == {"dip": 1}


def test_a_locked_meter_steps_by_1_kwh_and_is_told_once() -> None:
    made = tracker()
    readings = [
        (900.0 * at, imported(register(2_043_000 + 1_000 * at, "1000"), locked=True)) for at in range(9)
    ]
    assert values(samples(made, readings))[-1] == 2_051_000
    assert made.events == {"locked": 1}


def test_float32_registers_step_by_their_own_resolution() -> None:
    """7.8125 Wh from 65536 kWh on, and the step grows with the value."""
    found = samples(tracker(largest_w=100), line("65535992", "65536000", "65536007.8125", step="7.8125"))
    assert values(found) == [65_535_992, 65_536_000, 65_536_007]
    made = tracker()
    steps = [(0, imported(register("65535998", "3.90625"))), (10, imported(register("65536007", "7.8125")))]
    assert breaks(samples(made, steps)) == []
    assert made.events == {}


def test_registers_of_100_wh_step_without_a_spike() -> None:
    assert values(samples(tracker(largest_w=200), line(12_345_600, 12_345_700, step="100"))) == [
        12_345_600,
        12_345_700,
    ]


# -- messages of devices in a home -----------------------------------------------------------------


def test_thirty_messages_with_a_drop_to_0_and_a_jump_up_lose_nothing() -> None:
    """Every 10 s, 5 Wh each; the 16th is 0, the 21st is 478 kWh too high."""
    true = [1_000_005 + 5 * at for at in range(30)]
    said = [*true[:15], 0, *true[16:20], 1_478_105, *true[21:]]
    made = tracker()
    found = samples(made, line(*said))
    assert values(found) == [None if at in (15, 20) else each for at, each in enumerate(true)]
    assert breaks(found) == []


def test_messages_across_the_changes_of_local_time_rise_by_their_utc_stamps() -> None:
    """Ten minutes apart in UTC over the end of summer time: 85 Wh each."""
    made = tracker()
    found = samples(made, line(*(3_000_000 + 85 * at for at in range(16)), every_s=600, from_s=1_729_986_000))
    assert values(found) == [3_000_000 + 85 * at for at in range(16)]
    assert made.counts == {}
