"""Fault points: nothing happens, unless one is asked for."""

import signal
import subprocess
import sys

import pytest

_PROGRAM = """
from gridhe.base.failpoints import failpoint
for passage in range(5):
    failpoint("here")
    failpoint("there")
    print(passage, flush=True)
"""


def _run(armed: str | None) -> subprocess.CompletedProcess[str]:
    env = {} if armed is None else {"GRIDHE_FAULT_POINT": armed}
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, env=env, timeout=60, check=False
    )


def test_without_the_variable_every_point_is_passed() -> None:
    done = _run(None)
    assert done.returncode == 0
    assert done.stdout.split() == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(("armed", "lived"), [("here", 0), ("there:1", 0), ("there:3", 2), ("here:5", 4)])
def test_the_process_is_killed_at_the_passage_that_was_asked_for(armed: str, lived: int) -> None:
    done = _run(armed)
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.split()) == lived


def test_a_point_of_another_name_or_a_later_passage_does_nothing() -> None:
    assert _run("elsewhere").returncode == 0
    assert _run("here:6").returncode == 0
