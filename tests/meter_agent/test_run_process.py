"""`gridhe-meter run` and `gridhe-meter fleet` as real processes, against a real mosquitto."""

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import MeterSettings
from gridhe.meter_agent.outbox import Outbox
from gridhe.meter_agent.sources.synthetic import SyntheticSource
from gridhe.meter_agent.windows import WindowBuilder
from gridhe.wire import topics
from gridhe.wire.credential import FleetCredential
from gridhe.wire.receipt import Receipt
from gridhe_testing.meter_process import summary_of

DAY_S = 86_400
START = "2024-03-01"
FIRST = 19_783  # the day of START, counted from 1970

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path, broker: EmbeddedBroker) -> Iterator[Start]:
    """Start gridhe-meter; whatever still runs at the test's end is killed."""
    processes: list[subprocess.Popen[bytes]] = []

    def _start(command: str, *args: str) -> "subprocess.Popen[bytes]":
        fixed = [
            "--broker",
            broker.url,
            "--state-dir",
            str(tmp_path / "state"),
            "--json",
            "--set",
            "meter.resend_s=1",
        ]
        with (tmp_path / "stderr").open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "gridhe.meter_agent.cli", command, *fixed, *args],
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=tmp_path,
            )
        processes.append(process)
        return process

    yield _start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def device(tmp_path: Path, authority: Any) -> list[str]:
    """The flags of a device m1 with made-up readings from START on."""
    authority.device("m1").save(tmp_path / "m1.json")
    return ["--credential", str(tmp_path / "m1.json"), "--start", START, "--speed", "max"]


@pytest.fixture
def fleet(tmp_path: Path, authority: Any) -> list[str]:
    """The flags of a fleet m0..m9."""
    devices = tuple(authority.device(f"m{i}", f"north/f{i % 2}") for i in range(10))
    FleetCredential(devices=devices, password="unused").save(tmp_path / "fleet.json")
    return ["--credentials", str(tmp_path / "fleet.json"), "--start", START, "--speed", "max"]


def expected(authority: Any, meter: str, window: int) -> list[int]:
    return [int(v) for v in SyntheticSource(authority.plan).window(meter, window)["import_wh"]]


def test_a_device_delivers_its_windows_and_ends_when_they_are_receipted(
    start: Start, device: list[str], receiver: Any, authority: Any
) -> None:
    process = start("run", *device, "--windows", "5")
    assert receiver.until_exit(process) == 0
    assert sorted(receiver.payloads) == [("m1", FIRST + i) for i in range(5)]
    for (meter, window), copies in receiver.payloads.items():
        assert authority.readings_of(copies[0]) == expected(authority, meter, window)
    summary = summary_of(process)
    assert {name: summary[name] for name in ("sealed", "published", "receipted", "waiting", "dropped")} == {
        "sealed": 5,
        "published": 5,
        "receipted": 5,
        "waiting": 0,
        "dropped": 0,
    }
    assert summary["readings"] == {"good": 120, "absent": 0, "text": 0, "negative": 0, "too_large": 0}
    assert summary["samples"] == {
        "samples": 120,
        "late": 0,
        "duplicate": 0,
        "breaks": 0,
        "gaps": 0,
        "unknown": 0,
    }
    receiver.wait(lambda: not receiver.statuses["m1"][-1].online)
    assert receiver.statuses["m1"][0].online


def test_a_fleet_delivers_every_meters_windows_over_one_connection_each(
    start: Start, fleet: list[str], receiver: Any, authority: Any
) -> None:
    process = start("fleet", *fleet, "--windows", "4")
    assert receiver.until_exit(process) == 0
    assert set(receiver.payloads) == {(f"m{i}", FIRST + w) for i in range(10) for w in range(4)}
    assert all(len(copies) == 1 for copies in receiver.distinct().values())
    assert authority.readings_of(receiver.payloads["m7", FIRST][0]) == expected(authority, "m7", FIRST)
    assert summary_of(process)["receipted"] == 40


def test_a_fleet_can_share_one_connection(start: Start, fleet: list[str], receiver: Any) -> None:
    process = start("fleet", *fleet, "--windows", "2", "--connections", "shared")
    assert receiver.until_exit(process) == 0
    assert len(receiver.payloads) == 20
    receiver.wait(lambda: all(not receiver.statuses[f"m{i}"][-1].online for i in range(10)))


