"""One thread that waits for everything: sockets, timers and a request to stop.

A turn is: wait (select) -> sockets that are ready -> timers that are due -> callbacks asked for with
`soon`. Exceptions of any callback leave `run`: a local fault ends the process with one clear line.
Hundreds of sessions share one loop; nothing in it blocks, except a look-up of a broker's name.
"""

import errno
import heapq
import itertools
import logging
import resource
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from gridhe.broker.client.stream import Address
from gridhe.errors import BrokerError

__all__ = ["EventLoop", "Member", "Timer"]

_LOG = logging.getLogger(__name__)
_WAIT_MAXIMUM_S = 3_600.0
_SPARE_FILES = 128  # files, databases and the interpreter's own beside one socket a session
_NAME_GOOD_S, _NAME_BAD_S = 60.0, 5.0  # how long a look-up of a name is believed


class Member(Protocol):
    """What `EventLoop.add` takes: a Session."""

    def attach(self, loop: "EventLoop") -> None: ...
    def detach(self) -> None: ...


class Timer:
    """A callback that waits for its time; `cancel()` is safe at any moment, also from within it."""

    __slots__ = ("_callback", "period_s")

    def __init__(self, callback: Callable[[], object], period_s: float | None) -> None:
        self._callback: Callable[[], object] | None = callback
        self.period_s = period_s

    def cancel(self) -> None:
        self._callback = None

    @property
    def cancelled(self) -> bool:
        return self._callback is None

    def fire(self) -> None:
        if self._callback is not None:
            self._callback()


class EventLoop:
    """The event loop of one thread. Only `stop` may be called from a signal handler or another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._soon: list[Callable[[], object]] = []
        self._members: list[Member] = []
        self._names: dict[tuple[str, int], tuple[float, list[Address] | OSError]] = {}
        self._stopping = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._drain_wake)

    # -- members -------------------------------------------------------------------------------

    def add(self, member: Member) -> None:
        """Let `member` live here: it starts connecting. Raises BrokerError: too few file descriptors."""
        self._allow_files(len(self._members) + 1 + _SPARE_FILES)
        self._members.append(member)
        member.attach(self)

    def remove(self, member: Member) -> None:
        """Forget `member`; its connection is dropped (use Session.close() for a clean goodbye)."""
        self._members.remove(member)
        member.detach()

    @staticmethod
    def _allow_files(needed: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= needed:
            return
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise BrokerError(
                f"{needed - _SPARE_FILES} connections need {needed} open files and {hard} are allowed; "
                "raise the hard limit (ulimit -Hn, LimitNOFILE=) or run fewer meters in one process"
            )
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(needed, 2 * soft) if hard >= 2 * soft else needed, hard)
        )

    # -- what members use ----------------------------------------------------------------------

    def watch(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Call `callback(ready_events)` whenever `fd` is ready for one of `events`; again: change it."""
        key = self._selector.get_map().get(fd)
        if key is None:
            self._selector.register(fd, events, callback)
        elif key.events != events or key.data != callback:
            self._selector.modify(fd, events, callback)

    def unwatch(self, fd: int) -> None:
        """Watch `fd` no longer; call it before closing `fd`."""
        if fd >= 0 and fd in self._selector.get_map():
            self._selector.unregister(fd)

    def soon(self, callback: Callable[[], object]) -> None:
        """Call once at the end of this turn, or of the next when asked for there."""
        self._soon.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call once, `seconds` from now."""
        return self._schedule(seconds, Timer(callback, None))

    def every(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call again and again, first in `seconds`; a late turn is not made up for by a burst."""
        if seconds <= 0:
            raise ValueError(f"a period must be above 0 s, not {seconds}")
        return self._schedule(seconds, Timer(callback, seconds))

    def _schedule(self, seconds: float, timer: Timer) -> Timer:
        heapq.heappush(self._timers, (self.clock() + max(0.0, seconds), next(self._order), timer))
        return timer

    def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses of `host`, remembered a minute (5 s if it failed): a fleet asks once. OSError."""
        now = self.clock()
        known = self._names.get((host, port))
        if known is None or known[0] <= now:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                answer: list[Address] | OSError = [
                    (int(family), address) for family, _, _, _, address in found
                ]
            except OSError as error:
                answer = error
            except UnicodeError:  # "a..b", or a label of more than 63 letters
                answer = OSError(errno.EINVAL, f"{host[:80]!r} is not a host name")
            kept_s = _NAME_BAD_S if isinstance(answer, OSError) else _NAME_GOOD_S
            known = (self.clock() + kept_s, answer)
            self._names[(host, port)] = known
        if isinstance(known[1], OSError):
            raise known[1]
        return known[1]

    # -- running -------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the running (or else the next) `run` or `run_until` after its turn. Signal- and thread-safe."""
        self._stopping = True
        self._wake()

    def run(self) -> None:
        """Turn until `stop`."""
        self.run_until(lambda: False, None)

    def run_until(self, predicate: Callable[[], bool], timeout_s: float | None) -> bool:
        """Turn until `predicate()` is true, `timeout_s` has passed (None: never) or `stop`: was it true?

        A `stop` ends only the call it meets, so a service can still flush with another one afterwards.
        """
        deadline = None if timeout_s is None else self.clock() + timeout_s
        with self._woken_by_signals():
            try:
                while True:
                    if predicate():
                        return True
                    if self._stopping:
                        return False
                    left = _WAIT_MAXIMUM_S if deadline is None else deadline - self.clock()
                    if left <= 0:
                        return False
                    self._turn(left)
            finally:
                self._stopping = False

    def close(self) -> None:
        """Drop every member and free the file descriptors. The loop cannot be used afterwards."""
        for member in self._members:
            member.detach()
        self._members.clear()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def __enter__(self) -> "EventLoop":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _turn(self, wait_s: float) -> None:
        if self._soon:
            wait_s = 0.0
        elif self._timers:
            wait_s = min(wait_s, max(0.0, self._timers[0][0] - self.clock()))
        for key, events in self._selector.select(wait_s):
            # An earlier callback of this turn may have closed this one's socket, and even reused its number.
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            due, _, timer = heapq.heappop(self._timers)
            if timer.cancelled:
                continue
            if timer.period_s is not None:
                again = due + timer.period_s if due + timer.period_s > now else now + timer.period_s
                heapq.heappush(self._timers, (again, next(self._order), timer))
            timer.fire()
        if self._soon:
            callbacks, self._soon = self._soon, []
            for callback in callbacks:
                callback()

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except BlockingIOError:
            return  # it is full, so a wake-up is already waiting

    def _drain_wake(self, _events: int) -> None:
        try:
            while self._wake_read.recv(4096):
                pass
        except BlockingIOError:
            return

    @contextmanager
    def _woken_by_signals(self) -> Iterator[None]:
        """Make signals end the wait: Python's handlers run only between byte codes, not inside epoll_wait."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
