"""The event loop of one process: asyncio's, with rules for errors and signals.

- An exception in any callback, timer or task ends `run` with that exception. No other callback runs before,
  so none sees half-changed state: a local fault ends the process with one clear line.
- `stop` may be called from anywhere; `on_signals` calls it, or another callback, when a signal arrives.
- Coroutines run on the same loop, by `create_task`. Libraries may use the attribute `asyncio`, the loop
  itself; exceptions of callbacks that they schedule there end `run` too.

Hundreds of sessions share one loop. Nothing in it blocks; names are looked up in a thread.
"""

import asyncio
import logging
import resource
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from gridhe.broker.client.resolver import Resolver
from gridhe.errors import BrokerError

__all__ = ["EventLoop", "LoopMember", "PeriodicTimer"]

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_SPARE_FILES = 128  # descriptors for files, databases and the interpreter, besides one socket a session


class LoopMember(Protocol):
    """The interface of a Session for `EventLoop.add`."""

    def attach(self, loop: "EventLoop") -> None: ...
    def detach(self) -> None: ...


class PeriodicTimer:
    """A periodic callback; `cancel()` is safe at any time, also in the callback."""

    __slots__ = ("_callback", "_due", "_handle", "_loop", "_period_s")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, period_s: float, callback: Callable[[], object]
    ) -> None:
        self._loop, self._period_s, self._callback = loop, period_s, callback
        self._due = loop.time() + period_s
        self._handle = loop.call_at(self._due, self._fire)

    def cancel(self) -> None:
        self._handle.cancel()

    def _fire(self) -> None:
        now = self._loop.time()
        self._due += self._period_s
        if self._due <= now:  # missed calls are skipped
            self._due = now + self._period_s
        self._handle = self._loop.call_at(self._due, self._fire)
        self._callback()


class EventLoop:
    """The event loop of one thread. Only `stop` may be called from a signal handler or another thread."""

    def __init__(self) -> None:
        # The runner cancels the remaining tasks at close and waits for them.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.asyncio: asyncio.AbstractEventLoop = self._runner.get_loop()
        self.asyncio.set_exception_handler(self._on_exception)
        self.clock: Callable[[], float] = time.monotonic  # asyncio's own, without a call in between
        self.resolver = Resolver(self.asyncio)
        self._members: list[LoopMember] = []
        self._tasks: set[asyncio.Task[Any]] = set()  # asyncio has only weak references to tasks
        self._alive = True  # callbacks run; False from a failure until `run` raises it, and after close
        self._failure: BaseException | None = None
        self._stopping = False
        self._predicate: Callable[[], bool] | None = None
        self._fulfilled = False
        self._runs = 0  # calls of run_until that have turned

    # -- members -------------------------------------------------------------------------------

    def add(self, member: LoopMember) -> None:
        """Add `member`, which starts to connect. Raises BrokerError if too few descriptors are allowed."""
        self._allow_files(len(self._members) + 1 + _SPARE_FILES)
        self._members.append(member)
        member.attach(self)

    def remove(self, member: LoopMember) -> None:
        """Remove `member`; its connection is dropped without DISCONNECT (Session.close() sends it)."""
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

    # -- what members and owners use -----------------------------------------------------------

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        """Call `callback` whenever `fd` is readable, until `remove_reader(fd)`."""
        self.asyncio.add_reader(fd, self._call, callback)

    def remove_reader(self, fd: int) -> None:
        """Watch `fd` no longer; call it before closing `fd`."""
        if fd >= 0:
            self.asyncio.remove_reader(fd)

    def add_writer(self, fd: int, callback: Callable[[], object]) -> None:
        """Call `callback` whenever `fd` is writable, until `remove_writer(fd)`."""
        self.asyncio.add_writer(fd, self._call, callback)

    def remove_writer(self, fd: int) -> None:
        """Watch `fd` no longer; call it before closing `fd`."""
        if fd >= 0:
            self.asyncio.remove_writer(fd)

    def soon(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, in the next turn."""
        self.asyncio.call_soon(self._call, callback)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Call `callback` once, `seconds` from now."""
        return self.asyncio.call_later(max(0.0, seconds), self._call, callback)

    def every(self, seconds: float, callback: Callable[[], object]) -> PeriodicTimer:
        """Call `callback` every `seconds`, first after `seconds`; missed calls are skipped."""
        if seconds <= 0:
            raise ValueError(f"a period must be above 0 s, not {seconds}")
        return PeriodicTimer(self.asyncio, seconds, lambda: self._call(callback))

    def create_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine on this loop; its exception ends `run`."""
        task = self.asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    @contextmanager
    def on_signals(self, numbers: Sequence[int], callback: Callable[[], object]) -> Iterator[None]:
        """Call `callback` (usually `stop`) in the loop when one of these signals arrives.

        The previous handlers are restored at the end. Has no effect outside the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            self.asyncio.add_signal_handler(number, self._call, callback)
        try:
            yield
        finally:
            for number, handler in before.items():
                self.asyncio.remove_signal_handler(number)
                signal.signal(number, handler)

    # -- running -------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the running (else the next) `run` or `run_until` after its turn. Signal- and thread-safe."""
        self._stopping = True
        self.asyncio.call_soon_threadsafe(self._stop_if_asked)

    def run(self) -> None:
        """Run until `stop`."""
        self.run_until(lambda: False, None)

    def run_until(self, predicate: Callable[[], bool], timeout_s: float | None) -> bool:
        """Run until `predicate()` is true, `timeout_s` has passed (None: no limit) or `stop`.

        Returns whether the predicate was true. It is evaluated after every callback and every finished task.
        A `stop` ends only one call, so a service can call this again to flush.
        """
        try:
            self._raise_failure()
            if predicate():
                return True
            if self._stopping or (timeout_s is not None and timeout_s <= 0):
                return False
            self._predicate, self._fulfilled = predicate, False
            self._runs += 1
            deadline = None if timeout_s is None else self.asyncio.call_later(timeout_s, self.asyncio.stop)
            try:
                self.asyncio.run_forever()
            finally:
                self._predicate = None
                if deadline is not None:
                    deadline.cancel()
            self._raise_failure()
            return self._fulfilled or predicate()
        finally:
            self._stopping = False

    def close(self) -> None:
        """Drop every member, cancel every task and close the loop. It cannot be used afterwards."""
        for member in self._members:
            member.detach()
        self._members.clear()
        self._alive = False
        self._runner.close()

    def __enter__(self) -> "EventLoop":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- in the loop ---------------------------------------------------------------------------

    def _call(self, callback: Callable[[], object]) -> None:
        if self._alive:
            callback()
            if self._predicate is not None:
                self._evaluate(self._predicate)

    def _evaluate(self, predicate: Callable[[], bool]) -> None:
        if not self._fulfilled and predicate():
            self._fulfilled = True
            # After callbacks scheduled with `soon`, such as writes.
            self.asyncio.call_soon(self._end_run, self._runs)

    def _end_run(self, run: int) -> None:
        if run == self._runs:  # otherwise that run has ended already, at its deadline
            self.asyncio.stop()

    def _stop_if_asked(self) -> None:
        if self._stopping:  # False if an earlier run has ended with this `stop`
            self.asyncio.stop()

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)
        elif self._alive and self._predicate is not None:
            self._evaluate(self._predicate)

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:  # a warning without an exception
            _LOG.warning("%s", context["message"])
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None and self._alive:
            self._failure, self._alive = error, False
            self.asyncio.stop()
        else:
            _LOG.warning("also, while stopping: %s: %s", type(error).__name__, error)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            self._alive = True
            raise failure