def test_sigterm_is_a_clean_stop_and_the_next_run_goes_on(
    start: Start, device: list[str], receiver: Any
) -> None:
    receiver.answer = lambda _header: None
    process = start("run", *device, "--windows", "6")
    receiver.wait(lambda: len(receiver.payloads) == 6)
    process.send_signal(signal.SIGTERM)
    assert receiver.until_exit(process) == 0
    assert summary_of(process)["waiting"] == 6
    before = receiver.distinct()
    receiver.answer = lambda h: Receipt(plan=h.plan, meter=h.meter, committed=(h.window,))
    again = start("run", *device, "--windows", "8")
    assert receiver.until_exit(again) == 0
    assert summary_of(again)["sealed"] == 2
    after = receiver.distinct()
    assert sorted(after) == [("m1", FIRST + i) for i in range(8)]
    assert all(after[key] == before[key] for key in before)


def test_a_new_incarnation_makes_everything_outstanding_come_again_at_once(
    start: Start, device: list[str], receiver: Any
) -> None:
    receiver.answer = lambda _header: None
    process = start(
        "run", *device, "--windows", "3", "--set", "meter.resend_s=3600", "--set", "meter.resend_max_s=3600"
    )
    receiver.wait(lambda: len(receiver.payloads) == 3)
    receiver.answer = lambda h: Receipt(plan=h.plan, meter=h.meter, committed=(h.window,))
    receiver.show_incarnation("second")
    assert receiver.until_exit(process, 20.0) == 0
    assert [len(copies) for copies in receiver.payloads.values()] == [2, 2, 2]
    assert all(len(distinct) == 1 for distinct in receiver.distinct().values())


def test_refused_batches_are_set_aside_and_early_ones_sent_again(
    start: Start, device: list[str], receiver: Any, tmp_path: Path, authority: Any
) -> None:
    early: set[int] = set()

    def answer(header: Any) -> Receipt:
        reason = "residue" if header.window == FIRST else "early"
        if header.window == FIRST or header.window not in early:
            early.add(header.window)
            return Receipt(plan=header.plan, meter=header.meter, refused=((header.window, reason),))
        return Receipt(plan=header.plan, meter=header.meter, committed=(header.window,))

    receiver.answer = answer
    process = start("run", *device, "--windows", "3")
    assert receiver.until_exit(process) == 0
    summary = summary_of(process)
    assert (summary["refused"], summary["deferred"], summary["receipted"]) == (1, 2, 2)
    with Outbox(tmp_path / "state", authority=authority.plan.authority, settings=MeterSettings()) as outbox:
        assert outbox.refused("m1") == [(FIRST, "residue")]


def test_junk_on_every_topic_is_survived(start: Start, device: list[str], receiver: Any) -> None:
    receiver.publish(f"{topics.PREFIX}/plan/junk", b"\xc1 no bundle", retain=True)
    receiver.publish(topics.status_aggregator("junk"), b"\xff" * 3000, retain=True)
    answers = iter([b"", b"\x92\xc4\x01a", bytes(1000)])
    honest = receiver.answer

    def answer(header: Any) -> Receipt | None:
        receiver.publish(topics.receipt("m1"), next(answers, b"?"))
        forged = Receipt(plan=header.plan, meter="m1", committed=(header.window,)).encode(b"x" * 32)
        receiver.publish(topics.receipt("m1"), forged)
        found: Receipt | None = honest(header)
        return found

    receiver.answer = answer
    process = start("run", *device, "--windows", "3")
    assert receiver.until_exit(process) == 0
    summary = summary_of(process)
    assert summary["receipted"] == 3
    assert summary["junk"] >= 6


def test_a_meter_that_knows_a_plan_seals_offline_and_delivers_when_the_broker_is_back(
    start: Start, device: list[str], receiver: Any, broker: EmbeddedBroker, authority: Any, tmp_path: Path
) -> None:
    assert receiver.until_exit(start("run", *device, "--windows", "1")) == 0
    broker.stop()
    offline = start("run", *device, "--windows", "4")
    watcher = receiver.loop.every(0.05, lambda: None)
    receiver.wait(lambda: _peek(tmp_path / "state", "SELECT count(*) FROM batches") == 3)
    watcher.cancel()
    broker.start()
    assert receiver.until_exit(offline) == 0
    assert sorted(receiver.payloads) == [("m1", FIRST + i) for i in range(4)]
    assert authority.readings_of(receiver.payloads["m1", FIRST + 3][0]) == expected(
        authority, "m1", FIRST + 3
    )


def _peek(state_dir: Path, query: str) -> Any:
    """One value out of an outbox in use."""
    db = sqlite3.connect(f"file:{state_dir / 'outbox.sqlite'}?mode=ro", uri=True)
    try:
        row = db.execute(query).fetchone()
        return None if row is None else row[0]
    finally:
        db.close()


def _journal_s(state_dir: Path) -> float | None:
    """The latest reading in m1's journal, UTC epoch seconds."""
    state = _peek(state_dir, "SELECT state FROM journal WHERE meter = 'm1'")
    return None if state is None else WindowBuilder.from_state(state).time_s


