"""Clocks that are wrong, batches that are refused and meters that move: real processes, a real mosquitto."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.meter_agent.sources.synthetic import SyntheticSource
from gridhe.wire import topics
from gridhe.wire.credential import FleetCredential
from gridhe.wire.envelope import open_envelope
from gridhe.wire.receipt import Receipt
from gridhe_testing.meter_process import Log, summary_of, until

SUPPORT = Path(__file__).resolve().parents[1] / "support"
WINDOW_S = 2
START = ["--start", "2024-03-01", "--speed", "max"]

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def shift(tmp_path: Path) -> Callable[[float], None]:
    """Sets how many seconds the processes' wall clock is ahead."""

    def set_to(seconds: float) -> None:
        new = tmp_path / "shift.new"
        new.write_text(str(seconds))
        new.replace(tmp_path / "shift")

    set_to(0.0)
    return set_to


@pytest.fixture
def start(tmp_path: Path, broker: EmbeddedBroker, shift: Callable[[float], None]) -> Iterator[Start]:
    """Start gridhe-meter with a clock of its own; whatever still runs at the test's end is killed."""
    processes: list[subprocess.Popen[bytes]] = []

    def _start(command: str, *args: str) -> "subprocess.Popen[bytes]":
        clocked = ["-m", "gridhe_testing.shifted_clock", str(tmp_path / "shift"), "gridhe.meter_agent.cli"]
        fixed = ["--broker", broker.url, "--state-dir", str(tmp_path / "state"), "--json"]
        with (tmp_path / "stderr").open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, *clocked, command, *fixed, "--set", "meter.resend_s=1", *args],
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(SUPPORT)},
            )
        processes.append(process)
        return process

    yield _start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "stderr")


@pytest.fixture
def quick(receiver: Any, authority: Any) -> Any:
    """The authority with windows of two seconds, published."""
    made = authority.with_plan(window_s=WINDOW_S, interval_s=1, horizon_s=20.0)
    receiver.publish_plan(made)
    return made


@pytest.fixture
def device(tmp_path: Path, authority: Any) -> list[str]:
    authority.device("m1").save(tmp_path / "m1.json")
    return ["--credential", str(tmp_path / "m1.json")]


