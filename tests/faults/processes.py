"""Memory and file descriptors of a process, from /proc."""

import os
from pathlib import Path

__all__ = ["open_files", "resident_mb"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb(pid: int) -> float:
    """Resident memory in MB; 0.0 if the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6
    except (OSError, IndexError):
        return 0.0


def open_files(pid: int) -> int:
    """Number of file descriptors; 0 if the process has ended."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0
