"""`gridhe-meter run --source p1` as a real process: telegrams over TCP become sealed readings."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe_testing.meter_process import summary_of
from gridhe_testing.p1_home import P1Home, telegram_at

pytestmark = pytest.mark.system

WINDOW_S, INTERVAL_S, WH = 12, 3, 7  # 7 Wh a second: 25.2 kW

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def small(authority: Any) -> Any:
    """The authority with windows of seconds."""
    return authority.with_plan(window_s=WINDOW_S, interval_s=INTERVAL_S)


@pytest.fixture
def start(tmp_path: Path, broker: EmbeddedBroker, small: Any) -> Iterator[Start]:
    """Start gridhe-meter run on an address; whatever still runs at the test's end is killed."""
    small.device("m1").save(tmp_path / "m1.json")
    processes: list[subprocess.Popen[bytes]] = []

    def _start(address: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "gridhe.meter_agent.cli", "run", "--broker", broker.url, "--json"]
        command += ["--credential", str(tmp_path / "m1.json"), "--state-dir", str(tmp_path / "state")]
        with (tmp_path / "stderr").open("ab") as stderr:
            process = subprocess.Popen(
                [*command, "--source", "p1"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=tmp_path,
                env={**os.environ, "GRIDHE_SOURCE__ADDRESS": address},
            )
        processes.append(process)
        return process

    yield _start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def received(small: Any, receiver_of: Callable[[Any], Any]) -> Any:
    return receiver_of(small)


def sealed(received: Any, small: Any) -> dict[int, list[int]]:
    """The readings of each window that came, -1 where missing."""
    return {window: small.readings_of(copies[0]) for (_, window), copies in received.payloads.items()}


def stop(process: "subprocess.Popen[bytes]", received: Any) -> dict[str, Any]:
    process.send_signal(signal.SIGTERM)
    assert received.until_exit(process) == 0
    return summary_of(process)


def test_telegrams_become_the_registers_differences_with_dips_ignored(
    start: Start, received: Any, small: Any
) -> None:
    dips = threading.Event()

    def says(second: int) -> bytes:
        dip = dips.is_set() and second % 5 == 2
        return telegram_at(second, 0 if dip else 29_000_000 + WH * (second % 100_000))

    with P1Home(says) as home:
        process = start(home.address)
        received.wait(lambda: received.payloads)
        dips.set()
        received.wait(lambda: len(received.payloads) >= 3)
        summary = stop(process, received)
    first, *whole = (readings for _, readings in sorted(sealed(received, small).items()))
    assert whole
    assert whole == [[WH * INTERVAL_S] * (WINDOW_S // INTERVAL_S)] * len(whole)
    assert set(first) <= {-1, WH * INTERVAL_S}
    assert summary["source"]["driver"] == "p1"
    assert summary["source"]["clock"] == "device"
    assert summary["source"]["events"] == {}
    assert summary["source"]["ignored"]["dip"] >= 2


def test_a_swap_is_seen_by_the_operator_and_a_cut_cable_costs_only_time(
    start: Start, received: Any, small: Any, tmp_path: Path
) -> None:
    begun = int(time.time())
    swap = (begun // WINDOW_S + 2) * WINDOW_S + INTERVAL_S + 1  # in the second interval of a window

    def says(second: int) -> bytes:
        new = second >= swap
        wh = (1_000 if new else 29_000_000) + WH * (second - begun)
        return telegram_at(second, wh, device="B" if new else "A")

    with P1Home(says) as home:
        process = start(home.address)
        received.wait(lambda: ("m1", swap // WINDOW_S) in received.payloads)
        received.wait(lambda: any(each.events == {"swap": 1} for each in received.statuses["m1"]))
        home.unplug()
        watcher = received.loop.every(0.05, lambda: None)
        received.wait(lambda: "is lost, trying again" in (tmp_path / "stderr").read_text())
        home.plug()
        back = int(time.time()) // WINDOW_S + 2
        received.wait(lambda: ("m1", back) in received.payloads)
        watcher.cancel()
        summary = stop(process, received)
    full = WH * INTERVAL_S
    found = sealed(received, small)
    assert found[swap // WINDOW_S] == [full, -1, full, full]
    assert found[back] == [full] * 4
    assert {each for readings in found.values() for each in readings} <= {-1, full}
    assert summary["source"]["events"] == {"swap": 1}
    log = (tmp_path / "stderr").read_text()
    assert log.count("the meter was exchanged") == 1
    assert "29000" not in log


def test_kill_9_gives_no_wrong_reading(start: Start, received: Any, small: Any) -> None:
    with P1Home(lambda second: telegram_at(second, WH * (second % 10_000_000))) as home:
        for kill in range(3):
            process = start(home.address)
            goal = len(received.payloads) + 1
            received.wait(lambda goal=goal: len(received.payloads) >= goal)
            time.sleep(kill)  # another point of the next window
            process.kill()
            process.wait()
        process = start(home.address)
        goal = len(received.payloads) + 2
        received.wait(lambda: len(received.payloads) >= goal)
        stop(process, received)
    found = sealed(received, small)
    full = WH * INTERVAL_S
    assert {each for readings in found.values() for each in readings} <= {-1, full}
    assert found[max(found)] == [full] * 4
    assert all(len(copies) == 1 for copies in received.distinct().values())


def test_an_address_that_nobody_answers_ends_the_run_with_one_line(
    start: Start, received: Any, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    process = start(address)
    assert received.until_exit(process) == 9
    errors = [line for line in (tmp_path / "stderr").read_text().splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert address in errors[0]
