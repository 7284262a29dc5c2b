"""The number of messages per second that a consumer processes while a publisher always has more.

The publisher is a separate process and is at most `window` messages ahead of the messages that the consumer
has processed. So the broker always has messages for the consumer, and never drops any. A counter process
prints one character for each processed message.

The rate is the slope of the count from 20% to 98% of the messages, so that a consumer that answers in bursts
(an aggregator, after each commit) is measured as fairly as one that does not.
"""

import contextlib
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import psutil
from numpy.typing import NDArray

from gridhe.base.processes import python_command, start_process, stop_process
from gridhe.bench.messages import put
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.errors import GridHEError

__all__ = [
    "Rate",
    "StreamFailed",
    "counting",
    "measure_rate",
    "mosquitto_sub",
    "process",
    "slope",
    "wait_for_line",
    "wait_until_counting",
]

_STALLED_S = 60.0
_PROBE, _PROBE_S = "gridhe-bench/probe", 0.3
_FROM_SHARE, _TO_SHARE = 0.2, 0.98


class StreamFailed(GridHEError):
    """A process of a throughput measurement has ended, or makes no progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The throughput of a consumer."""

    per_s: float  # messages per second, in the steady part
    whole_s: float  # from the first published to the last processed message
    cpu_us: float  # the watched process's processor time for each message


@contextlib.contextmanager
def process(arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child with pipes for stdin and stdout and its stderr in `log`; stop it at the end."""
    with log.open("ab") as errors:
        child = start_process(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
        )
    try:
        yield child
    finally:
        stop_process(child)
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def mosquitto_sub() -> str | None:
    """The path of mosquitto_sub, None if it is not installed."""
    return shutil.which("mosquitto_sub")


def counting(broker: EmbeddedBroker, topic_filter: str, *, bare_paho: bool) -> list[str]:
    """The command that prints a character for each message on these topics."""
    program = mosquitto_sub()
    if bare_paho or program is None:
        return python_command("gridhe.bench.listener", str(broker.port), topic_filter, _PROBE)
    return [
        program, "-h", "127.0.0.1", "-p", str(broker.port), "-V", "5", "-q", "1",
        "-t", topic_filter, "-t", _PROBE, "-N", "-F", ".",
    ]  # fmt: skip


def wait_until_counting(counter: subprocess.Popen[bytes], broker: EmbeddedBroker) -> None:
    """Return when the counter is subscribed and has counted all probes. Raises StreamFailed."""
    output = _pipe(counter.stdout)
    deadline = time.monotonic() + _STALLED_S
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        counted = False
        while time.monotonic() < deadline:
            if selector.select(_PROBE_S):
                counted = True
                if not os.read(output.fileno(), 65_536):
                    break
            elif counted:
                return
            else:
                put(broker.port, [(_PROBE, b"?")])
    raise StreamFailed("a counter of messages did not start")


def wait_for_line(child: subprocess.Popen[bytes], line: bytes) -> None:
    """Return when the child has printed this line. Raises StreamFailed if it prints another."""
    printed = _pipe(child.stdout).readline()
    if printed.strip() != line:
        raise StreamFailed(f"a child of the bench printed {printed!r} instead of {line!r}")


def measure_rate(
    feed: subprocess.Popen[bytes],
    counter: subprocess.Popen[bytes],
    *,
    total: int,
    window: int,
    watched_pid: int,
) -> Rate:
    """Let `feed` publish `total` messages, at most `window` ahead of `counter`. Raises StreamFailed."""
    credit, output = _pipe(feed.stdin), _pipe(counter.stdout)
    done, allowed = 0, 0
    times, counts = [], []
    cpu_s = _cpu_s(watched_pid)
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        started = time.monotonic()
        while done < total:
            if allowed < min(total, done + window):
                allowed = min(total, done + window)
                credit.write(b"%d\n" % allowed)
            if not selector.select(_STALLED_S):
                raise StreamFailed(f"only {done} of {total} messages were processed, then none for too long")
            read = os.read(output.fileno(), 65_536)
            if not read:
                raise StreamFailed(f"the counter ended after {done} of {total} messages")
            done += read.count(b".")
            times.append(time.monotonic() - started)
            counts.append(done)
    return Rate(
        per_s=slope(np.array(times), np.array(counts), total),
        whole_s=times[-1],
        cpu_us=(_cpu_s(watched_pid) - cpu_s) / total * 1e6,
    )


def slope(times: NDArray[np.float64], counts: NDArray[np.int64], total: int) -> float:
    """Messages per second in the steady part: `counts[i]` were processed after `times[i]` seconds."""
    steady = (counts >= _FROM_SHARE * total) & (counts <= _TO_SHARE * total)
    if steady.sum() < 2 or times[steady][-1] == times[steady][0]:
        return float(total / times[-1])
    # Sample evenly in time, so that bursts of reads do not weigh more than the pauses between them.
    at = np.linspace(times[steady][0], times[steady][-1], 512)
    level = counts[np.searchsorted(times, at, side="right") - 1]
    return float(np.polyfit(at, level, 1)[0])


def _pipe(pipe: "IO[bytes] | None") -> "IO[bytes]":
    if pipe is None:
        raise StreamFailed("a child of the bench was started without pipes")
    return pipe


def _cpu_s(pid: int) -> float:
    """Processor seconds that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
