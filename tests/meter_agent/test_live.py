"""A running device: its readings become windows through the journal, and its faults are counted."""

import contextlib
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridhe.broker.client.loop import EventLoop
from gridhe.errors import SourceError, StateError
from gridhe.meter_agent.feeders import DeviceFeeder
from gridhe.meter_agent.plans import PlanBook
from gridhe.meter_agent.policy import ABSENT
from gridhe.meter_agent.sources import live as live_module
from gridhe.meter_agent.sources.driver import Sink
from gridhe.meter_agent.sources.live import LiveDevice, LiveSource
from gridhe.meter_agent.sources.reading import DeviceReading, Register
from gridhe.meter_agent.sources.settings import SourceSettings

HOUR_S, DAY_S = 3_600, 86_400
DAY = 20_000
START_S = float(DAY * DAY_S)


def said(
    wh: int, at_s: float | None = None, *, device: str | None = None, exported: int | None = None
) -> Any:
    return DeviceReading(
        imported={"r": Register(wh=Decimal(wh))},
        exported={} if exported is None else {"e": Register(wh=Decimal(exported))},
        device=device,
        at_s=at_s,
    )


@dataclass
class Bench:
    """A LiveSource with clocks that a test sets, and the feeder of its meter."""

    book: PlanBook
    settings: SourceSettings = field(default_factory=SourceSettings)
    journal_s: float = 60.0
    now_s: float | None = START_S
    running_s: float = 0.0
    journal: bytes | None = None
    sealed: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start, as after a kill: only the journal is left."""
        self.live = LiveSource(
            self.settings, name="p1", wall=lambda: self.now_s, monotonic=lambda: self.running_s
        )
        self.feeder = DeviceFeeder(
            self.book,
            lambda plan: LiveDevice(self.live, {"import_wh": "imported"}),
            from_s=int(START_S),
            until_s=None,
            journal=self.journal,
            journal_s=self.journal_s,
        )
        builder = self.feeder.window_builder
        self.live.restore(b"" if builder is None else builder.device_state)

    def say(self, reading: DeviceReading, at_s: float) -> bool:
        """A reading arrives and the meter works. Returns whether it wrote its journal."""
        self.now_s = at_s
        self.live.reading(reading)
        return self.work(at_s)

    def work(self, at_s: float) -> bool:
        journal = self.feeder.poll(at_s)
        self.journal = journal or self.journal
        while (upcoming := self.feeder.next(at_s)) is not None:
            closed = upcoming[1]
            assert closed.window not in self.sealed
            self.sealed[closed.window] = [int(each) for each in closed.readings["import_wh"]]
            self.journal = self.feeder.done(closed.window) or self.journal
        return journal is not None


@pytest.fixture
def book(tmp_path: Path, authority: Any) -> PlanBook:
    made = PlanBook(tmp_path / "plans", authority.signing_key.verify_key)
    assert made.add(authority.encoded()) is not None
    return made


@pytest.fixture
def bench(book: PlanBook) -> Bench:
    return Bench(book)


def test_readings_become_the_registers_differences(bench: Bench) -> None:
    for minute in range(24 * 60 + 1):
        at_s = START_S + 60 * minute
        bench.say(said(1_000 + minute // 60 * 7 + minute % 60 // 30 * 3, at_s), at_s)
    assert bench.sealed == {DAY: [7] * 24}


def test_a_swap_costs_the_interval_in_which_it_lies(bench: Bench) -> None:
    for minute in range(24 * 60 + 1):
        at_s, new = START_S + 60 * minute, minute >= 90
        bench.say(said(minute if new else 29_000_000 + minute, at_s, device="new" if new else "old"), at_s)
    assert bench.sealed == {DAY: [60, ABSENT, *[60] * 22]}
    assert bench.live.events == {"swap": 1}
    assert bench.feeder.counts().breaks == 1


def test_readings_are_dated_by_the_stamp_and_never_before_it(bench: Bench) -> None:
    """A clock that is 40 s ahead: its readings wait until this computer's clock has reached them."""
    bench.say(said(5, START_S + 40), START_S)
    assert bench.feeder.window_builder is not None
    assert bench.feeder.window_builder.time_s is None
    bench.work(START_S + 40)
    assert bench.feeder.window_builder.time_s == START_S + 40


# -- the journal -----------------------------------------------------------------------------------


