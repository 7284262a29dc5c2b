"""A credential without guard keys: the process refuses it at start, and changes nothing in its state."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gridhe.wire.credential import FleetCredential


@pytest.mark.parametrize("command", ["run", "fleet"])
def test_repro_a_credential_without_guard_keys_is_refused_at_start_with_the_command_that_makes_a_new_one(
    authority: Any, tmp_path: Path, command: str
) -> None:
    path, device = tmp_path / "c.json", authority.device("m1")
    (device if command == "run" else FleetCredential(devices=(device,))).save(path)
    record = json.loads(path.read_text())
    for each in record.get("devices", [record]):
        del each["guard_key"], each["home_key"]
    path.write_text(json.dumps(record))
    flag = {"run": "--credential", "fleet": "--credentials"}[command]
    arguments = [flag, str(path), "--state-dir", str(tmp_path / "state"), "--broker", "mqtt://127.0.0.1:9"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gridhe.meter_agent.cli", command, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 4
    assert done.stderr == (
        f"error: {path}: the credential of m1 has no guard keys; make a new one with: "
        "gridhe-keyring enrol m1 --group north/f1\n"
    )
    assert done.stdout == ""
    assert not (tmp_path / "state").exists()
