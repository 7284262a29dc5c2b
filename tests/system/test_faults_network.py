"""Bad networks and absent aggregators, small."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from faults.command import run_case
from faults.options import Options
from faults.proxy import Proxy

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=_answer, args=(client,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def _answer(client: socket.socket) -> None:
    with client:
        try:
            while data := client.recv(4096):
                client.sendall(data)
        except OSError:
            return


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def test_the_proxy_forwards_cuts_and_comes_back(echo: int) -> None:
    with Proxy(echo) as proxy:
        with _connect(proxy) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            proxy.cut()
            assert _broken(client)
        with pytest.raises(ConnectionRefusedError):
            _connect(proxy)
        proxy.restore()
        with _connect(proxy) as client:
            client.sendall(b"again")
            assert client.recv(5) == b"again"


def _broken(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except OSError:
        return True


def test_a_half_open_connection_is_silent_and_then_goes_on(echo: int) -> None:
    with Proxy(echo) as proxy, _connect(proxy) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        proxy.silent = True
        client.sendall(b"b")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.silent = False
        client.settimeout(10)
        assert client.recv(1) == b"b"


def test_latency_and_drip_slow_every_byte(echo: int) -> None:
    with Proxy(echo) as proxy, _connect(proxy) as client:
        proxy.latency_s = 0.2
        begun = time.monotonic()
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert time.monotonic() - begun >= 0.4  # there and back
        proxy.latency_s, proxy.bytes_per_s, proxy.chunk = 0.0, 1_000.0, 50
        begun = time.monotonic()
        client.sendall(b"y" * 200)
        got = b""
        while len(got) < 200:
            got += client.recv(200)
        assert time.monotonic() - begun >= 0.15  # the last of four pieces goes at once


@pytest.mark.usefixtures("mosquitto")
def test_cuts_resets_silence_and_chunks_leave_totals_exact_and_all_reconnect_in_10_s() -> None:
    outcome = run_case("network", Options(seed=1, batches=1_000, scale=0.5))
    assert outcome.passed, outcome.line() + "".join(f"\n{fault}" for fault in outcome.faults)


@pytest.mark.usefixtures("mosquitto")
def test_an_aggregator_that_is_frozen_and_then_away_finds_everything_in_the_outboxes() -> None:
    outcome = run_case("slow-aggregator", Options(seed=1, batches=1_200, scale=0.3))
    assert outcome.passed, outcome.line() + "".join(f"\n{fault}" for fault in outcome.faults)


@pytest.mark.usefixtures("mosquitto")
def test_agents_that_were_cut_off_at_once_come_back_spread_out() -> None:
    outcome = run_case("reconnect-storm", Options(seed=1, scale=0.1))
    assert outcome.passed, outcome.line() + "".join(f"\n{fault}" for fault in outcome.faults)
