"""A TCP connection to a gateway that forwards a serial port's bytes, such as ser2net or ESP-Link."""

import asyncio
import errno
import os
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from gridhe.errors import SourceError
from gridhe.meter_agent.sources.transports.serial_port import SerialLine

__all__ = ["TcpLine", "is_tcp", "open_tcp", "tcp_address"]

_SCHEME = "tcp://"
_CONNECT_S = 10.0
_SEND_S = 10.0
_PIECE = 65_536


def is_tcp(address: str) -> bool:
    """Whether this is a gateway's address, not the path of a port."""
    return address.lower().startswith(_SCHEME)


def tcp_address(address: str) -> tuple[str, int]:
    """Host and port of tcp://host:port; an IPv6 address stands in brackets. Raises SourceError."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise SourceError(
            f"{address} is no address of a gateway: write tcp://host:port, such as tcp://192.168.1.30:8088 "
            "or tcp://[fe80::1%eth0]:8088"
        )
    return host, port


class TcpLine:
    """An open connection: a `Line`."""

    def __init__(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._address = address
        self._reader = reader
        self._writer = writer
        self.received = 0

    @property
    def name(self) -> str:
        """The address."""
        return self._address

    async def read(self, within_s: float | None = None) -> bytes:
        """See `Line`."""
        try:
            async with asyncio.timeout(within_s):
                data = await self._reader.read(_PIECE)
        except TimeoutError:
            return b""
        except OSError as error:
            raise self._lost(error) from None
        if not data:
            raise SourceError(
                f"{self._address}: the gateway closed the connection; it may serve one client only"
            )
        self.received += len(data)
        return data

    async def write(self, data: bytes) -> None:
        """See `Line`."""
        try:
            async with asyncio.timeout(_SEND_S):
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError:
            raise SourceError(f"{self._address}: the gateway takes no bytes; restart it") from None
        except OSError as error:
            raise self._lost(error) from None

    def set_line(self, line: SerialLine) -> None:
        """See `Line`: no effect."""

    async def discard(self) -> None:
        """See `Line`. Bytes that are still on their way arrive later."""
        while await self.read(0):
            pass

    def close(self) -> None:
        """See `Line`."""
        with suppress(OSError):
            self._writer.close()

    def _lost(self, error: OSError) -> SourceError:
        return SourceError(f"{self._address}: the connection broke ({_why(error)}); check the network")


async def open_tcp(address: str) -> TcpLine:
    """Connects to tcp://host:port. Raises SourceError, one line with the way out."""
    host, port = tcp_address(address)
    try:
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        raise SourceError(
            f"{address} does not answer within {_CONNECT_S:.0f} s; check the address and the gateway"
        ) from None
    except socket.gaierror:
        raise SourceError(
            f"{address}: there is no host {host}; check the name, or write its IP address"
        ) from None
    except ConnectionRefusedError:
        raise SourceError(
            f"{address} refused the connection: check the port number; some gateways serve one client only"
        ) from None
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that no resolver takes
        raise SourceError(f"cannot connect to {address}: {_why(error)}; check the address") from None
    return TcpLine(address, reader, writer)


def _why(error: Exception) -> str:
    code = error.errno if isinstance(error, OSError) else None
    return os.strerror(code) if code and code in errno.errorcode else str(error) or type(error).__name__
