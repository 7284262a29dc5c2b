"""Replaying 10^4 to 10^6 distinct meters: cost per batch and memory must not grow with their number.

The engine is driven directly, in a process of its own for each number of meters, with a commit every so
many batches; meters are re-tagged ciphertexts out of a small pool. The time to make envelopes is not
counted. Memory is what the process holds beyond what it held after the first commit.
"""

import json
import subprocess
import sys

from gridhe.bench.recorder import Setup
from gridhe.bench.throughput import StreamFailed

__all__ = ["ABOUT", "NAME", "run"]

NAME = "scale"
ABOUT = "10^4 to 10^6 distinct meters: cost per batch and memory stay flat"

_GROUPS = 100  # of 10^4 meters at most: what the smallest ring sums exactly
_WINDOW_S = 900


def run(setup: Setup) -> None:
    """Measure; --quick stops at 10^4."""
    cases = ((24, 10_000),) if setup.quick else ((24, 10_000), (24, 100_000), (24, 1_000_000), (96, 100_000))
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
    found = json.loads(done.stdout)
    add, case, preset = setup.recorder.add, f"{meters} meters", found["preset"]
    add(NAME, case, "time per batch", found["batch_us"], "us", preset=preset)
    add(NAME, case, "memory grown", found["grown_mb"], "MB", preset=preset)
    add(NAME, case, "resident", found["resident_mb"], "MB", preset=preset, better="neither")
    add(NAME, case, "peak", found["peak_mb"], "MB", preset=preset, better="neither")
    add(NAME, case, "state on disk", found["disk_mb"], "MB", preset=preset, better="neither")
    carried = _WINDOW_S / (found["whole_s"] / meters)
    add(NAME, case, "carried in 15 minutes", carried, "batches", preset=preset, better="higher")
