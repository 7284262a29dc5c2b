"""Samples become windows: nothing is invented, nothing counts twice, and a restart changes nothing."""

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import StateError
from gridhe.meter_agent.policy import ABSENT, TEXT
from gridhe.meter_agent.sources.protocol import Kind, Sample
from gridhe.meter_agent.windows import ClosedWindow, WindowBuilder

INTERVAL_S, WINDOW_S = 60, 240


def window_builder(kind: Kind, **more: object) -> WindowBuilder:
    return WindowBuilder(quantities=["wh"], kind=kind, window_s=WINDOW_S, interval_s=INTERVAL_S, **more)  # type: ignore[arg-type]


def feed(
    target: WindowBuilder, samples: Sequence[tuple[float, float]], breaks: Sequence[float] = ()
) -> list[ClosedWindow]:
    """Add (time, value) samples, taking closed windows as they come; `breaks` are the times of breaks."""
    found = []
    for at_s, value in samples:
        broken = frozenset({"wh"} if at_s in breaks else ())
        target.add(Sample(at_s=at_s, values={"wh": value}, breaks=broken))
        for closed in target.closed:
            found.append(closed)
            target.discard(closed.window)
    return found


def readings(windows: Sequence[ClosedWindow]) -> dict[int, list[int]]:
    assert len({closed.window for closed in windows}) == len(windows), "a window closed twice"
    return {closed.window: [int(v) for v in closed.readings["wh"]] for closed in windows}


# -- one kind after the other --------------------------------------------------------------------


def test_energy_samples_fill_their_intervals_and_the_last_one_closes_the_window() -> None:
    made = window_builder("energy")
    assert feed(made, [(0, 5), (60, 6), (120, 7)]) == []
    assert readings(feed(made, [(180, 8)])) == {0: [5, 6, 7, 8]}


def test_an_interval_without_a_sample_is_missing_and_not_zero() -> None:
    assert readings(feed(window_builder("energy"), [(0, 5), (120, 0), (180, 8)])) == {0: [5, ABSENT, 0, 8]}


def test_an_energy_that_is_no_integer_is_text() -> None:
    samples = [(0, 1.5), (60, math.nan), (120, 3.0), (180, math.inf)]
    assert readings(feed(window_builder("energy"), samples)) == {0: [TEXT, TEXT, 3, TEXT]}


def test_a_register_gives_differences_with_boundaries_interpolated() -> None:
    samples = [
        (0, 1000),
        (30, 1010),
        (50, 1020),
        (80, 1050),
        (110, 1080),
        (140, 1080),
        (180, 1090),
        (240, 1100),
    ]
    assert readings(feed(window_builder("register"), samples)) == {0: [30, 50, 10, 10]}


def test_repro_after_a_long_silence_the_share_of_each_interval_is_not_guessed() -> None:
    """31 s of silence around the boundary at 60; the energy is known again from the next boundary on."""
    made = window_builder("register")
    samples = [(0, 1000), (45, 1010), (76, 1050), (100, 1055), (120, 1060), (180, 1090), (240, 1100)]
    assert readings(feed(made, samples)) == {0: [ABSENT, ABSENT, 30, 10]}
    assert made.counts.unknown == 1


def test_a_register_that_stood_still_is_known_over_a_silence() -> None:
    samples = [(0, 1000), (35, 1010), (95, 1010), (120, 1015), (180, 1015), (240, 1016)]
    assert readings(feed(window_builder("register"), samples)) == {0: [10, 5, 0, 1]}


def test_a_sample_within_a_60th_of_the_boundary_stands_for_it() -> None:
    """A device that sends once an interval, a second after its end."""
    samples = [(1, 1000), (61, 1060), (121, 1120), (181, 1180), (241, 1240)]
    assert readings(feed(window_builder("register"), samples)) == {0: [ABSENT, 60, 60, 60]}


def test_the_interval_in_which_a_register_breaks_is_missing() -> None:
    made = window_builder("register")
    samples = [(0, 1000), (60, 1010), (100, 1020), (110, 3), (120, 5), (180, 9), (240, 20)]
    assert readings(feed(made, samples, breaks=[110])) == {0: [10, ABSENT, 4, 11]}
    assert made.counts.breaks == 1


def test_a_break_to_a_higher_value_is_missing_too() -> None:
    made = window_builder("register")
    samples = [(0, 10), (60, 20), (100, 9_000_000), (120, 9_000_005), (180, 9_000_009), (240, 9_000_020)]
    assert readings(feed(made, samples, breaks=[100])) == {0: [10, ABSENT, 4, 11]}