def present() -> int:
    return int(time.time() // WINDOW_S)


@pytest.mark.parametrize("command", ["run", "fleet"])
def test_repro_a_meter_that_started_in_1970_sealed_every_window_since(
    start: Start, shift: Any, receiver: Any, quick: Any, log: Log, tmp_path: Path, command: str
) -> None:
    shift(12 * 3_600 - time.time())
    FleetCredential(devices=(quick.device("m1"),)).save(tmp_path / "c.json")
    quick.device("m1").save(tmp_path / "m1.json")
    flag = ["--credential", "m1.json"] if command == "run" else ["--credentials", "c.json"]
    process = start(command, *flag)
    until(receiver, lambda: bool(log.warnings("the clock says 1970-01-01") or receiver.payloads))
    assert receiver.payloads == {}
    begun = present()
    shift(0.0)
    until(receiver, lambda: len(receiver.payloads) >= 2)
    process.send_signal(signal.SIGTERM)
    assert receiver.until_exit(process) == 0
    windows = sorted(window for _, window in receiver.payloads)
    assert windows == list(range(windows[0], windows[0] + len(windows)))
    assert windows[0] >= begun
    assert len(log.warnings("the clock says 1970-01-01")) == 1
    assert summary_of(process)["sealed"] <= present() - begun + 1


def test_repro_a_meter_whose_clock_was_ahead_sealed_nothing_until_that_time(
    start: Start, shift: Any, receiver: Any, quick: Any, device: list[str], log: Log
) -> None:
    shift(40 * 86_400.0)
    start("run", *device)
    receiver.wait(lambda: bool(receiver.payloads))
    ahead = min(window for _, window in receiver.payloads)
    assert ahead > present() + 86_400
    receiver.answer = lambda header: Receipt(
        plan=header.plan,
        meter=header.meter,
        committed=(header.window,) if header.window <= present() + 30 else (),
        refused=() if header.window <= present() + 30 else ((header.window, "early"),),
    )
    known = set(receiver.payloads)
    until(receiver, lambda: set(receiver.payloads) > known)
    set_back = present()
    shift(0.0)
    until(receiver, lambda: sum(window < ahead for _, window in receiver.payloads) >= 2)
    windows = sorted(window for _, window in receiver.payloads if window < ahead)
    assert set_back <= windows[0] <= present()
    assert len(log.warnings("the clock stepped by -3456000 s")) == 1
    assert len(log.warnings("are deleted, and sealing continues with the present window")) == 1


def test_repro_after_a_long_time_off_every_missed_window_was_sealed(
    start: Start, shift: Any, receiver: Any, quick: Any, device: list[str], log: Log
) -> None:
    process = start("run", *device)
    receiver.wait(lambda: bool(receiver.payloads))
    process.kill()
    process.wait()
    before = {window for _, window in receiver.payloads}  # sent again, if its receipt was not stored yet
    receiver.payloads.clear()
    shift(3_600.0)
    now = present() + 3_600 // WINDOW_S
    start("run", *device)
    receiver.wait(lambda: len(receiver.payloads) >= 5)
    windows = {window for _, window in receiver.payloads} - before
    assert now - 20 // WINDOW_S - 1 <= min(windows) <= now
    assert len(log.warnings("longer ago than the plan's horizon")) == 1


def test_repro_a_clock_800_days_ahead_at_a_start_is_not_followed_without_confirmation(
    start: Start, shift: Any, receiver: Any, quick: Any, device: list[str], log: Log
) -> None:
    process = start("run", *device)
    receiver.wait(lambda: bool(receiver.payloads))
    process.kill()
    process.wait()
    receiver.payloads.clear()
    shift(800 * 86_400.0)
    doubting = start("run", *device)
    until(receiver, lambda: bool(log.warnings("start once with --trust-clock")))
    doubting.send_signal(signal.SIGTERM)
    assert receiver.until_exit(doubting) == 0
    assert receiver.payloads == {}
    start("run", *device, "--trust-clock")
    receiver.wait(lambda: bool(receiver.payloads))


def test_repro_batches_refused_as_late_were_given_up(
    start: Start, receiver: Any, device: list[str], log: Log
) -> None:
    """An aggregator whose clock is ahead. The run ends, since that may never change; the next one goes on."""
    receiver.answer = lambda h: Receipt(plan=h.plan, meter=h.meter, refused=((h.window, "late"),))
    process = start("run", *device, *START, "--windows", "20")
    assert receiver.until_exit(process) == 0
    summary = summary_of(process)
    assert (summary["sealed"], summary["refused"], summary["waiting"]) == (20, 0, 20)
    (warning,) = log.warnings("refused as late")
    assert "sent again later" in warning
    receiver.answer = lambda h: Receipt(plan=h.plan, meter=h.meter, committed=(h.window,))
    process = start("run", *device, *START, "--windows", "20")
    assert receiver.until_exit(process) == 0
    assert summary_of(process)["receipted"] == 20
    assert all(len(distinct) == 1 for distinct in receiver.distinct().values())


def test_repro_a_final_refusal_was_only_a_number_in_the_summary(
    start: Start, receiver: Any, device: list[str], log: Log
) -> None:
    reasons = ["residue", "expired", "residue", "\x1b[31mred", "residue"]
    receiver.answer = lambda h: Receipt(
        plan=h.plan, meter=h.meter, refused=((h.window, reasons[h.window % len(reasons)]),)
    )
    process = start("run", *device, *START, "--windows", "50")
    assert receiver.until_exit(process) == 0
    assert summary_of(process)["refused"] == 50
    said = log.warnings("set aside, not sent again")
    assert len(said) == 3, "once a reason"
    assert any("refused as expired" in each and "the aggregator no longer knows" in each for each in said)
    assert not any("\x1b" in each for each in said)


@pytest.mark.parametrize("how", ["reseal", "set_aside", "device"])
def test_repro_a_meter_that_moved_kept_its_old_batches_for_ever(
    start: Start, receiver: Any, authority: Any, tmp_path: Path, log: Log, how: str
) -> None:
    command, flag = ("run", "--credential") if how == "device" else ("fleet", "--credentials")

    def credential(group: str) -> list[str]:
        device = authority.device("m1", group)
        if how == "device":
            device.save(tmp_path / "c.json")
        else:
            FleetCredential(devices=(device,)).save(tmp_path / "c.json")
        return [flag, "c.json"]

    seen: list[tuple[str, str, int]] = []  # topic's group, header's group, window

    def on_message(topic: str, payload: bytes) -> None:
        if not topic.startswith(topics.batch("", "").rstrip("/")):
            return
        header = open_envelope(payload, 1 << 22).header
        seen.append((topics.parse_batch(topic)[0], header.group, header.window))
        receiver.payloads.setdefault((header.group, header.window), []).append(payload)
        if silent:
            return
        old = header.group == "north/f1"
        counted = old and header.window % 2  # it was counted before the move, and the receipt was lost
        receipt = Receipt(
            plan=header.plan,
            meter="m1",
            committed=() if old and not counted else (header.window,),
            refused=((header.window, "group"),) if old and not counted else (),
        )
        receiver.publish(topics.receipt("m1"), receipt.encode(authority.device("m1").ingest_key))

    silent = True
    receiver.session._on_message = on_message
    process = start(command, *credential("north/f1"), *START, "--windows", "4")
    receiver.wait(lambda: len({window for _, _, window in seen}) == 4)
    process.kill()
    process.wait()
    silent = False
    seen.clear()
    moved = ["--set", "meter.moved=set_aside"] if how == "set_aside" else []
    process = start(command, *credential("south/f9"), *START, "--windows", "4", *moved)
    assert receiver.until_exit(process) == 0
    summary = summary_of(process)
    assert {topic for topic, _, _ in seen} == {"south/f9"}
    assert summary["waiting"] == 0
    anew = sorted(window for _, group, window in seen if group == "south/f9")
    if how == "reseal":
        assert (summary["resealed"], summary["receipted"], summary["refused"]) == (2, 4, 0)
        assert len(anew) == 2
        for window in anew:
            (payload,) = receiver.payloads["south/f9", window]
            readings = SyntheticSource(authority.plan).window("m1", window)["import_wh"]
            assert authority.readings_of(payload) == readings.tolist()
    else:
        assert (summary["receipted"], summary["refused"], anew) == (2, 2, [])
        (warning,) = log.warnings("refused as group")
        assert "set aside, not sent again" in warning


def test_an_aggregator_that_has_not_heard_of_the_move_yet_is_asked_again(
    start: Start, receiver: Any, device: list[str], log: Log
) -> None:
    refused: set[int] = set()

    def answer(header: Any) -> Receipt:
        first = header.window not in refused
        refused.add(header.window)
        return Receipt(
            plan=header.plan,
            meter=header.meter,
            committed=() if first else (header.window,),
            refused=((header.window, "group"),) if first else (),
        )

    receiver.answer = answer
    process = start("run", *device, *START, "--windows", "3")
    assert receiver.until_exit(process) == 0
    summary = summary_of(process)
    assert (summary["receipted"], summary["deferred"], summary["refused"]) == (3, 3, 0)


def test_repro_a_damaged_batch_in_the_outbox_ended_the_agent(
    start: Start, receiver: Any, device: list[str], tmp_path: Path, log: Log
) -> None:
    receiver.answer = lambda _header: None
    process = start("run", *device, *START, "--windows", "4")
    receiver.wait(lambda: len(receiver.payloads) == 4)
    process.kill()
    process.wait()
    database = sqlite3.connect(tmp_path / "state" / "outbox.sqlite")
    database.execute("UPDATE batches SET payload = zeroblob(length(payload)) WHERE id = 2")
    database.execute("UPDATE batches SET payload = 'text' WHERE id = 3")
    database.commit()
    database.close()
    first = min(window for _, window in receiver.payloads)
    receiver.payloads.clear()
    # The aggregator has counted all and refuses one as `group`, so that receipts too meet a damaged batch.
    receiver.answer = lambda h: Receipt(
        plan=h.plan, meter=h.meter, committed=(h.window,), refused=((first + 1, "group"),)
    )
    process = start("run", *device, *START, "--windows", "4")
    assert receiver.until_exit(process) == 0
    summary = summary_of(process)
    assert (summary["receipted"], summary["waiting"]) == (2, 0)
    assert len(log.warnings("refused as damaged")) == 1


@pytest.mark.parametrize("command", ["run", "fleet"])
def test_repro_a_hangup_killed_the_meters(
    start: Start, receiver: Any, quick: Any, tmp_path: Path, log: Log, command: str
) -> None:
    FleetCredential(devices=(quick.device("m1"),)).save(tmp_path / "c.json")
    quick.device("m1").save(tmp_path / "m1.json")
    flag = ["--credential", "m1.json"] if command == "run" else ["--credentials", "c.json"]
    process = start(command, *flag)
    receiver.wait(lambda: bool(receiver.payloads))
    process.send_signal(signal.SIGHUP)
    before = len(receiver.payloads)
    receiver.wait(lambda: len(receiver.payloads) > before + 1)
    assert "SIGHUP" in log.path.read_text()
    process.send_signal(signal.SIGTERM)
    assert receiver.until_exit(process) == 0


@pytest.mark.parametrize("window_s", [86_400, 43_200])
@pytest.mark.parametrize("how", ["fleet", "device"])
@pytest.mark.parametrize("heard", ["running", "at a start"])
def test_repro_windows_sealed_before_their_plan_was_heard_of_are_sealed_anew_or_said_to_be_lost(
    start: Start, receiver: Any, authority: Any, tmp_path: Path, log: Log, how: str, heard: str, window_s: int
) -> None:
    """Four days are sealed under the old plan; then comes one that has held since the third of them."""
    command, flag = ("run", "--credential") if how == "device" else ("fleet", "--credentials")
    if how == "device":
        authority.device("m1").save(tmp_path / "c.json")
    else:
        FleetCredential(devices=(authority.device("m1"),)).save(tmp_path / "c.json")
    first = 19_783 + 2  # days since 1970; the first window is 2024-03-01
    later = authority.with_plan(window_s=window_s, first_window=first * 86_400 // window_s, late_s=2.0)
    old_id, new_id = authority.plan.plan_id, later.plan.plan_id
    seen: dict[tuple[str, int], bytes] = {}
    refused: set[int] = set()
    silent = True

    def on_message(topic: str, payload: bytes) -> None:
        if not topic.startswith(topics.batch("", "").rstrip("/")):
            return
        header = open_envelope(payload, 1 << 22).header
        seen[header.plan, header.window] = payload
        if silent:
            return
        over = header.plan == old_id and header.window >= first
        refused.update([header.window] if over else [])
        receipt = Receipt(
            plan=header.plan,
            meter="m1",
            committed=() if over else (header.window,),
            refused=((header.window, "after_plan"),) if over else (),
        )
        receiver.publish(topics.receipt("m1"), receipt.encode(authority.device("m1").ingest_key))

    receiver.session._on_message = on_message
    process = start(command, flag, "c.json", *START, "--windows", "4")
    receiver.wait(lambda: len(seen) == 4)
    if heard == "at a start":
        process.kill()
        process.wait()
        silent = False
        receiver.publish_plan(later)
        process = start(command, flag, "c.json", *START, "--windows", "4")
    else:
        silent = False
        until(receiver, lambda: refused == {first, first + 1})  # sent again: it keeps them
        receiver.publish_plan(later)
    assert receiver.until_exit(process) == 0
    summary = summary_of(process)
    assert summary["waiting"] == 0
    anew = {window: payload for (plan, window), payload in seen.items() if plan == new_id}
    if how == "device":
        assert (anew, summary["receipted"], summary["refused"]) == ({}, 2, 2)
        (warning,) = log.warnings("refused as plan_ended")[:1]
        assert "the readings are lost" in warning
        return
    windows = range(later.plan.first_window, (first + 2) * 86_400 // window_s)
    assert sorted(anew) == list(windows)
    assert (summary["resealed"], summary["receipted"], summary["refused"]) == (2, 2 + len(windows), 0)
    for window, payload in anew.items():
        readings = SyntheticSource(later.plan).window("m1", window)["import_wh"]
        assert later.readings_of(payload) == readings.tolist()
