"""Runs many commands under one condition of the machine: `python -m gridhe_testing.conditions JOBS.json`.

The condition (a full standard output, no HOME, an encoding ...) is made by whoever starts this, so Python
starts under it as a user's does. Every command then runs in a fork of its own, which saves it the import of
everything. What each ended with and said on standard error goes to files.

JOBS.json: {"commands": [[program, argument, ...], ...], "results": folder, "cwd": folder,
            "delete_cwd": true or false}
"""

import importlib
import json
import os
import pkgutil
import signal
import sys
from pathlib import Path

PROGRAMS = {
    "gridhe": "gridhe.cli",
    "gridhe-keyring": "gridhe.keyring.cli.command",
    "gridhe-meter": "gridhe.meter_agent.cli",
    "gridhe-aggregate": "gridhe.aggregator.cli",
    "gridhe-bench": "gridhe.bench.cli",
}
_ROOMS = (
    "config",
    "base",
    "plan",
    "wire",
    "broker",
    "meter_agent",
    "aggregator",
    "keyring",
    "bench",
    "demo",
    "doctor",
)
_LONGEST_S = 60
_DAEMONS = ("gridhe-aggregate", "gridhe-meter")  # stopped when they have run for a while
_RUN_S = 3


def _import_everything() -> None:
    """Import late imports now, because the command's user may not be able to read the checkout."""
    for room in _ROOMS:
        package = importlib.import_module(f"gridhe.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"gridhe.{room}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def _become(command: list[str], job: dict[str, object], stderr: Path) -> None:
    """In the fork: change to the command's folder and user, and run it."""
    if os.environ.get("CONDITION_KEEPS_STDERR") != "1":
        handle = os.open(stderr, os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(handle, 2)
        os.close(handle)
    os.chdir(str(job["cwd"]))
    if job["delete_cwd"]:
        gone = stderr.with_suffix(".cwd")
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
    if command[0] in _DAEMONS:
        signal.signal(signal.SIGALRM, lambda _number, _frame: os.kill(os.getpid(), signal.SIGTERM))
        signal.alarm(_RUN_S)
    else:
        signal.alarm(_LONGEST_S)
    sys.argv = command
    importlib.import_module(PROGRAMS[command[0]]).main()


def run(jobs: Path) -> None:
    job = json.loads(jobs.read_text())
    results = Path(job["results"])
    _import_everything()
    codes = []
    for number, command in enumerate(job["commands"]):
        child = os.fork()
        if child == 0:
            _become(command, job, results / f"{number}.err")  # ends by SystemExit, as Python ends
            raise SystemExit("main() came back")
        _, status = os.waitpid(child, 0)
        codes.append(os.waitstatus_to_exitcode(status))
    (results / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
