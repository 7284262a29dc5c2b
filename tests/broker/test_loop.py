"""The loop: timers, sockets, and stopping from anywhere."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from gridhe.broker.client.loop import EventLoop


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
    with EventLoop(clock=lambda: now[0]) as loop:
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


def test_what_a_callback_raises_leaves_run(loop: EventLoop) -> None:
    def fails() -> None:
        raise RuntimeError("the disk is full")

    loop.call_later(0.0, fails)
    with pytest.raises(RuntimeError, match="disk is full"):
        loop.run()


def test_a_watched_socket_is_heard_until_it_is_watched_no_longer(loop: EventLoop) -> None:
    left, right = socket.socketpair()
    with left, right:
        heard: list[bytes] = []
        loop.watch(left.fileno(), 1, lambda _events: heard.append(left.recv(10)))
        right.send(b"one")
        assert loop.run_until(lambda: heard == [b"one"], 2.0)
        loop.unwatch(left.fileno())
        loop.unwatch(left.fileno())
        right.send(b"two")
        assert not loop.run_until(lambda: len(heard) > 1, 0.05)


def test_a_socket_closed_by_an_earlier_callback_of_the_turn_is_not_called(loop: EventLoop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def on_ready(mine: int) -> None:
        called.append(mine)
        other = pairs[1 - mine][0]
        loop.unwatch(other.fileno())
        other.close()

    for i, (near, far) in enumerate(pairs):
        loop.watch(near.fileno(), 1, lambda _events, i=i: on_ready(i))
        far.send(b"x")
    assert loop.run_until(lambda: bool(called), 2.0)
    assert len(called) == 1
    loop.unwatch(pairs[called[0]][0].fileno())
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
    with EventLoop(clock=lambda: now[0]) as loop:
        assert loop.resolve("127.0.0.1", 1883) == loop.resolve("127.0.0.1", 1883)
        assert asked == ["127.0.0.1"]
        for _ in range(2):
            with pytest.raises(OSError, match="host name"):
                loop.resolve("a..b", 1883)
        assert asked == ["127.0.0.1", "a..b"]
        now[0] = 61.0
        loop.resolve("127.0.0.1", 1883)
        assert len(asked) == 3


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
