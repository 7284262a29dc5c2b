"""A process that seals and publishes batches as fast as the broker takes them, at QoS 1.

`python -m gridhe.bench.publisher FILE PORT`. It implements the part of MQTT 3.1.1 that it needs: a PUBLISH
consists of two slices that are sent without being copied together, and sealing one takes some 10 us, so that
the publisher is not the bottleneck.

stdin: each line is a number, up to which messages may be published. stdout: `ready`, then `done`.
"""

import mmap
import os
import selectors
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgpack

from gridhe.base.files import write_private
from gridhe.bench.grid import Parcel

__all__ = ["publish", "write_parcels"]

_UNACKNOWLEDGED = 200  # the most messages without a PUBACK
_CONNECT = bytes.fromhex("101b00044d51545404020000") + struct.pack(">H", 15) + b"gridhe-bench-01"
_PUBACK_BYTES = 4


def write_parcels(path: Path, parcels: Iterable[Parcel]) -> int:
    """Write messages to a file for `publish`, each ciphertext once. Returns the number of messages."""
    pool: dict[int, int] = {}
    bodies: list[bytes] = []
    rows = []
    for parcel in parcels:
        at = pool.setdefault(id(parcel.ciphertext), len(bodies))
        if at == len(bodies):
            bodies.append(parcel.ciphertext)
        rows.append((parcel.topic, parcel.header, parcel.key, at))
    write_private(path, msgpack.packb([bodies, rows]))
    return len(rows)


def _read_parcels(path: Path) -> list[Parcel]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        bodies, rows = msgpack.unpackb(data)
    return [
        Parcel(topic=topic, header=header, key=key, ciphertext=bodies[at]) for topic, header, key, at in rows
    ]


def _packet(number: int, parcel: Parcel) -> list[memoryview]:
    """The PUBLISH packet of message `number`, in two slices."""
    head, body = parcel.seal()
    name = parcel.topic.encode()
    size = 2 + len(name) + 2 + len(head) + len(body)
    packet_id = number % 65_535 + 1
    start = b"\x32" + _varint(size) + struct.pack(">H", len(name)) + name + struct.pack(">H", packet_id)
    return [memoryview(start + head), memoryview(body)]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def publish(path: Path, port: int) -> None:
    """Publish the messages of a file to a broker on this machine, as far as stdin allows."""
    parcels = _read_parcels(path)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(_CONNECT)
        if sock.recv(4) != b"\x20\x02\x00\x00":
            raise SystemExit("the broker refused the bench's publisher")
        sock.setblocking(False)
        _Pump(sock, parcels).run()


class _Pump:
    def __init__(self, sock: socket.socket, parcels: Sequence[Parcel]) -> None:
        self._sock, self._parcels = sock, parcels
        self._sent = self._allowed = self._acknowledged_bytes = 0
        self._rest: list[memoryview] = []
        self._part = b""  # an incomplete line of stdin
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ, self._on_socket)
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._on_credit)

    def run(self) -> None:
        print("ready", flush=True)
        total = _PUBACK_BYTES * len(self._parcels)
        while self._acknowledged_bytes < total:
            for key, _ in self._selector.select():
                key.data()
            self._send()
        print("done", flush=True)

    def _on_credit(self) -> None:
        # Not readline: it can buffer a second line, which the selector then does not report.
        read = os.read(sys.stdin.fileno(), 4096)
        if not read:
            raise SystemExit("the bench has ended")
        *lines, self._part = (self._part + read).split(b"\n")
        if lines:
            self._allowed = min(int(lines[-1]), len(self._parcels))

    def _on_socket(self) -> None:
        try:
            data = self._sock.recv(65_536)
        except BlockingIOError:
            return
        if not data:
            raise SystemExit("the broker closed the connection")
        self._acknowledged_bytes += len(data)

    def _send(self) -> None:
        while True:
            if not self._rest:
                under_way = self._sent - self._acknowledged_bytes // _PUBACK_BYTES
                if self._sent >= self._allowed or under_way >= _UNACKNOWLEDGED:
                    break
                self._rest = _packet(self._sent, self._parcels[self._sent])
                self._sent += 1
            try:
                self._skip(self._sock.sendmsg(self._rest))
            except BlockingIOError:
                break
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._rest else 0)
        self._selector.modify(self._sock, wanted, self._on_socket)

    def _skip(self, written: int) -> None:
        parts = self._rest
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if written:
            parts[0] = parts[0][written:]


if __name__ == "__main__":
    publish(Path(sys.argv[1]), int(sys.argv[2]))
