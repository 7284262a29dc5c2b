"""Feeders: windows in order, under the plan in force, and a journal that makes restarts invisible."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridhe.meter_agent.feeders import DeviceFeeder, Feeder, WindowFeeder
from gridhe.meter_agent.plans import PlanBook
from gridhe.meter_agent.process import odd_samples
from gridhe.meter_agent.sources.protocol import Kind, Sample, WindowDevice
from gridhe.meter_agent.sources.synthetic import SyntheticSource
from gridhe.meter_agent.windows import WindowCounts
from gridhe.plan.plan import Plan

DAY_S, HOUR_S = 86_400, 3_600


class Register:
    """A device with a cumulative register, read every ten minutes, that counts 6 Wh in each."""

    kind: Kind = "register"

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s

    def read(self, after_s: float, until_s: float) -> Iterator[Sample]:
        at_s = (after_s // 600 + 1) * 600
        while at_s <= min(until_s, self.until_s):
            yield Sample(at_s=at_s, values={"import_wh": 5_000 + at_s / 100})
            at_s += 600

    def ended(self, at_s: float) -> bool:
        return at_s + 600 > self.until_s

    def state(self) -> bytes:
        return b""


def book_of(folder: Path, *authorities: Any) -> PlanBook:
    book = PlanBook(folder / "plans", authorities[0].signing_key.verify_key)
    for authority in authorities:
        assert book.add(authority.encoded()) is not None
    return book


def drain(feeder: Feeder, now_s: float) -> list[tuple[int, int, list[int]]]:
    """(window_s, window, readings) of everything that is over, until the feeder has no more."""
    found, idle = [], 0
    while idle < 3:
        changed = feeder.poll(now_s) is not None
        upcoming = feeder.next(now_s)
        if upcoming is not None:
            plan, closed = upcoming
            found.append((plan.window_s, closed.window, [int(v) for v in closed.readings["import_wh"]]))
            feeder.done(closed.window)
        idle = 0 if changed or upcoming is not None else idle + 1
    return found


def synthetic(plan: Plan) -> SyntheticSource:
    return SyntheticSource(plan)


def test_windows_come_in_order_once_they_are_over(tmp_path: Path, authority: Any) -> None:
    feeder = WindowFeeder("m1", book_of(tmp_path, authority), synthetic, from_s=5 * DAY_S, until_s=8 * DAY_S)
    assert feeder.next(6 * DAY_S - 1) is None
    assert feeder.ready_s() == 6 * DAY_S
    assert [window for _, window, _ in drain(feeder, 6 * DAY_S)] == [5]
    assert [window for _, window, _ in drain(feeder, 99 * DAY_S)] == [6, 7]
    assert feeder.ready_s() is None


def feeder_of(book: PlanBook, *, devices: bool, until_s: int = 9 * DAY_S, from_s: int = 6 * DAY_S) -> Feeder:
    if not devices:
        return WindowFeeder("m1", book, synthetic, from_s=from_s, until_s=until_s)
    return DeviceFeeder(
        book,
        lambda plan: WindowDevice(synthetic(plan), "m1", window_s=plan.window_s, interval_s=plan.interval_s),
        from_s=from_s,
        until_s=until_s,
        journal=None,
    )


@pytest.mark.parametrize("devices", [False, True])
def test_a_plan_of_another_shape_takes_over_at_its_first_window(
    tmp_path: Path, authority: Any, devices: bool
) -> None:
    """Days until the end of day 6, half days from then on: every reading in one window."""
    halves = authority.with_plan(window_s=DAY_S // 2, first_window=14)
    found = drain(feeder_of(book_of(tmp_path, authority, halves), devices=devices), 99 * DAY_S)
    assert found == [
        (DAY_S, 6, synthetic(authority.plan).window("m1", 6)["import_wh"].tolist()),
        *(
            (DAY_S // 2, window, synthetic(halves.plan).window("m1", window)["import_wh"].tolist())
            for window in range(14, 18)
        ),
    ]


@pytest.mark.parametrize("devices", [False, True])
def test_repro_a_window_that_a_start_cuts_is_sealed_under_neither_plan(
    tmp_path: Path, authority: Any, devices: bool
) -> None:
    """No authority makes such plans; an aggregator would refuse the window after the old plan's end."""
    halves = authority.with_plan(window_s=DAY_S // 2, first_window=15)
    found = drain(feeder_of(book_of(tmp_path, authority, halves), devices=devices), 99 * DAY_S)
    assert [(window_s, window) for window_s, window, _ in found] == [
        (DAY_S, 6),
        *((DAY_S // 2, window) for window in range(15, 18)),
    ]


@pytest.mark.parametrize("late_by", [1, 2])
@pytest.mark.parametrize("devices", [False, True])
def test_repro_a_plan_of_another_shape_that_is_heard_of_late_takes_over_at_once(
    tmp_path: Path, authority: Any, devices: bool, late_by: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Half days from day 7 on, which the meter hears of `late_by` days later."""
    halves = authority.with_plan(window_s=DAY_S // 2, first_window=14)
    book = book_of(tmp_path, authority)
    feeder = feeder_of(book, devices=devices)
    before = drain(feeder, (7 + late_by) * DAY_S - 1)  # the device has an open day
    assert [(window_s, window) for window_s, window, _ in before] == [
        (DAY_S, window) for window in range(6, 6 + late_by)
    ]
    book.add(halves.encoded())
    after = [(window_s, window) for window_s, window, _ in drain(feeder, 99 * DAY_S)]
    assert after[-2:] == [(DAY_S // 2, 16), (DAY_S // 2, 17)]
    assert all(window_s == DAY_S // 2 for window_s, _ in after)
    if devices:
        assert "readings are not sealed" in caplog.text


def test_windows_before_every_plan_are_passed_over(tmp_path: Path, authority: Any) -> None:
    book = book_of(tmp_path, authority.with_plan(first_window=7))
    feeder = WindowFeeder("m1", book, synthetic, from_s=5 * DAY_S, until_s=9 * DAY_S)
    assert [window for _, window, _ in drain(feeder, 99 * DAY_S)] == [7, 8]


def test_a_rotated_key_seals_from_its_first_window_on(tmp_path: Path, authority: Any) -> None:
    later = authority.with_plan(first_window=7, largest_group=99)
    book = book_of(tmp_path, later, authority)
    feeder = WindowFeeder("m1", book, synthetic, from_s=6 * DAY_S, until_s=8 * DAY_S)
    plans = []
    for _ in range(2):
        upcoming = feeder.next(99 * DAY_S)
        assert upcoming is not None
        plans.append(upcoming[0].plan_id)
        feeder.done(upcoming[1].window)
    assert plans == [authority.plan.plan_id, later.plan.plan_id]


def test_a_devices_register_becomes_hourly_readings(tmp_path: Path, authority: Any) -> None:
    feeder = DeviceFeeder(
        book_of(tmp_path, authority),
        lambda _: Register(8 * DAY_S),
        from_s=6 * DAY_S,
        until_s=None,
        journal=None,
    )
    assert drain(feeder, 99 * DAY_S) == [(DAY_S, 6, [36] * 24), (DAY_S, 7, [36] * 24)]
    assert feeder.ready_s() is None


def test_repro_flags_of_a_devices_samples_were_counted_and_dropped(tmp_path: Path, authority: Any) -> None:
    """A register that breaks on day 6, silence on day 7; the counts outlive journal and plan."""

    class Odd(Register):
        def read(self, after_s: float, until_s: float) -> Iterator[Sample]:
            for sample in super().read(after_s, until_s):
                if not 7 * DAY_S < sample.at_s < 7.5 * DAY_S:
                    back = 4_000 if sample.at_s >= 6.5 * DAY_S else 0
                    yield Sample(
                        at_s=sample.at_s,
                        values={"import_wh": sample.values["import_wh"] - back},
                        breaks=frozenset({"import_wh"} if sample.at_s == 6.5 * DAY_S else ()),
                    )

    halves = authority.with_plan(window_s=DAY_S // 2, first_window=18)  # from day 9 on

    def feeder_of(book: PlanBook, journal: bytes | None) -> DeviceFeeder:
        return DeviceFeeder(book, lambda _: Odd(11 * DAY_S), from_s=6 * DAY_S, until_s=None, journal=journal)

    book = book_of(tmp_path, authority, halves)
    first = feeder_of(book, None)
    journal = first.poll(6.9 * DAY_S)
    assert (first.counts().breaks, first.counts().gaps) == (1, 0)
    second = feeder_of(book, journal)
    drain(second, 99 * DAY_S)
    assert second.window_builder is not None
    assert second.window_builder.window_s == DAY_S // 2
    counts = second.counts()
    assert (counts.breaks, counts.gaps, counts.late, counts.duplicate) == (1, 1, 0, 0)
    assert counts.samples == 5 * 144 + 1 - 71  # each ten minutes of five days, both ends, less the silence
    assert odd_samples(asdict(counts)) == "; samples: 1 breaks, 1 gaps"
    assert odd_samples(asdict(WindowCounts(samples=3))) == ""


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(100, 2 * DAY_S), min_size=1, max_size=12))
def test_a_crash_at_any_moment_loses_no_reading_and_seals_no_window_twice(
    tmp_path_factory: pytest.TempPathFactory, authority: Any, waits: list[float]
) -> None:
    """At every wait the process dies; only what it committed is left: journal, and windows with theirs."""
    book = book_of(tmp_path_factory.mktemp("book"), authority)
    journal: bytes | None = None
    sealed: dict[int, list[int]] = {}
    now_s = 6.0 * DAY_S
    for wait_s in [*waits, 40.0 * DAY_S]:
        now_s += wait_s
        feeder = DeviceFeeder(
            book, lambda _: Register(20 * DAY_S), from_s=6 * DAY_S, until_s=None, journal=journal
        )
        for _ in range(400 if wait_s == 40.0 * DAY_S else 3):  # dies after a few steps, sealed or not
            journal = feeder.poll(now_s) or journal
            upcoming = feeder.next(now_s)
            if upcoming is not None:
                _, closed = upcoming
                assert closed.window not in sealed
                sealed[closed.window] = [int(v) for v in closed.readings["import_wh"]]
                journal = feeder.done(closed.window) or journal
    assert sealed == {day: [36] * 24 for day in range(6, 20)}
