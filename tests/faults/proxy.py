"""A TCP proxy that simulates a bad network: cuts, half-open, reset, slow drip, tiny chunks, latency.

It runs in its own thread. Attributes may be changed at any time and apply to all connections at once.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self

__all__ = ["Proxy"]

_CHUNK = 65_536
_LOOK_S = 0.02


class Proxy:
    """Listens on a loopback port of its own and forwards to `port`."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.silent = False  # half-open: connections stay open and are accepted, but no data passes
        self.latency_s = 0.0
        self.chunk = _CHUNK  # bytes forwarded at a time
        self.bytes_per_s = 0.0  # of each connection and direction; 0.0: no limit
        self.accepted: list[float] = []  # time of every accepted connection, monotonic seconds
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self.port = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        """The address that clients connect to."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._writers) // 2

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def cut(self) -> None:
        """Close every connection, and refuse new ones until `restore`."""
        self._run(self._cut())

    def reset(self) -> None:
        """End every connection with a RST; accept new ones."""
        self._run(self._drop(reset=True))

    def restore(self) -> None:
        """Restore normal operation."""
        self.silent, self.latency_s, self.chunk, self.bytes_per_s = False, 0.0, _CHUNK, 0.0
        self._run(self._listen())

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]

    async def _end(self) -> None:
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=2_048)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._drop(reset=False)

    async def _drop(self, *, reset: bool) -> None:
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            if reset and sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.append(time.monotonic())
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, to_writer}
        self._writers |= pair
        both = [
            asyncio.ensure_future(self._pump(reader, to_writer)),
            asyncio.ensure_future(self._pump(to_reader, writer)),
        ]
        # Cancelled at the end; asyncio's server logs an error for handlers that raise it.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        for each_writer in pair:
            each_writer.close()
        self._writers -= pair

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self.latency_s:
                    await asyncio.sleep(self.latency_s)
                at = 0
                while at < len(data):
                    while self.silent:
                        await asyncio.sleep(_LOOK_S)
                    piece = data[at : at + self.chunk]
                    writer.write(piece)
                    await writer.drain()
                    if len(piece) == 1:
                        await asyncio.sleep(0)  # each a segment of its own, where the kernel allows
                    at += len(piece)
                    if self.bytes_per_s:
                        await asyncio.sleep(len(piece) / self.bytes_per_s)
