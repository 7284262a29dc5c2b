"""Replaying 10^4 to 10^6 distinct meters: cost per batch and memory must not grow with their number.

The suite calls the engine directly, in a new process for each number of meters, with a commit after every
2,500 batches. Meters share a small pool of ciphertexts, each sealed in an envelope of its own. The time to
make envelopes is not counted. "Memory grown" is the growth of resident memory after the first commit.
"""

import json
import subprocess
import sys

from gridhe.bench.recorder import Setup
from gridhe.bench.throughput import StreamFailed

__all__ = ["ABOUT", "NAME", "run"]

NAME = "scale"
ABOUT = "10^4 to 10^6 distinct meters: cost per batch and memory stay flat"

_GROUPS = 100  # a group has at most 10^4 meters
_WINDOW_S = 900


def run(setup: Setup) -> None:
    """Measure every number of meters; --quick stops at 10^4."""
    cases = ((64, 10_000),) if setup.quick else ((64, 10_000), (64, 100_000), (64, 1_000_000), (96, 100_000))
    setup.progress.suite(NAME, len(cases))
    for kilobytes, meters in cases:
        with setup.progress.case(f"{meters:,} meters, {kilobytes} KB"):
            _measure(setup, kilobytes, meters)


def _measure(setup: Setup, kilobytes: int, meters: int) -> None:
    state = setup.subfolder("scale")
    command = [
        sys.executable, "-P", "-m", "gridhe.bench.replay", str(state), str(kilobytes), str(meters),
        str(_GROUPS), str(setup.seed),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1_800)  # noqa: S603
    if done.returncode:
        raise StreamFailed(f"the replay of {meters} meters failed: {done.stderr[-500:]}")
    results = json.loads(done.stdout)
    add, case, preset = setup.recorder.add, f"{meters} meters", results["preset"]
    add(NAME, case, "time per batch", results["batch_us"], "us", preset=preset)
    add(NAME, case, "memory grown", results["grown_mb"], "MB", preset=preset)
    add(NAME, case, "resident", results["resident_mb"], "MB", preset=preset, better="neither")
    add(NAME, case, "peak", results["peak_mb"], "MB", preset=preset, better="neither")
    add(NAME, case, "state on disk", results["disk_mb"], "MB", preset=preset, better="neither")
    carried = _WINDOW_S / (results["whole_s"] / meters)
    add(NAME, case, "carried in 15 minutes", carried, "batches", preset=preset, better="higher")
