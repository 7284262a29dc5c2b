"""`gridhe-meter run` with devices that cannot be read: one clear line and an exit code, or patience."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.demo.telegrams import LAYOUTS, MeterState
from gridhe.errors import ConfigError, SourceError
from gridhe_testing.meter_process import summary_of
from gridhe_testing.serial_pair import SerialPair

pytestmark = pytest.mark.system

WINDOW_S, INTERVAL_S = 8, 2
MAIN = "import sys; {before}; from gridhe.meter_agent.cli import main; sys.argv[0] = 'gridhe-meter'; main()"
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def small(authority: Any) -> Any:
    """The authority with windows of seconds."""
    return authority.with_plan(window_s=WINDOW_S, interval_s=INTERVAL_S)


@pytest.fixture
def start(tmp_path: Path, broker: EmbeddedBroker, small: Any) -> Iterator[Start]:
    """Start gridhe-meter run for a meter; whatever still runs at the test's end is killed."""
    processes: list[subprocess.Popen[bytes]] = []

    def _start(
        source: str, *settings: str, meter: str = "m1", without: str = ""
    ) -> "subprocess.Popen[bytes]":
        small.device(meter).save(tmp_path / f"{meter}.json")
        before = f"sys.modules[{without!r}] = None" if without else "pass"
        command = [sys.executable, "-P", "-c", MAIN.format(before=before), "run", "--json"]
        command += ["--broker", broker.url, "--state-dir", str(tmp_path / meter), "--source", source]
        command += ["--credential", str(tmp_path / f"{meter}.json"), "--set", "logging.format=json"]
        command += [word for setting in settings for word in ("--with", setting)]
        with (tmp_path / f"{meter}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=tmp_path)
        processes.append(process)
        return process

    yield _start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def log(tmp_path: Path) -> Callable[[str], list[str]]:
    """The last lines that are no log records: what the command says."""

    def said(meter: str = "m1") -> list[str]:
        lines = (tmp_path / f"{meter}.log").read_text().splitlines()
        return [line for line in lines if not line.startswith("{")]

    return said


def ended(process: "subprocess.Popen[bytes]") -> int:
    process.wait(60)
    assert process.returncode is not None
    return process.returncode


def test_a_wrong_path_is_one_line(start: Start, log: Any, tmp_path: Path) -> None:
    assert ended(start("p1", f"address={tmp_path}/ttyUSB9")) == SourceError.exit_code
    (line,) = log()
    assert line.startswith(f"error: there is no {tmp_path}/ttyUSB9; ")


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(start: Start, log: Any) -> None:
    assert (
        ended(start("modbus", "address=/dev/1", "map=sunspec", without="pymodbus")) == SourceError.exit_code
    )
    assert log() == ["error: source modbus needs pymodbus: pip install 'gridhe[modbus]'"]


def test_an_unknown_source_is_refused_with_those_that_there_are(start: Start, log: Any) -> None:
    assert ended(start("zigbee", "address=/dev/1")) == ConfigError.exit_code
    assert "'zigbee' is not one of 'synthetic', 'replay', 'p1', 'sml'" in log()[-1]


def test_a_typing_error_in_a_map_is_one_line_with_its_place(start: Start, log: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "meter: mine\nregisters:\n- {gives: import, function: 4, adress: 72, type: float32, unit: kWh}\n"
    )
    process = start("modbus", "address=/dev/1", f"map={tmp_path}/mine.yaml")
    assert ended(process) == ConfigError.exit_code
    lines = log()
    assert f"error: {tmp_path}/mine.yaml:3: unknown key registers.0.adress; did you mean address?" in lines


def test_a_port_of_another_agent_is_busy_and_that_one_reads_on(
    start: Start, log: Any, tmp_path: Path, small: Any, receiver_of: Any
) -> None:
    received = receiver_of(small)
    with SerialPair(tmp_path / "port") as pair:
        first = start("p1", f"address={pair.path}")
        received.wait(lambda: "connected to" in (tmp_path / "m1.log").read_text())
        second = start("p1", f"address={pair.path}", meter="m2")
        assert received.until_exit(second) == SourceError.exit_code
        (line,) = log("m2")
        assert line.startswith(f"error: {pair.path} is in use by another program")
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        assert received.until_exit(first) == 0


def test_noise_is_read_for_ever_without_a_reading_or_a_long_log_and_then_a_telegram_counts(
    start: Start, tmp_path: Path, small: Any, receiver_of: Any
) -> None:
    received = receiver_of(small)

    def sealed() -> list[int]:
        return [
            value
            for _, copies in sorted(received.payloads.items())
            for value in small.readings_of(copies[0])
            if value >= 0
        ]

    with SerialPair(tmp_path / "port") as pair:
        process = start("p1", f"address={pair.path}")
        received.wait(lambda: "connected to" in (tmp_path / "m1.log").read_text())
        noise = bytes(range(128, 256)) * 8

        def speak(data: bytes) -> None:
            try:
                os.write(pair.meter_end, data)
            except BlockingIOError:
                return

        timer = received.loop.every(0.02, lambda: speak(noise))
        started_s = time.monotonic()
        received.wait(lambda: time.monotonic() - started_s > WINDOW_S)
        timer.cancel()
        assert sealed() == []
        lines = (tmp_path / "m1.log").read_text().splitlines()
        assert len(lines) < 40

        def telegram() -> None:
            at_s = int(time.time())
            state = MeterState(at_s=at_s, serial=1, import_wh=3 * at_s % 10**9, export_wh=0, power_w=0)
            speak(LAYOUTS[0].write(state))

        received.loop.every(1.0, telegram)
        received.wait(lambda: len(sealed()) >= 4)
        process.send_signal(signal.SIGTERM)
        assert received.until_exit(process) == 0
        readings = sealed()
    assert set(readings) == {3 * INTERVAL_S}
    assert sum(summary_of(process)["source"]["faults"].values()) > 0
