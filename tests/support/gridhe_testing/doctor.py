"""Runs the doctor in this process."""

import json
from typing import Any

import pytest

from gridhe.base.commands import run_command
from gridhe.cli import cli


def examine(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit code, and the findings by name."""
    with pytest.raises(SystemExit) as stopped:
        run_command(cli, ["doctor", "--json", *map(str, args)])
    report = json.loads(capsys.readouterr().out)
    found: dict[str, list[dict[str, Any]]] = {}
    for check in report["checks"]:
        found.setdefault(check["name"], []).append(check)
    assert report["ok"] == (stopped.value.code == 0)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, found