def test_the_journal_is_written_at_interval_ends_and_every_journal_s(bench: Bench) -> None:
    """A telegram a second for two hours: each minute, and the two ends of hours."""
    written = [second for second in range(2 * HOUR_S + 1) if bench.say(said(second), START_S + second)]
    assert len(written) <= 2 * 60 + 3
    assert {HOUR_S, 2 * HOUR_S} <= set(written)
    assert all(later - former <= 61 for former, later in itertools.pairwise(written))


def test_a_clean_stop_leaves_nothing_out_of_the_journal(bench: Bench) -> None:
    for second in range(30):
        bench.say(said(second), START_S + second)
    bench.journal = bench.feeder.flush()
    bench.start()
    assert bench.feeder.window_builder is not None
    assert bench.feeder.window_builder.time_s == START_S + 29
    assert bench.feeder.flush() is None


def test_repro_a_kill_loses_no_energy_and_no_swap(bench: Bench) -> None:
    """Killed 50 s after the last commit, and for 10 minutes: the new meter is still known as one."""
    for second in range(HOUR_S + 51):
        bench.say(said(7_000 + second, device="old"), START_S + second)
    bench.start()
    for second in range(HOUR_S + 650, 4 * HOUR_S + 1):
        bench.say(said(second, device="new"), START_S + second)
    assert bench.feeder.window_builder is not None
    bench.feeder.window_builder.finish(partial=True)
    (closed,) = bench.feeder.window_builder.closed
    assert [int(each) for each in closed.readings["import_wh"]][:4] == [HOUR_S, ABSENT, HOUR_S, HOUR_S]
    assert bench.live.events == {"swap": 1}


def test_repro_a_dip_across_a_restart_is_a_dip(bench: Bench) -> None:
    for second in range(HOUR_S + 1):
        bench.say(said(7_000_000 + second), START_S + second)
    bench.start()
    for second in range(HOUR_S + 2, HOUR_S + 200):
        bench.say(said(0), START_S + second)
    bench.start()
    for second in range(HOUR_S + 202, 2 * HOUR_S + 1):
        bench.say(said(7_000_000 + second), START_S + second)
    assert bench.feeder.window_builder is not None
    bench.feeder.window_builder.finish(partial=True)
    (closed,) = bench.feeder.window_builder.closed
    assert [int(each) for each in closed.readings["import_wh"]][:2] == [HOUR_S, HOUR_S]
    assert bench.live.events == {}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, DAY_S), st.integers(1, 600)), max_size=12))
def test_kills_anywhere_leave_the_sum_of_the_register(
    tmp_path_factory: pytest.TempPathFactory, authority: Any, kills: list[tuple[int, int]]
) -> None:
    """(when, how long off). No gap is longer than the windows' patience, so the sum is whole."""
    book = PlanBook(tmp_path_factory.mktemp("plans"), authority.signing_key.verify_key)
    book.add(authority.encoded())
    bench = Bench(book, journal_s=300.0)
    off = {second for begin, length in kills for second in range(begin, begin + length)}
    second, total = 0, 0
    while second <= DAY_S + 600:
        if second in off and second < DAY_S:
            while second in off and second < DAY_S:
                second += 30
            bench.start()
            continue
        bench.say(said(5_000 + second), START_S + second)
        second += 30
    total = sum(bench.sealed[DAY][1:])
    assert ABSENT not in bench.sealed[DAY][1:]
    first = bench.sealed[DAY][0]
    assert total == 23 * HOUR_S
    assert first in (ABSENT, HOUR_S)


def test_a_damaged_state_is_a_state_error(bench: Bench) -> None:
    for damaged in (b"\xc1", msgpack.packb([1, [], [], []]), msgpack.packb([2, 0, 0, 0]), b"\x90"):
        with pytest.raises(StateError):
            bench.live.restore(damaged)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_state_or_a_state_error(data: bytes) -> None:
    live = LiveSource(SourceSettings(), name="p1", wall=lambda: START_S, monotonic=lambda: 0.0)
    with contextlib.suppress(StateError):
        live.restore(data)


def test_repro_an_id_with_a_lone_surrogate_is_kept_in_the_journal(bench: Bench) -> None:
    bench.say(said(1, device=json.loads('"a\\ud800"')), START_S)
    bench.journal = bench.feeder.flush() or bench.journal
    bench.start()
    bench.say(said(2, device=json.loads('"a\\ud800"')), START_S + 1)
    assert bench.live.events == {}


