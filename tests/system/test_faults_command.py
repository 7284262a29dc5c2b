"""`python -m faults` as a command: what it runs, what it says of what it left out, how it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from faults import command
from faults.cases import CASES
from faults.cases.kills import _ready_again
from faults.command import faults
from faults.options import Options
from faults.outcome import CaseOutcome

GOOD = CaseOutcome(
    case="x", seed=1, sent=1, accepted=1, lost=0, duplicated=0, released=1, recovery_s=0.0, seconds=1.0
)


def test_without_a_case_it_asks_and_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_case", lambda *_: pytest.fail("it ran"))
    for arguments in ([], ["--all", "network"]):
        done = CliRunner().invoke(faults, arguments)
        assert done.exit_code == 2
        assert "--all alone for every case and the soak of 60 minutes; --list names them" in done.stderr


def test_what_was_skipped_is_told_beside_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "can_mount", lambda: False)
    monkeypatch.setattr(
        command, "run_case", lambda name, _: replace(GOOD, case=name, lost=int(name == "clock"))
    )
    done = CliRunner().invoke(faults, ["--all"])
    cases = len(CASES)
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == cases + 1
    assert "skip full-disk: it mounts small disks, and for that one has to be root" in done.stdout
    assert done.stdout.splitlines()[-1] == f"{cases - 2} passed, 1 failed, 1 skipped"

    done = CliRunner().invoke(faults, ["network", "full-disk", "--json"])
    assert done.exit_code == 0
    ran, skipped = map(json.loads, done.stdout.splitlines())
    assert (ran["case"], ran["passed"], ran["skipped"]) == ("network", True, "")
    assert (skipped["case"], skipped["passed"]) == ("full-disk", None)
    assert "root" in skipped["skipped"]
    assert done.stderr.splitlines()[-1] == "1 passed, 0 failed, 1 skipped"


@pytest.mark.parametrize(("scale", "p99_s", "held"), [(1.0, 5.0, True), (1.0, 5.1, False), (0.5, 9.0, True)])
def test_a_full_run_fails_where_the_aggregator_is_not_ready_again_in_time(
    scale: float, p99_s: float, held: bool
) -> None:
    outcome = _ready_again(Options(scale=scale), replace(GOOD, figures={"recovery_p99": p99_s}))
    assert outcome.passed is held
    assert held or outcome.faults == ("ready again after 5.1 s (p99), not 5",)


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.system
@pytest.mark.usefixtures("mosquitto")
def test_sigterm_ends_its_processes_and_removes_its_folders(tmp_path: Path) -> None:
    arguments = ["everybody", "--batches", "100000", "--dir", str(tmp_path), "--quiet"]
    with subprocess.Popen(
        [sys.executable, "-m", "faults", *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("*/fleet0.log")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 3  # broker, aggregator, fleet
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.strip().endswith("stopped")
    assert list(tmp_path.iterdir()) == []
    mine = os.fsencode(tmp_path)
    assert not [pid for pid in children if b"gridhe" in _command_line(pid) or mine in _command_line(pid)]
