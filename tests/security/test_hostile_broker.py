"""A broker that lies: whatever bytes it sends, a client loses the connection at most, and comes back."""

import random
import socket
import struct
from collections.abc import Iterator

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Session
from gridhe.config.settings import BrokerSettings

CONNACK_5 = bytes([0x20, 3, 0, 0, 0])
SOUND = bytes([0x30, 13]) + b"\x00\x06honest\x00load"  # MQTT 5: topic, no properties, payload


def packet(kind: int, body: bytes) -> bytes:
    size, length = len(body), b""
    while True:
        size, low = size >> 7, size & 0x7F
        length += bytes([low | (0x80 if size else 0)])
        if not size:
            return bytes([kind]) + length + body


def hostile(rng: random.Random) -> bytes:
    """What follows the CONNACK: packets with something wrong, or noise."""
    topic = struct.pack(">H", 5) + b"topic"
    cases = [
        rng.randbytes(rng.randint(1, 60)),
        packet(0x30, b""),
        packet(0x30, b"\x00"),
        packet(0x30, b"\xff\xff" + b"t" * 10),  # a topic longer than the packet
        packet(0x30, b"\x00\x00\x00payload"),  # no topic
        packet(0x32, topic),  # QoS 1 without an id
        packet(0x32, topic + b"\x00\x01"),  # and without properties
        packet(0x30, topic + b"\xff\xff\xff\xff\x7f"),  # a number of five bytes
        packet(0x30, topic + b"\x7f" + b"x"),  # properties beyond the end
        packet(0x34, topic + b"\x00\x01\x00x"),  # QoS 2
        packet(0x36, topic + b"\x00\x01\x00x"),  # QoS 3, which there is not
        packet(0x30, struct.pack(">H", 2) + b"\xff\xfe" + b"\x00x"),  # a topic that is no UTF-8
        b"\x30\xff\xff\xff\xff\x7f",  # a length that never ends
        packet(0x40, b""),
        packet(0x40, b"\x00"),
        packet(0x40, b"\x00\x07\x87"),  # an acknowledgement of nothing
        packet(0x90, rng.randbytes(rng.randint(0, 6))),
        packet(0x20, rng.randbytes(rng.randint(0, 6))),
        packet(0xE0, rng.randbytes(rng.randint(0, 4))),
        packet(0xF0, rng.randbytes(rng.randint(0, 4))),
        packet(rng.randrange(256), rng.randbytes(rng.randint(0, 30))),
    ]
    return b"".join(rng.choice(cases) for _ in range(rng.randint(1, 3)))


@pytest.fixture
def liar() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("seed", range(4))
def test_no_bytes_from_a_broker_end_a_client(liar: socket.socket, seed: int) -> None:
    rng = random.Random(seed)
    heard: list[str] = []
    came = 0
    with EventLoop() as loop:
        session = Session(
            settings=BrokerSettings(
                url=f"mqtt://127.0.0.1:{liar.getsockname()[1]}", reconnect_min_s=0.001, reconnect_max_s=0.01
            ),
            client_id="m1",
            on_message=lambda topic, _: heard.append(topic),
            subscriptions=["topic"],
        )
        peers: list[socket.socket] = []

        def welcome() -> None:
            """Accept, say yes, then something hostile; the last one is honest."""
            nonlocal came
            try:
                peer, _ = liar.accept()
            except BlockingIOError:
                return
            came += 1
            peers.append(peer)
            peer.sendall(CONNACK_5 + (hostile(rng) if came <= 150 else SOUND))
            if came <= 150:
                peer.shutdown(socket.SHUT_WR)

        loop.every(0.001, welcome)
        loop.add(session)
        assert loop.run_until(lambda: "honest" in heard, 60), (came, session.last_error)
        for peer in peers:
            peer.close()
