"""Simulated meters with P1 ports: each writes a telegram a second to a pseudo-terminal, in real time.

A meter's register is a function of (seed, meter, second), so the demo knows the right reading of each
interval without asking the meter's process.
"""

import contextlib
import fcntl
import os
import struct
import termios
import threading
import time
import tty
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gridhe.demo.proof import Plaintext
from gridhe.demo.telegrams import LAYOUTS, MeterState
from gridhe.demo.workload import Workload

__all__ = ["SimulatedMeters"]

_LONGEST_S = 3_600  # a demo is shorter; registers stand still afterwards
_UNREAD_MAX = 2_048  # bytes: nobody reads the port, so older telegrams are dropped, as a UART drops them
_CHANGE_S = 7  # a household's power changes this often


class SimulatedMeters:
    """`count` meters from the present second on. Use it as a context manager."""

    def __init__(self, count: int, *, seed: int) -> None:
        """Opens the pseudo-terminals."""
        self._begun_s = int(time.time())
        rng = np.random.default_rng(seed)
        changes = rng.integers(200, 9_000, (count, _LONGEST_S // _CHANGE_S + 1))
        self._power_w = np.repeat(changes, _CHANGE_S, axis=1)
        first_wh = rng.integers(1_000_000, 30_000_000, count)
        # Rounded down to Wh only here, as a meter's display does.
        self._import_wh = first_wh[:, None] + np.cumsum(self._power_w, axis=1) // 3_600
        self._lines = [os.openpty() for _ in range(count)]  # (the meter's end, the cable's end)
        for master, slave in self._lines:
            tty.setraw(slave)
            os.set_blocking(master, False)
        self.ports = tuple(Path(os.ttyname(slave)) for _, slave in self._lines)
        self._written = [0] * count
        self._read_s: list[float | None] = [None] * count  # when somebody had read everything, first
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="simulated meters", daemon=True)

    def register_wh(self, meter: int, at_s: int) -> int:
        """The import register of meter number `meter` at a second (UTC epoch), in whole Wh."""
        return int(self._import_wh[meter, min(max(0, at_s - self._begun_s), _LONGEST_S)])

    @property
    def all_read(self) -> bool:
        """Whether every port has a reader."""
        return all(moment is not None for moment in self._read_s)

    def plaintext(self, workload: Workload) -> Plaintext:
        """The right reading of each interval: the register's difference."""
        starts = range(workload.start_s, workload.end_s + 1, workload.interval_s)
        registers: NDArray[np.int64] = np.array(
            [[self.register_wh(meter, at_s) for meter in range(len(self.ports))] for at_s in starts], np.int64
        )
        readings = np.diff(registers, axis=0)
        return Plaintext(
            readings=readings, present=np.ones(readings.shape, np.bool_), counts={"good": readings.size}
        )

    # -- the thread ----------------------------------------------------------------------------

    def _write_on(self) -> None:
        at_s = int(time.time()) + 1
        while not self._ended.wait(max(0.0, at_s - time.time())):
            for meter in range(len(self._lines)):
                self._write(meter, at_s)
            at_s = max(at_s + 1, int(time.time()))

    def _write(self, meter: int, at_s: int) -> None:
        master, slave = self._lines[meter]
        unread = _unread(slave)
        if self._written[meter] and not unread and self._read_s[meter] is None:
            self._read_s[meter] = time.monotonic()
        if unread > _UNREAD_MAX:
            termios.tcflush(slave, termios.TCIFLUSH)
        state = MeterState(
            at_s=at_s,
            serial=meter + 1,
            import_wh=self.register_wh(meter, at_s),
            export_wh=0,
            power_w=int(self._power_w[meter, min(at_s - self._begun_s, _LONGEST_S)]),
        )
        with contextlib.suppress(BlockingIOError):
            self._written[meter] += os.write(master, LAYOUTS[meter % len(LAYOUTS)].write(state))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        for line in self._lines:
            for end in line:
                os.close(end)


def _unread(slave: int) -> int:
    """The number of bytes that the cable's end holds."""
    count: int = struct.unpack("i", fcntl.ioctl(slave, termios.FIONREAD, b"\0" * 4))[0]
    return count
