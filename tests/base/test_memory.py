"""Freed memory goes back to the operating system."""

import platform
import subprocess
import sys

import pytest

CODE = """
from pathlib import Path
from gridhe.base.memory import release_memory

def resident_kb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4

kept = [bytes(1_000) for _ in range(50_000)]
last = bytes(1_000)  # above the others: glibc keeps the heap below it
del kept
before = resident_kb()
assert release_memory()
print(before - resident_kb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_pages_that_were_freed_below_a_used_one_are_returned() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) > 20_000