def test_a_replayed_file_goes_by_the_order_of_columns_and_its_policy(
    start: Start, fleet: list[str], receiver: Any, authority: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 900, (48, 10)).astype(str).tolist()
    rows[3][0], rows[4][0], rows[5][0], rows[6][0] = "", "-5", "99999", "n/a"
    lines = ["slot," + ",".join(f"house {i}" for i in range(10))]
    lines += [f"s{i}," + ",".join(row) for i, row in enumerate(rows)]
    (tmp_path / "houses.csv").write_text("\n".join(lines) + "\n")
    replay = ["--source", "replay", "--csv", str(tmp_path / "houses.csv"), "--windows", "2"]
    process = start("fleet", *fleet, *replay)
    assert receiver.until_exit(process) == 0
    first = [int(v) for v in (rows[0][0], rows[1][0], rows[2][0])] + [-1, -1, 20_000, -1]
    assert authority.readings_of(receiver.payloads["m0", FIRST][0])[:7] == first
    assert authority.readings_of(receiver.payloads["m9", FIRST + 1][0]) == [int(row[9]) for row in rows[24:]]
    counted = summary_of(process)["readings"]
    assert counted == {"good": 476, "absent": 1, "text": 1, "negative": 1, "too_large": 1}


@pytest.mark.parametrize("command", ["run", "fleet"])
def test_repro_a_file_that_grows_is_followed_and_its_last_window_waits(
    start: Start,
    device: list[str],
    fleet: list[str],
    receiver: Any,
    authority: Any,
    tmp_path: Path,
    command: str,
) -> None:
    meters = ["m1"] if command == "run" else [f"m{i}" for i in range(10)]
    rows = [
        f"2024-03-{1 + at // 24:02}T{at % 24:02}:00Z" + f",{100 + at * 37 % 900}" * len(meters)
        for at in range(72)
    ]
    path = tmp_path / "live.csv"
    path.write_text("\n".join([f"time,{','.join(meters)}", *rows[:36], ""]))
    flags = [flag for flag in (device if command == "run" else fleet) if flag not in ("--start", START)]
    replay = ["--source", "replay", "--csv", str(path), "--keep-running"]
    process = start(command, *flags, *replay)
    receiver.wait(lambda: len(receiver.payloads) == len(meters))  # the first day, and not half of the second
    with path.open("a") as more:
        more.write("\n".join([*rows[36:], ""]))
    receiver.wait(lambda: len(receiver.payloads) == 3 * len(meters))
    process.terminate()
    assert receiver.until_exit(process) == 0
    for meter in meters:
        for day in range(3):
            (payload,) = receiver.distinct()[meter, FIRST + day]
            expected = [int(row.split(",")[1]) for row in rows[24 * day : 24 * day + 24]]
            assert authority.readings_of(payload) == expected


