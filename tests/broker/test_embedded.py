"""The broker of our own: it starts, dies, comes back on its port, and never outlives its parent."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gridhe.broker.client.url import BrokerUrl
from gridhe.broker.server import embedded
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.errors import BrokerError, ConfigError


def _accepts(url: str) -> bool:
    where = BrokerUrl.parse(url)
    try:
        socket.create_connection((where.host, where.port), timeout=2.0).close()
    except OSError:
        return False
    return True


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_it_listens_on_loopback_once_started(any_broker: EmbeddedBroker) -> None:
    assert any_broker.url.startswith("mqtt://127.0.0.1:")
    assert _accepts(any_broker.url)
    listening = [
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == any_broker.port
    ]
    assert listening == [f"0100007F:{any_broker.port:04X}"]


def test_after_a_kill_it_comes_back_on_the_same_port(any_broker: EmbeddedBroker) -> None:
    url, pid = any_broker.url, any_broker.pid
    any_broker.kill()
    assert any_broker.pid is None
    assert not _accepts(url)
    any_broker.restart()
    assert any_broker.url == url
    assert any_broker.pid not in (None, pid)
    assert _accepts(url)


def test_stopping_twice_and_starting_twice_is_fine(any_broker: EmbeddedBroker) -> None:
    pid = any_broker.pid
    assert any_broker.start().pid == pid
    any_broker.stop()
    any_broker.stop()
    any_broker.kill()
    assert not _accepts(any_broker.url)


def test_its_files_are_nobody_elses(any_broker: EmbeddedBroker) -> None:
    assert any_broker.directory.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in any_broker.directory.iterdir())


_PARENT = """
import sys, time
from pathlib import Path
from gridhe.broker.server.embedded import EmbeddedBroker
broker = EmbeddedBroker(Path(sys.argv[1]), prefer=sys.argv[2]).start()
print(broker.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children only on Linux")
@pytest.mark.parametrize("kind", ["mosquitto", "iotcore"])
def test_it_ends_with_a_parent_that_was_killed(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "mosquitto":
        request.getfixturevalue("mosquitto")
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path / "b"), kind], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert _alive(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)  # it is nobody's child now, so there is no event to wait for
    assert not _alive(pid)


def test_a_port_in_use_is_reported_with_the_brokers_own_message(tmp_path: Path, mosquitto: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "b", prefer="mosquitto").start()
    broker.stop()
    with socket.create_server(("127.0.0.1", broker.port)), pytest.raises(BrokerError, match="in use"):
        broker.start(timeout_s=5.0)
    assert broker.pid is None


def test_sessions_and_retained_messages_stay_with_persistence(tmp_path: Path, mosquitto: Path) -> None:
    with EmbeddedBroker(tmp_path / "b", prefer="mosquitto", persistence=True) as broker:
        broker.stop()
        assert (broker.directory / "data" / "mosquitto.db").exists()


def test_without_any_broker_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.shutil, "which", lambda _name, path: None)
    assert embedded.available() == ("iotcore",)
    assert EmbeddedBroker(tmp_path).kind == "iotcore"
    with pytest.raises(BrokerError, match=r"mosquitto not found.*apt install mosquitto"):
        EmbeddedBroker(tmp_path, prefer="mosquitto")
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(BrokerError, match=r"apt install mosquitto.*pip install 'gridhe\[demo\]'"):
        EmbeddedBroker(tmp_path)


def test_an_acl_without_users_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="protects nothing"):
        EmbeddedBroker(tmp_path, acl="user m1\n")


def test_there_is_no_address_before_it_has_started(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="not been started"):
        EmbeddedBroker(tmp_path).url  # noqa: B018 - reading it is the test