def test_a_break_on_a_boundary_costs_only_the_interval_before() -> None:
    samples = [(0, 1000), (60, 1010), (120, 5), (180, 9), (240, 20)]
    assert readings(feed(window_builder("register"), samples, breaks=[120])) == {0: [10, ABSENT, 4, 11]}


def test_repro_a_break_in_an_ignored_sample_is_not_forgotten() -> None:
    made = window_builder("register")
    samples = [(0, 1000), (60, 1010), (60, 5), (120, 8), (180, 12), (240, 20)]
    broken = [Sample(at_s=60, values={"wh": 5}, breaks=frozenset({"wh"}))]
    for at_s, value in samples[:2]:
        made.add(Sample(at_s=at_s, values={"wh": value}))
    made.add(*broken)
    assert readings(feed(made, samples[3:])) == {0: [10, ABSENT, 4, 8]}


def test_a_register_in_watts_is_the_energy_times_3600_by_the_interval() -> None:
    made = window_builder("register", mean_power=["wh"])
    assert readings(feed(made, [(0, 1), (60, 3), (120, 3), (180, 10), (240, 11)])) == {0: [120, 0, 420, 60]}


def test_repro_large_registers_are_subtracted_without_floats() -> None:
    """Beyond 2^53 a float holds no single Wh."""
    base, made = 2**53 + 1, window_builder("register")
    samples = [(0, base), (40, base), (61, base + 3), (110, base + 3), (122, base + 4), (180, base + 7)]
    found = readings(feed(made, [*samples, (240, base + 9)]))
    assert found == {0: [2, 1, 4, 2]}


def test_intervals_around_a_gap_in_the_register_are_missing() -> None:
    made = window_builder("register")
    samples = [(0, 100), (60, 110), (170, 150), (180, 160), (240, 170)]
    assert readings(feed(made, samples)) == {0: [10, ABSENT, ABSENT, 10]}
    assert made.counts.gaps == 1


def test_power_is_weighted_by_time() -> None:
    # 3600 W for 30 s, then 7200 W: 30 + 60 Wh in the first minute.
    samples = [(0, 3600), (30, 7200), (60, 0), (120, 0), (180, 60), (240, 60)]
    assert readings(feed(window_builder("power"), samples)) == {0: [90, 0, 0, 1]}


def test_a_quantity_in_watts_gets_the_mean_power() -> None:
    samples = [(0, 100), (30, 300), (60, 50), (120, 50), (180, 50), (240, 50)]
    made = window_builder("power", mean_power=["wh"])
    assert readings(feed(made, samples)) == {0: [200, 50, 50, 50]}


def test_power_that_flows_back_is_a_negative_reading_for_the_policy_to_judge() -> None:
    samples = [(0, -3600), (60, 3600), (120, 0), (180, 0), (240, 0)]
    assert readings(feed(window_builder("power"), samples)) == {0: [-60, 60, 0, 0]}


# -- clocks ----------------------------------------------------------------------------------------


def test_a_clock_that_jumps_forward_leaves_missing_intervals_and_makes_up_no_windows() -> None:
    made = window_builder("energy")
    found = readings(feed(made, [(0, 1), (WINDOW_S * 1_000_000 + 60, 2), (WINDOW_S * 1_000_001, 3)]))
    assert found == {0: [1, ABSENT, ABSENT, ABSENT], 1_000_000: [ABSENT, 2, ABSENT, ABSENT]}


def test_a_clock_that_jumps_back_makes_late_samples_that_do_not_count() -> None:
    made = window_builder("energy")
    found = readings(feed(made, [(0, 1), (60, 2), (120, 3), (0, 9), (60, 9), (120, 9), (180, 4)]))
    assert found == {0: [1, 2, 3, 4]}
    assert (made.counts.late, made.counts.duplicate) == (2, 1)


def test_a_window_that_time_has_passed_closes_without_a_sample() -> None:
    made = window_builder("energy")
    feed(made, [(0, 1)])
    made.advance(WINDOW_S + 1.5 * INTERVAL_S - 1)
    assert made.closed == ()
    made.advance(WINDOW_S + 1.5 * INTERVAL_S)
    assert readings(made.closed) == {0: [1, ABSENT, ABSENT, ABSENT]}
    made.add(Sample(at_s=60, values={"wh": 7}))
    assert made.counts.late == 1