@pytest.mark.parametrize(("command", "meters", "count"), [("run", 1, 60), ("fleet", 10, 12)])
def test_killed_at_any_moment_nothing_is_lost_and_no_window_has_two_versions(
    start: Start,
    device: list[str],
    fleet: list[str],
    receiver: Any,
    authority: Any,
    command: str,
    meters: int,
    count: int,
) -> None:
    """kill -9 after a random number of batches, seven times, receipts withheld at random; then to the end."""
    flags = [*(device if command == "run" else fleet), "--windows", str(count)]
    rng = np.random.default_rng(11)
    honest, killed = receiver.answer, 0
    receiver.answer = lambda header: honest(header) if rng.random() < 0.6 else None
    for _ in range(7):
        seen = sum(map(len, receiver.payloads.values()))
        more = int(rng.integers(1, 8 + 2 * meters))
        process = start(command, *flags)
        receiver.wait(
            lambda process=process, goal=seen + more: (
                sum(map(len, receiver.payloads.values())) >= goal or process.poll() is not None
            )
        )
        process.kill()
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 5, "the windows ran out before the kills did"
    receiver.answer = honest
    last = start(command, *flags)
    assert receiver.until_exit(last) == 0
    names = ["m1"] if command == "run" else [f"m{i}" for i in range(meters)]
    assert set(receiver.payloads) == {(name, FIRST + i) for name in names for i in range(count)}
    assert all(len(distinct) == 1 for distinct in receiver.distinct().values())
    for window in (FIRST, FIRST + count // 2, FIRST + count - 1):
        readings = authority.readings_of(receiver.payloads["m1", window][0])
        assert readings == expected(authority, "m1", window)


def test_readings_of_the_open_window_survive_a_kill(
    start: Start, tmp_path: Path, receiver: Any, authority: Any
) -> None:
    """Two past windows are sealed; what is known of the present one is in the journal, on the disk."""
    authority.device("m1").save(tmp_path / "m1.json")
    present = int(time.time() // DAY_S)
    first = str((present - 2) * DAY_S)
    process = start("run", "--credential", str(tmp_path / "m1.json"), "--start", first, "--speed", "max")
    receiver.wait(lambda: len(receiver.payloads) == 2)
    killed_s = time.time()
    hours = int((killed_s - (present * DAY_S)) // 3_600)
    watcher = receiver.loop.every(0.05, lambda: None)
    receiver.wait(lambda: (_journal_s(tmp_path / "state") or 0) >= present * DAY_S + (hours - 1) * 3_600)
    watcher.cancel()
    process.kill()
    process.wait()
    with Outbox(tmp_path / "state", authority=authority.plan.authority, settings=MeterSettings()) as outbox:
        journal = outbox.journal("m1")
        watermark_s = outbox.sealed_until_s()["m1"]
    assert journal is not None
    window_builder = WindowBuilder.from_state(journal)
    assert [closed.window for closed in window_builder.closed] == []
    assert window_builder.time_s is not None
    assert window_builder.time_s >= watermark_s - 3_600, "the journal is older than the last sealed window"
    window_builder.finish(partial=True)
    if hours:  # at midnight there is nothing to be known of the day yet
        (partial,) = window_builder.closed
        known = [int(value) for value in partial.readings["import_wh"]][:hours]
        assert known == expected(authority, "m1", partial.window)[:hours]


def test_a_broken_connection_makes_everything_outstanding_come_again(
    start: Start, device: list[str], receiver: Any, broker: EmbeddedBroker
) -> None:
    receiver.answer = lambda _header: None
    slow = ["--set", "meter.resend_s=3600", "--set", "meter.resend_max_s=3600"]
    process = start("run", *device, "--windows", "3", *slow)
    receiver.wait(lambda: len(receiver.payloads) == 3)
    receiver.answer = lambda h: Receipt(plan=h.plan, meter=h.meter, committed=(h.window,))
    broker.restart()
    assert receiver.until_exit(process, 40.0) == 0
    assert len(receiver.payloads) == 3
    assert all(len(distinct) == 1 for distinct in receiver.distinct().values())


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--source", "replay"], 2, "needs --csv"),
        (["--source", "replay", "--csv", "nowhere.csv"], 9, "cannot read nowhere.csv"),
        (["--start", "2024-03-01T01:00"], 2, "is not the start of a window"),
    ],
)
def test_wrong_use_is_one_clear_line_and_its_exit_code(
    start: Start, device: list[str], receiver: Any, tmp_path: Path, flags: list[str], code: int, says: str
) -> None:
    process = start("run", *device, "--windows", "1", *flags)
    assert receiver.until_exit(process) == code
    errors = [line for line in (tmp_path / "stderr").read_text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert says in errors[0]


def test_a_state_directory_in_use_is_refused(
    start: Start, device: list[str], receiver: Any, tmp_path: Path
) -> None:
    receiver.answer = lambda _header: None
    start("run", *device, "--windows", "2")
    receiver.wait(lambda: len(receiver.payloads) == 2)
    second = start("run", *device, "--windows", "2")
    assert receiver.until_exit(second) == 6
    assert "is in use by process" in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize(("command", "speed"), [("run", "1"), ("fleet", "1"), ("run", "4")])
def test_windows_go_out_as_they_end_and_never_before(
    start: Start, tmp_path: Path, receiver: Any, authority: Any, command: str, speed: str
) -> None:
    """Windows of two seconds: in real time from the present one on, or four times as fast up to it."""
    fast = authority.with_plan(window_s=2, interval_s=1)
    receiver.publish_plan(fast)
    arrived: dict[int, float] = {}
    honest = receiver.answer

    def answer(header: Any) -> Any:
        arrived.setdefault(header.window, time.time())
        return honest(header)

    receiver.answer = answer
    if command == "run":
        authority.device("m1").save(tmp_path / "c.json")
        flags = ["--credential", str(tmp_path / "c.json")]
    else:
        FleetCredential(devices=(authority.device("m1"), authority.device("m2"))).save(tmp_path / "c.json")
        flags = ["--credentials", str(tmp_path / "c.json")]
    begun_s = time.time()
    process = start(command, *flags, "--windows", "3", "--speed", speed)
    assert receiver.until_exit(process) == 0
    windows = sorted(arrived)
    assert windows == list(range(windows[0], windows[0] + 3))
    assert all(arrived[window] >= (window + 1) * 2 for window in windows)
    if speed == "1":
        assert windows[0] >= int(begun_s // 2)
    for window in windows:
        readings = SyntheticSource(fast.plan).window("m1", window)["import_wh"]
        assert fast.readings_of(receiver.payloads["m1", window][0]) == readings.tolist()
