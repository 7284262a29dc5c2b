"""The loop: timers, sockets, and stopping from anywhere."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from gridhe.broker.client.loop import EventLoop, PeriodicTimer
from gridhe.broker.client.session import Session
from gridhe.config.settings import BrokerSettings
from gridhe.errors import StateError


def test_timers_fire_in_the_order_of_their_times(loop: EventLoop) -> None:
    fired: list[str] = []
    loop.call_later(0.02, lambda: fired.append("second"))
    loop.call_later(0.0, lambda: fired.append("first"))
    assert loop.run_until(lambda: len(fired) == 2, 2.0)
    assert fired == ["first", "second"]


def test_a_cancelled_timer_never_fires(loop: EventLoop) -> None:
    fired: list[str] = []
    loop.call_later(0.0, lambda: fired.append("cancelled")).cancel()
    repeated = loop.every(0.001, lambda: (fired.append("tick"), repeated.cancel()))
    loop.call_later(0.05, lambda: fired.append("end"))
    assert loop.run_until(lambda: "end" in fired, 2.0)
    assert fired == ["tick", "end"]


def test_a_period_that_was_missed_is_not_made_up_for_by_a_burst() -> None:
    now = [0.0]
    with EventLoop() as loop:
        loop.asyncio.time = lambda: now[0]  # type: ignore[method-assign]
        times: list[float] = []
        loop.every(1.0, lambda: times.append(now[0]))
        turns: list[float] = []
        for now[0] in (1.0, 10.5, 10.6, 11.4, 11.5):
            loop.call_later(0.0, lambda: turns.append(now[0]))
            assert loop.run_until(lambda: turns[-1:] == [now[0]], None)
        assert times == [1.0, 10.5, 11.5]


def test_a_period_of_nothing_is_refused(loop: EventLoop) -> None:
    with pytest.raises(ValueError, match="above 0"):
        loop.every(0.0, lambda: None)


def test_run_until_ends_at_its_timeout_and_says_false(loop: EventLoop) -> None:
    begin = time.monotonic()
    assert not loop.run_until(lambda: False, 0.05)
    assert 0.05 <= time.monotonic() - begin < 2.0


def test_stop_in_a_signal_handler_ends_the_wait(loop: EventLoop) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: loop.stop())
    try:
        killer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        killer.start()
        begin = time.monotonic()
        loop.run()
        assert time.monotonic() - begin < 5.0
        killer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_stop_from_another_thread_ends_the_wait(loop: EventLoop) -> None:
    thread = threading.Timer(0.02, loop.stop)
    thread.start()
    assert not loop.run_until(lambda: False, 10.0)
    thread.join()


def test_a_stop_that_comes_early_ends_the_next_run_and_only_that(loop: EventLoop) -> None:
    loop.stop()
    loop.run()
    done: list[int] = []
    loop.call_later(0.0, lambda: done.append(1))
    assert loop.run_until(lambda: bool(done), 2.0)


def _every_kind(loop: EventLoop, fails: Callable[[], None]) -> dict[str, Callable[[], object]]:
    async def task() -> None:
        await asyncio.sleep(0)
        fails()

    def on_a_socket() -> None:
        read_fd, write_fd = os.pipe()
        os.write(write_fd, b"x")

        def on_ready() -> None:
            loop.remove_reader(read_fd)
            os.close(read_fd)
            os.close(write_fd)
            fails()

        loop.add_reader(read_fd, on_ready)

    def once_in_a_period() -> None:
        timer.cancel()  # on a slow machine it would fail a second time, after the test has seen the first
        fails()

    def periodic() -> None:
        nonlocal timer
        timer = loop.every(0.001, once_in_a_period)

    timer: PeriodicTimer
    return {
        "soon": lambda: loop.soon(fails),
        "timer": lambda: loop.call_later(0.0, fails),
        "periodic timer": periodic,
        "socket": on_a_socket,
        "task": lambda: loop.create_task(task()),
        "asyncio's own callback": lambda: loop.asyncio.call_soon(fails),
    }


@pytest.mark.parametrize(
    "kind", ["soon", "timer", "periodic timer", "socket", "task", "asyncio's own callback"]
)
def test_what_anything_on_the_loop_raises_leaves_run(loop: EventLoop, kind: str) -> None:
    later: list[str] = []

    def fails() -> None:
        loop.soon(lambda: later.append("soon"))
        loop.call_later(0.0, lambda: later.append("timer"))
        raise StateError("the disk is full")

    _every_kind(loop, fails)[kind]()
    with pytest.raises(StateError, match="disk is full"):
        loop.run_until(lambda: "timer" in later, 10.0)
    if kind != "task":  # a task's end is told a turn later
        assert later == [], "nothing may run on what a failure left half done"
    later.clear()
    assert loop.run_until(lambda: bool(later), 0.0) is False
    loop.call_later(0.0, lambda: later.append("flush"))
    assert loop.run_until(lambda: "flush" in later, 10.0), "the end of a service may still use the loop"


def test_what_was_asked_for_before_the_end_of_run_until_is_done_by_then(loop: EventLoop) -> None:
    done: list[str] = []
    loop.call_later(0.0, lambda: (loop.soon(lambda: done.append("write")), done.append("end")))
    assert loop.run_until(lambda: "end" in done, 10.0)
    assert done == ["end", "write"]


def test_the_end_of_a_task_is_seen_by_run_until(loop: EventLoop) -> None:
    async def work() -> int:
        await asyncio.sleep(0.01)
        return 7

    task = loop.create_task(work())
    assert loop.run_until(task.done, 10.0)
    assert task.result() == 7


def test_closing_cancels_tasks_and_waits_for_their_cleaning_up() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            cleaned.append("task")

    with EventLoop() as loop:
        loop.create_task(work())
        loop.every(0.001, lambda: cleaned.append("timer"))
        loop.run_until(lambda: "timer" in cleaned, 10.0)
        cleaned.clear()
    assert cleaned == ["task"]


def test_a_signal_ends_the_wait_and_its_handler_is_as_before(loop: EventLoop) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    heard: list[str] = []

    def on_signal() -> None:
        heard.append("signal")
        loop.stop()

    with loop.on_signals((signal.SIGUSR1,), on_signal):
        killer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        killer.start()
        assert not loop.run_until(lambda: False, 30.0)
        killer.join()
        os.kill(os.getpid(), signal.SIGUSR1)  # between two runs: it ends the next one
        begin = time.monotonic()
        assert not loop.run_until(lambda: False, 30.0)
        assert time.monotonic() - begin < 10.0
    assert heard == ["signal", "signal"]
    assert signal.getsignal(signal.SIGUSR1) is before


def test_ctrl_c_ends_the_wait(loop: EventLoop) -> None:
    killer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until(lambda: False, 30.0)
    killer.join()


def test_a_watched_socket_is_heard_until_it_is_watched_no_longer(loop: EventLoop) -> None:
    left, right = socket.socketpair()
    with left, right:
        heard: list[bytes] = []
        loop.add_reader(left.fileno(), lambda: heard.append(left.recv(10)))
        right.send(b"one")
        assert loop.run_until(lambda: heard == [b"one"], 2.0)
        loop.remove_reader(left.fileno())
        loop.remove_reader(left.fileno())
        right.send(b"two")
        assert not loop.run_until(lambda: len(heard) > 1, 0.05)


def test_a_socket_closed_by_an_earlier_callback_of_the_turn_is_not_called(loop: EventLoop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def on_ready(mine: int) -> None:
        called.append(mine)
        pairs[mine][0].recv(1)
        other = pairs[1 - mine][0]
        loop.remove_reader(other.fileno())
        other.close()

    for i, (near, far) in enumerate(pairs):
        loop.add_reader(near.fileno(), lambda i=i: on_ready(i))
        far.send(b"x")
    assert loop.run_until(lambda: bool(called), 2.0)
    assert len(called) == 1
    loop.remove_reader(pairs[called[0]][0].fileno())
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_a_name_is_looked_up_once_for_a_whole_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = socket.getaddrinfo

    def counting(host: str, *args: object, **options: object) -> object:
        asked.append(host)
        return real(host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", counting)
    now = [0.0]
    with EventLoop() as loop:
        monkeypatch.setattr(loop.asyncio, "time", lambda: now[0])

        def look_up(host: str) -> object:
            task = loop.create_task(_answer_of(loop, host))
            assert loop.run_until(task.done, None)
            return task.result()

        fleet = [loop.create_task(_answer_of(loop, "127.0.0.1")) for _ in range(100)]
        assert loop.run_until(lambda: all(task.done() for task in fleet), None)
        assert asked == ["127.0.0.1"]
        assert look_up("127.0.0.1") == [(socket.AF_INET, ("127.0.0.1", 1883))]
        for _ in range(2):
            assert "host name" in str(look_up("a..b"))
        assert asked == ["127.0.0.1", "a..b"]
        now[0] = 6.0
        look_up("a..b")
        look_up("127.0.0.1")
        assert asked == ["127.0.0.1", "a..b", "a..b"]
        now[0] = 61.0
        look_up("127.0.0.1")
        assert len(asked) == 4


async def _answer_of(loop: EventLoop, host: str) -> object:
    try:
        return await loop.resolver.resolve(host, 1883)
    except OSError as error:
        return error


def test_repro_a_name_server_that_does_not_answer_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = threading.Event(), threading.Event()

    def slow(*_args: object, **_options: object) -> object:
        asked.set()
        answers.wait(30.0)
        raise OSError("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    settings = BrokerSettings(url="mqtt://slow.example:1883", insecure=True, connect_timeout_s=0.05)
    begin = time.monotonic()
    with EventLoop() as loop:
        session = Session(settings=settings, client_id="m1", on_message=lambda _topic, _payload: None)
        loop.add(session)
        assert loop.run_until(lambda: session.last_error is not None, 10.0)
        assert "within 0.05 s" in str(session.last_error)
        assert asked.is_set()
    assert time.monotonic() - begin < 10.0
    answers.set()


_MANY = """
import resource, sys
from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Session
from gridhe.config.settings import BrokerSettings
from gridhe.errors import BrokerError
soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
loop = EventLoop()
settings = BrokerSettings(url="mqtt://127.0.0.1:1")
try:
    for i in range(300):
        loop.add(Session(settings=settings, client_id=f"m{i}", on_message=lambda t, p: None))
except BrokerError as error:
    print("refused:", error)
print("soft limit", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def _many(soft: int, hard: int) -> str:
    return subprocess.run(
        [sys.executable, "-c", _MANY, str(soft), str(hard)],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip


def test_a_low_soft_limit_of_open_files_is_raised() -> None:
    said = _many(150, 1000)
    assert "refused" not in said
    assert int(said.split()[-1]) >= 428


def test_a_low_hard_limit_of_open_files_is_refused_with_the_way_out() -> None:
    said = _many(150, 250)
    assert "refused:" in said
    assert "250 are allowed" in said
    assert "ulimit" in said


def test_repro_a_run_that_was_fulfilled_at_its_deadline_ended_the_next_run_at_once() -> None:
    done: list[bool] = []
    with EventLoop() as loop:

        def at_the_deadline() -> None:
            done.append(True)  # fulfils the predicate in the turn in which the deadline stops the run
            loop.asyncio.stop()

        loop.call_later(0.01, at_the_deadline)
        assert loop.run_until(lambda: bool(done), 5)
        later: list[bool] = []
        loop.call_later(0.2, lambda: later.append(True))
        assert loop.run_until(lambda: bool(later), 5)
