"""`gridhe-meter probe` as a process, at simulated ports."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gridhe.demo.devices import SimulatedMeters
from gridhe.demo.telegrams import LAYOUTS, MeterState
from gridhe.errors import ConfigError, SourceError
from gridhe_testing.serial_pair import SerialPair
from gridhe_testing.sml_meter import Entry, signed, sml_frame, unsigned

pytestmark = pytest.mark.system

NONE_CAME = SourceError.exit_code


def probe(*arguments: object, stdout: Any = subprocess.PIPE) -> "subprocess.Popen[str]":
    command = [sys.executable, "-P", "-m", "gridhe.meter_agent.cli", "probe", *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True
    )


def events(process: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    """All events until the process ends, with its exit code."""
    out, err = process.communicate(timeout=120)
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def until_event(process: "subprocess.Popen[str]", kind: str) -> dict[str, Any]:
    """The next event of this kind."""
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == kind:
            return found
    raise AssertionError(f"the probe ended without {kind}: {process.stderr and process.stderr.read()}")


def findings(found: list[dict[str, Any]]) -> list[str]:
    return [each["code"] for each in found if each["event"] == "finding"]


@contextmanager
def speaking(path: Path, data: bytes, *, every_s: float = 0.5) -> Iterator[SerialPair]:
    """A port on which a device says the same again and again."""
    ended = threading.Event()
    with SerialPair(path) as pair:

        def speak() -> None:
            while not ended.wait(every_s):
                try:
                    os.write(pair.meter_end, data)
                except OSError:  # full: nobody reads yet
                    continue

        thread = threading.Thread(target=speak)
        thread.start()
        try:
            yield pair
        finally:
            ended.set()
            thread.join()


def test_a_meters_readings_are_shown_with_what_would_be_sealed() -> None:
    with SimulatedMeters(1, seed=3) as meters:
        process = probe("p1", f"address={meters.ports[0]}", "--json", "--for", "8")
        found = events(process)
        assert process.returncode == 0
        readings = [each for each in found if each["event"] == "reading"]
        assert found[0] == {"event": "opened", "what": f"{meters.ports[0]}, 115200 8N1"}
        assert found[-1]["event"] == "end"
        assert found[-1]["readings"] == len(readings) >= 3
        assert findings(found) == []
        (device,) = [each for each in found if each["event"] == "device"]
        assert device["device"] == "E9999000000000001"
        assert set(device["registers"]) == {"import", "export"}
        first, last = readings[0], readings[-1]
        for each in readings:
            assert int(each["import_wh"]) == meters.register_wh(0, int(each["at_s"]))
            assert abs(each["at_s"] - each["arrived_s"]) < 5
        rise = int(last["import_wh"]) - int(first["import_wh"])
        assert (first["imported"], last["imported"]) == ("+0 Wh", f"+{rise} Wh")


def test_a_terminal_gets_lines_and_ctrl_c_ends_it_cleanly() -> None:
    with SimulatedMeters(1, seed=3) as meters:
        terminal, other = pty.openpty()
        process = probe("p1", f"address={meters.ports[0]}", stdout=other)
        os.close(other)
        shown = b""
        while b"sealed so far: imported +" not in shown:
            shown += os.read(terminal, 4_096)
        process.send_signal(signal.SIGINT)
        try:
            while piece := os.read(terminal, 4_096):
                shown += piece
        except OSError:  # the other end is closed
            pass
        os.close(terminal)
        assert process.stderr is not None
        assert (process.wait(20), process.stderr.read()) == (0, "")
        process.stderr.close()
    lines = shown.decode().replace("\x1b[0m", "").splitlines()
    assert lines[0].endswith("115200 8N1 is open")
    assert lines[1].startswith("meter E9999000000000001; import of ")
    assert "kWh  export 0.000 kWh  power " in lines[2]
    assert lines[-1].endswith(" readings")


def test_readings_go_to_no_file_unless_that_is_meant() -> None:
    process = probe("p1", "address=/dev/none")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (ConfigError.exit_code, "")
    assert err.startswith("error: probe shows readings in clear, and standard output is no terminal")


def test_noise_headers_alone_and_silence_are_three_findings(tmp_path: Path) -> None:
    telegram = LAYOUTS[0].write(MeterState(at_s=1, serial=1, import_wh=1, export_wh=0, power_w=0))
    noise = bytes(value ^ 0xFF for value in telegram if value != 0xD0)
    with (
        speaking(tmp_path / "noise", noise),
        speaking(tmp_path / "header", telegram[:40], every_s=3),
        SerialPair(tmp_path / "silent"),
    ):
        started = {
            name: probe("p1", f"address={tmp_path / name}", "--json", "--for", seconds)
            for name, seconds in (("noise", 20), ("header", 20), ("silent", 28))
        }
        found = {name: findings(events(process)) for name, process in started.items()}
    assert {name: set(codes) for name, codes in found.items()} == {
        "noise": {"noise"},
        "header": {"no_tail"},
        "silent": {"silent"},
    }
    assert {process.returncode for process in started.values()} == {NONE_CAME}


def test_a_locked_german_meter_and_a_damaged_line_are_findings(tmp_path: Path) -> None:
    locked = sml_frame(Entry(code="1-0:1.8.0*255", value=unsigned(2_043, 4), scaler=signed(3)))
    damaged = locked[:60] + bytes([locked[60] ^ 1]) + locked[61:]
    with speaking(tmp_path / "port", locked + damaged, every_s=0.2):
        process = probe("sml", f"address={tmp_path / 'port'}", "--json", "--for", "6")
        found = events(process)
    assert process.returncode == 0
    assert {"locked", "damaged"} <= set(findings(found))
    (damage,) = {each["text"].split("(")[0] for each in found[-3:] if each.get("code") == "damaged"}
    assert "telegrams are damaged" in damage


def test_a_pulled_cable_is_told_and_readings_go_on_when_it_is_back(tmp_path: Path) -> None:
    state = MeterState(at_s=int(time.time()), serial=1, import_wh=1_000, export_wh=0, power_w=0)
    with speaking(tmp_path / "port", LAYOUTS[0].write(state)) as pair:
        process = probe("p1", f"address={pair.path}", "--json", "--for", "60")
        until_event(process, "reading")
        pair.unplug()
        assert until_event(process, "finding")["code"] == "lost"
        pair.plug()
        until_event(process, "opened")
        until_event(process, "reading")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        process.communicate()
