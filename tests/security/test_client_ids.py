"""A client id belongs to its user: nobody throws another off the broker by taking its id."""

import os
import pwd
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gridhe.broker.server.mosquitto_config import write_server_files
from gridhe.config.settings import BrokerSettings
from gridhe.wire.roster import RosterEntry
from gridhe_testing.commands import free_port, wait_for

USERS = {"m1": "one", "m2": "two", "fleet": "three", "authority": "four"}
ENTRIES = (RosterEntry("m1", "north"), RosterEntry("m2", "north"))


@contextmanager
def connected(port: int, client_id: str, user: str) -> Iterator[socket.socket]:
    """A bare MQTT 3.1.1 connection, accepted."""
    texts = (client_id, user, USERS[user])
    fields = b"".join(struct.pack(">H", len(text)) + text.encode() for text in texts)
    body = b"\0\4MQTT" + bytes([4, 0xC2]) + struct.pack(">H", 60) + fields
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(bytes([0x10, len(body)]) + body)
        assert sock.recv(4) == b"\x20\x02\x00\x00"
        yield sock


def alive(sock: socket.socket) -> bool:
    """Whether the broker still answers a PINGREQ."""
    try:
        sock.sendall(b"\xc0\x00")
        return sock.recv(2) == b"\xd0\x00"
    except ConnectionError:
        return False


@pytest.mark.parametrize("fleet", [False, True])
def test_only_fleets_share_a_user_and_so_need_ids_of_their_own(
    tmp_path: Path, mosquitto: Path, fleet: bool
) -> None:
    port = free_port()
    conf = write_server_files(
        tmp_path / "server",
        settings=BrokerSettings(),
        passwords=USERS,
        entries=ENTRIES,
        fleets={"fleet": ["m1", "m2"]} if fleet else None,
        largest_payload=1_000,
        port=port,
        bind="127.0.0.1",
        owner=pwd.getpwuid(os.geteuid()).pw_name,
    )
    process = subprocess.Popen([str(mosquitto), "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        with connected(port, "m1", "m1") as victim:
            assert alive(victim)
            with connected(port, "m1", "m2"):
                # The control: without the binding, m2's password is enough to throw m1 off.
                assert alive(victim) is not fleet
    finally:
        process.terminate()
        process.wait(10)
