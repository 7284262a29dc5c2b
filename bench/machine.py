"""The machine of a run, described in one line."""

import importlib.metadata
import os
import platform
import re
import socket
from pathlib import Path

__all__ = ["describe_machine", "host_name", "own_memory_mb"]

_LIBRARIES = ("numpy", "tenseal", "msgpack", "paho-mqtt")


def host_name() -> str:
    """The machine's name, usable as a tag. GRIDHE_BENCH_HOST overrides it (build machines change names)."""
    name = os.environ.get("GRIDHE_BENCH_HOST") or socket.gethostname().partition(".")[0]
    return re.sub(r"[^a-z0-9_-]", "-", name.lower())[:63] or "unnamed"


def describe_machine() -> str:
    """Processor, cores, memory, system, Python, and versions of the libraries."""
    libraries = ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES)
    return (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {_memory_gb():.0f} GB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {libraries}"
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model.group(1).strip() if model else platform.machine()


def _memory_gb() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2**30


def own_memory_mb(line: str) -> float:
    """This process's memory in MB: `VmRSS` is the resident memory, `VmHWM` its peak.

    (The peak of getrusage can include that of the parent process.)
    """
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition(f"{line}:")[2].split()[0]) / 2**10
