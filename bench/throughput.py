"""How many messages a second a consumer keeps up with, while a publisher always has more for it.

The publisher is a process of its own and may be at most `window` messages ahead of what the consumer
has been seen to have dealt with, so the broker always owes the consumer some and never drops any.
What has been dealt with is seen from outside: a counter process prints one character for each.

The rate is the slope of the count between a fifth and all but the last of the messages: a consumer
that answers in bursts (an aggregator, after each commit) is judged as fairly as one that does not.
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
    """A process of a throughput measurement has ended, or nothing moves any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a consumer carried."""

    per_s: float  # messages a second, in the steady part
    whole_s: float  # from the first message published to the last one dealt with
    cpu_us: float  # the watched process's processor time for each message


@contextlib.contextmanager
def process(arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child with pipes at stdin and stdout, its stderr in `log`; ended on leaving."""
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
    """The program, if there is one here."""
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
    """Return once the counter is subscribed: it has counted a probe, and all of them. Raises StreamFailed."""
    news = _pipe(counter.stdout)
    deadline = time.monotonic() + _STALLED_S
    with selectors.DefaultSelector() as selector:
        selector.register(news, selectors.EVENT_READ)
        heard = False
        while time.monotonic() < deadline:
            if selector.select(_PROBE_S):
                heard = True
                if not os.read(news.fileno(), 65_536):
                    break
            elif heard:
                return
            else:
                put(broker.port, [(_PROBE, b"?")])
    raise StreamFailed("a counter of messages did not start")


def wait_for_line(child: subprocess.Popen[bytes], line: bytes) -> None:
    """Return once the child has printed this line. Raises StreamFailed."""
    said = _pipe(child.stdout).readline()
    if said.strip() != line:
        raise StreamFailed(f"a child of the bench said {said!r} in place of {line!r}")


def measure_rate(
    feed: subprocess.Popen[bytes],
    counter: subprocess.Popen[bytes],
    *,
    total: int,
    window: int,
    watched_pid: int,
) -> Rate:
    """Let `feed` publish `total` messages, `window` ahead of what `counter` tells. Raises StreamFailed."""
    credit, news = _pipe(feed.stdin), _pipe(counter.stdout)
    done, allowed = 0, 0
    times, counts = [], []
    cpu_s = _cpu_s(watched_pid)
    with selectors.DefaultSelector() as selector:
        selector.register(news, selectors.EVENT_READ)
        started = time.monotonic()
        while done < total:
            if allowed < min(total, done + window):
                allowed = min(total, done + window)
                credit.write(b"%d\n" % allowed)
            if not selector.select(_STALLED_S):
                raise StreamFailed(f"only {done} of {total} messages were dealt with, then nothing moved")
            read = os.read(news.fileno(), 65_536)
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
    """Messages a second in the steady part: `counts[i]` were dealt with at `times[i]` seconds."""
    steady = (counts >= _FROM_SHARE * total) & (counts <= _TO_SHARE * total)
    if steady.sum() < 2 or times[steady][-1] == times[steady][0]:
        return float(total / times[-1])
    # Evenly in time: bursts of many reads must not weigh more than the quiet between them.
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
