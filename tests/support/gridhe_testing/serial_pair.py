"""A serial port and a gateway for tests: a real pseudo-terminal, and a TCP server that plays bytes."""

import asyncio
import os
import tty
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["PlayingServer", "SerialPair"]


class SerialPair:
    """The meter's end of a serial line. `path` is what the agent opens: a link that stays the same.

        with SerialPair(tmp_path / "ttyP1") as pair:
            await pair.play(telegram, piece=7)     # returns once the agent can read all of it
            pair.unplug(); pair.plug()             # the adapter is pulled out and comes back

    The agent drops bytes that were played before it opened the port: wait for `sink.opened`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._meter = self._port = -1
        self.plug()

    def plug(self) -> None:
        """Put the adapter in: a new terminal behind the same path."""
        self._meter, self._port = os.openpty()
        tty.setraw(self._port)
        os.set_blocking(self._meter, False)
        self.path.symlink_to(os.ttyname(self._port))

    def unplug(self) -> None:
        """Pull the adapter out: the path is gone, and an open port hangs up."""
        self.path.unlink(missing_ok=True)
        for end in (self._meter, self._port):
            if end >= 0:
                os.close(end)
        self._meter = self._port = -1

    @property
    def terminal(self) -> int:
        """The file descriptor of the agent's end, to look at its settings or to spoil them."""
        return self._port

    @property
    def meter_end(self) -> int:
        """The file descriptor of the meter's end; a write to it does not wait."""
        return self._meter

    async def play(self, data: bytes, *, piece: int | None = None, within_s: float = 30.0) -> None:
        """Send bytes to the agent, in pieces of `piece` bytes if given, as fast as it reads them."""
        size = piece or len(data)
        async with asyncio.timeout(within_s):
            for start in range(0, len(data), max(size, 1)):
                await self._send(data[start : start + size])

    async def _send(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        while data:
            try:
                data = data[os.write(self._meter, data) :]
            except BlockingIOError:
                ready: asyncio.Future[None] = loop.create_future()
                loop.add_writer(self._meter, lambda ready=ready: ready.done() or ready.set_result(None))  # type: ignore[misc]
                try:
                    await ready
                finally:
                    loop.remove_writer(self._meter)
        await asyncio.sleep(0)

    async def heard(self, count: int, *, within_s: float = 10.0) -> bytes:
        """The next `count` bytes that the agent wrote."""
        loop = asyncio.get_running_loop()
        data = b""
        async with asyncio.timeout(within_s):
            while len(data) < count:
                try:
                    data += os.read(self._meter, count - len(data))
                except BlockingIOError:
                    ready: asyncio.Future[None] = loop.create_future()
                    loop.add_reader(self._meter, lambda ready=ready: ready.done() or ready.set_result(None))  # type: ignore[misc]
                    try:
                        await ready
                    finally:
                        loop.remove_reader(self._meter)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unplug()


class PlayingServer:
    """A gateway's TCP server on loopback: every client gets the same bytes, or what `play` sends.

    async with PlayingServer() as server:
        ... address = server.address
        await server.connected()
        await server.play(telegram)
    """

    def __init__(self, greeting: bytes = b"", *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._greeting = greeting
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._clients: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._new = asyncio.Condition()
        self.connections = 0  # so far

    @property
    def address(self) -> str:
        """tcp://host:port."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"tcp://{host}:{self._port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._client, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.hang_up()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._greeting)
        async with self._new:
            self._clients.append((reader, writer))
            self.connections += 1
            self._new.notify_all()

    async def connected(self, connections: int = 1, *, within_s: float = 10.0) -> None:
        """Wait until so many clients have connected, all told."""
        async with asyncio.timeout(within_s), self._new:
            await self._new.wait_for(lambda: self.connections >= connections)

    async def play(self, data: bytes, *, piece: int | None = None, within_s: float = 30.0) -> None:
        """Send bytes to every client, in segments of `piece` bytes if given."""
        size = max(piece or len(data), 1)
        async with asyncio.timeout(within_s):
            for start in range(0, len(data), size):
                for _, writer in self._clients:
                    writer.write(data[start : start + size])
                    await writer.drain()
                await asyncio.sleep(0)

    async def heard(self, count: int, *, within_s: float = 10.0) -> bytes:
        """The next `count` bytes that the last client sent."""
        async with asyncio.timeout(within_s):
            return await self._clients[-1][0].readexactly(count)

    async def hang_up(self) -> None:
        """Close all connections; the server goes on listening."""
        for _, writer in self._clients:
            writer.close()
        for _, writer in self._clients:
            try:
                await writer.wait_closed()
            except OSError:
                continue
        self._clients.clear()