# -- what is not used ------------------------------------------------------------------------------


def test_while_the_clock_is_not_believed_nothing_is_dated_by_it(bench: Bench) -> None:
    bench.now_s = None
    bench.live.reading(said(5, START_S))
    bench.work(START_S)
    assert bench.live.summary()["faults"] == {"no_clock": 1}
    assert bench.feeder.window_builder is not None
    assert bench.feeder.window_builder.time_s is None


def test_another_meters_readings_are_not_used_if_one_is_chosen(book: PlanBook) -> None:
    bench = Bench(book, settings=SourceSettings(device_id="mine"))
    for at, device in enumerate(["mine", "other", None, "mine"]):
        bench.say(said(at, device=device), START_S + at)
    assert bench.live.summary()["faults"] == {"other_device": 2}
    assert bench.live.events == {}


def test_readings_that_wait_too_long_are_thinned_and_no_energy_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "_QUEUE_MAX", 64)
    for second in range(0, 2 * HOUR_S + 1, 10):
        bench.now_s = START_S + second
        bench.live.reading(said(second))
    assert len(bench.live._queue) <= 64
    bench.work(START_S + 2 * HOUR_S)
    assert bench.feeder.window_builder is not None
    assert bench.feeder.window_builder.time_s == START_S + 2 * HOUR_S
    assert bench.live.summary()["faults"]["thinned"] > 0
    assert bench.live.summary()["ignored"] == {}


# -- what operators see ----------------------------------------------------------------------------


def test_faults_are_logged_first_and_then_once_an_hour_with_their_count(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2 * HOUR_S + 10):
        bench.running_s += 1
        bench.live.fault("crc", "telegram")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "source p1: crc: telegram",
        "source p1: crc: telegram (3600 times)",
        "source p1: crc: telegram (3600 times)",
    ]
    assert bench.live.summary()["faults"] == {"crc": 2 * HOUR_S + 10}


def test_repro_a_device_that_makes_up_reasons_takes_no_more_memory(bench: Bench) -> None:
    for at in range(1_000):
        bench.live.fault(f"reason{at}")
    assert len(bench.live.summary()["faults"]) <= 65


def test_events_are_logged_once_and_hold_no_reading(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for second in range(40):
        bench.say(said(4_711_000 + second, device=f"meter{second // 10}"), START_S + second)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["source p1: the meter was exchanged: its equipment id is another one"]
    assert bench.live.events == {"swap": 3}
    summary = bench.live.summary()
    assert summary["events"] == {"swap": 3}
    assert "4711" not in str(summary)


def test_events_of_an_earlier_process_are_counted_and_not_logged_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.say(said(1, device="a"), START_S)
    bench.say(said(2, device="b"), START_S + 1)
    bench.journal = bench.feeder.flush()
    caplog.clear()
    bench.start()
    bench.say(said(3, device="b"), START_S + 2)
    assert bench.live.events == {"swap": 1}
    assert caplog.records == []


# -- the driver ------------------------------------------------------------------------------------


class Failing:
    """A driver whose transport opens `opens` times and is then gone for good."""

    def __init__(self, opens: int) -> None:
        self.opens, self.runs = opens, 0

    async def run(self, sink: Sink) -> None:
        self.runs += 1
        if self.runs <= self.opens:
            sink.opened("/dev/ttyTEST")
        raise SourceError("/dev/ttyTEST: no such file; plug the cable in")


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with EventLoop() as made:
        yield made


def test_a_transport_that_cannot_be_opened_at_first_ends_the_process(loop: EventLoop, bench: Bench) -> None:
    loop.create_task(bench.live.run(Failing(0)))
    with pytest.raises(SourceError, match="plug the cable in"):
        loop.run_until(lambda: False, 10)


def test_a_transport_that_is_lost_later_is_tried_again_for_ever(
    loop: EventLoop, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "_AGAIN_S", 0.001)
    device = Failing(1)
    loop.create_task(bench.live.run(device))
    loop.every(0.001, lambda: None)
    assert loop.run_until(lambda: device.runs >= 5, 10)


def test_quantities_mean_directions_by_name_or_by_setting(book: PlanBook) -> None:
    live = Bench(book, settings=SourceSettings(quantities={"use_wh": "imported"})).live
    names = ["import_wh", "import_w", "export_wh", "use_wh", "gas_dm3"]
    assert [live.direction(name) for name in names] == ["imported", "imported", "exported", "imported", None]