def test_a_partial_window_is_sealed_at_the_end_only_if_asked() -> None:
    dropped, kept = window_builder("energy"), window_builder("energy")
    feed(dropped, [(0, 1)])
    feed(kept, [(0, 1)])
    dropped.finish(partial=False)
    kept.finish(partial=True)
    assert dropped.closed == ()
    assert readings(kept.closed) == {0: [1, ABSENT, ABSENT, ABSENT]}


# -- properties ------------------------------------------------------------------------------------

# Steps between samples that never leave a gap (90 s at most).
steady = st.lists(
    st.tuples(st.integers(1, 90), st.integers(0, 5_000)), min_size=1, max_size=120
)  # (seconds since the last sample, register's step or power)
close = st.lists(st.tuples(st.integers(1, INTERVAL_S // 2), st.integers(0, 5_000)), min_size=1, max_size=200)
wild = st.lists(st.tuples(st.floats(-600, 1_000), st.integers(-50, 10_000)), max_size=60)


@given(close, st.integers(0, 10**9))
def test_register_readings_add_up_to_what_the_register_counted(
    steps: list[tuple[int, int]], first: int
) -> None:
    made, at_s, register = window_builder("register"), 0.0, float(first)
    samples = [(at_s, register)]
    for wait_s, step in steps:
        at_s, register = at_s + wait_s, register + step
        samples.append((at_s, register))
    found = feed(made, samples)
    total = sum(v for closed in found for v in closed.readings["wh"])
    assert all(v >= 0 for closed in found for v in closed.readings["wh"]), "no interval may be missing here"
    closed_s = len(found) * WINDOW_S
    # What the register stood at when the last window closed, from the two samples around that moment.
    stood = float(first)
    for (left_s, left), (right_s, right) in itertools.pairwise(samples):
        if left_s <= closed_s <= right_s and closed_s:
            stood = left + (right - left) * (closed_s - left_s) / (right_s - left_s)
    assert total == math.floor(stood + 1e-9) - first


@given(steady)
def test_power_readings_add_up_to_the_energy_to_the_last_unit(steps: list[tuple[int, int]]) -> None:
    made, at_s, energy = window_builder("power"), 0.0, 0.0
    samples, by_time = [(0.0, 1000.0)], [(0.0, 0.0, 1000.0)]
    for wait_s, power in steps:
        energy += by_time[-1][2] * wait_s / 3600
        at_s += wait_s
        samples.append((at_s, float(power)))
        by_time.append((at_s, energy, float(power)))
    found = feed(made, samples)
    closed_s = len(found) * WINDOW_S
    before_s, before, power_w = max((entry for entry in by_time if entry[0] <= closed_s), key=lambda e: e[0])
    truth = before + power_w * (closed_s - before_s) / 3600
    total = sum(v for closed in found for v in closed.readings["wh"])
    assert abs(total - truth) < 1


@given(st.sampled_from(["energy", "register", "power"]), wild, st.data())
def test_a_restart_at_any_point_changes_nothing(
    kind: Kind, steps: list[tuple[float, int]], data: st.DataObject
) -> None:
    samples, at_s = [], 10_000.0
    for wait_s, value in steps:
        at_s += wait_s
        samples.append((at_s, value))
    straight = window_builder(kind)
    truth = feed(straight, samples)
    cut = data.draw(st.integers(0, len(samples)))
    before = window_builder(kind)
    found = feed(before, samples[:cut])
    after = WindowBuilder.from_state(before.state())
    found += feed(after, samples[cut:])
    assert found == truth
    assert after.state() == straight.state()


@given(st.sampled_from(["energy", "register", "power"]), wild)
def test_windows_close_once_in_order_whatever_the_clock_does(
    kind: Kind, steps: list[tuple[float, int]]
) -> None:
    made, at_s, found = window_builder(kind), 10_000.0, []
    for wait_s, value in steps:
        at_s += wait_s
        found += feed(made, [(at_s, value)])
        made.advance(at_s)
        found += made.closed
        for closed in made.closed:
            made.discard(closed.window)
    windows = [closed.window for closed in found]
    assert windows == sorted(set(windows))
    assert made.counts.samples == len(steps)


@given(st.binary(max_size=200))
def test_a_damaged_state_is_a_state_error(data: bytes) -> None:
    with pytest.raises(StateError):
        WindowBuilder.from_state(data)
