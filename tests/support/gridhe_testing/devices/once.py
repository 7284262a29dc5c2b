"""Reads P1, SML and Modbus meters once with `gridhe-meter probe`, and compares the readings.

The command that runs gridhe-meter is given, for example one that emulates another processor:

python -m gridhe_testing.devices.once gridhe-meter
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gridhe_testing.devices.faults import Shown
from gridhe_testing.devices.kinds import KINDS, Kind
from gridhe_testing.serial_pair import SerialPair

__all__ = ["read_once"]

_WH = 12_345_678
_LONGEST_S = 240.0  # an emulated processor takes long to start Python
_REQUEST = 8


async def _speak(kind: Kind, pair: SerialPair) -> None:
    """Be a meter until cancelled."""
    while True:
        await asyncio.sleep(0.01 if kind.polled else 0.5)
        shown = Shown(wh=_WH, serial=1, at_s=time.time())
        try:
            if not kind.polled:
                os.write(pair.meter_end, kind.write(shown))
            elif len(request := os.read(pair.meter_end, 256)) >= _REQUEST:
                os.write(pair.meter_end, kind.write(shown, request=request[-_REQUEST:]))
        except BlockingIOError:
            continue


async def _read(kind: Kind, port: Path, command: list[str]) -> list[dict[str, Any]]:
    """The readings that a probe shows; it is ended at the third."""
    with SerialPair(port) as pair:
        speaking = asyncio.ensure_future(_speak(kind, pair))
        words = [
            *command, "probe", kind.name, f"address={os.ttyname(pair.terminal)}", "clock=host",
            *kind.settings, "--json", "--for", str(_LONGEST_S),
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        readings: list[dict[str, Any]] = []
        async for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "reading":
                readings.append(event)
                if len(readings) == 3:
                    process.terminate()
        code = await process.wait()
        speaking.cancel()
    assert code == 0, f"gridhe-meter probe {kind.name} ended with {code}"
    return readings


def read_once(command: list[str]) -> dict[str, int]:
    """The number of readings by source. Raises AssertionError if one is wrong."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            if kind.name == "han":
                continue
            readings = asyncio.run(_read(kind, Path(folder) / kind.name, command))
            assert len(readings) >= 3, readings
            assert {each["import_wh"] for each in readings} <= {str(_WH), f"{_WH}.0"}, readings
            found[kind.name] = len(readings)
    return found


if __name__ == "__main__":
    print(", ".join(f"{name}: {count} readings" for name, count in read_once(sys.argv[1:]).items()))
