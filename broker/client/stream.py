"""A connection to a broker that never blocks: `dial` (TCP, then TLS) and a read-ahead buffer.

paho reads a packet with five small `recv` calls, and its own connect blocks for seconds. A `Stream`
replaces paho's socket and answers these reads from one large read. So no bytes stay in TLS's buffer, where
a selector cannot see them.
"""

import asyncio
import errno
import os
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

from gridhe.base.files import check_private
from gridhe.broker.client.resolver import Address
from gridhe.errors import BrokerError, ConfigError

__all__ = ["Stream", "dial", "tls_context"]

_READ_MINIMUM = 4 * 1024  # the buffer of an idle meter
_READ_MAXIMUM = 1024 * 1024  # about ten envelopes of 96 KB; measured a fifth faster than 256 KB
_SMALL = 1024  # writes up to this size are gathered, so that acknowledgements need fewer system calls
_GATHER_MAXIMUM = 64 * 1024


@lru_cache(maxsize=8)
def tls_context(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """The TLS client context of these PEM files (system CAs when `ca_file` is None).

    Raises ConfigError, and CredentialError for a key that belongs to others or is readable by them.
    Cached, because reading CAs takes milliseconds: the hundreds of sessions of a fleet share one context.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name, or no PEM
        raise ConfigError(
            f"broker.ca_file {ca_file!r} cannot be read as PEM certificates: {error}"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file, key_file, password=_no_passphrase)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"broker.client_cert_file {cert_file!r} and client_key_file {key_file!r} "
                f"cannot be used: {error}"
            ) from error
        check_private(Path(key_file or cert_file))  # a certificate's file may contain its key too
    elif key_file is not None:
        raise ConfigError("broker.client_key_file is set without broker.client_cert_file; give both")
    return context


def _no_passphrase() -> str:
    # Otherwise OpenSSL would ask on the terminal and block the whole process.
    raise ConfigError(
        "broker.client_key_file is protected by a passphrase; a service needs a plain key, mode 0600"
    )


async def dial(
    loop: asyncio.AbstractEventLoop, addresses: Sequence[Address], tls: ssl.SSLContext | None, host: str
) -> "Stream":
    """Connect to the first of `addresses` that answers, then start TLS. Raises OSError, BrokerError."""
    sock = await _connect(loop, addresses)
    # Without Nagle's algorithm, because receipts are small and urgent.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Stream(sock if tls is None else await _start_tls(loop, sock, tls, host))


async def _connect(loop: asyncio.AbstractEventLoop, addresses: Sequence[Address]) -> socket.socket:
    last = OSError(errno.EADDRNOTAVAIL, "no address")
    for family, address in addresses:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise BrokerError(
                    "no file descriptor is left for another connection; "
                    "raise the limit (ulimit -n) or run fewer meters in one process"
                ) from error
            last = error
            continue
        with ExitStack() as closing:
            closing.enter_context(sock)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
            except OSError as error:
                code = error.errno or errno.EIO
                last = OSError(code, os.strerror(code))  # asyncio's text has the address, not the reason
                continue
            closing.pop_all()
            return sock
    raise last


async def _start_tls(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ssl.SSLContext, host: str
) -> ssl.SSLSocket:
    with ExitStack() as closing:
        closing.enter_context(sock)
        secure = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        closing.enter_context(secure)
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                await _ready(loop.add_reader, loop.remove_reader, secure.fileno(), loop.create_future())
            except ssl.SSLWantWriteError:
                await _ready(loop.add_writer, loop.remove_writer, secure.fileno(), loop.create_future())
            else:
                closing.pop_all()
                return secure


async def _ready(
    watch: Callable[..., object],
    unwatch: Callable[[int], object],
    fd: int,
    future: "asyncio.Future[None]",
) -> None:
    def on_ready() -> None:
        if not future.done():
            future.set_result(None)

    watch(fd, on_ready)
    try:
        await future
    finally:
        unwatch(fd)


class Stream:
    """A connected socket, non-blocking, read in large pieces.

    Each turn may read a limited number of bytes, so that a busy connection does not delay the others.
    After a turn, `starved` is True if no more bytes had arrived; else read again in the next turn.
    """

    def __init__(self, sock: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        self._sock = sock
        self._clock = clock
        self._view = memoryview(b"")
        self._size = _READ_MINIMUM
        self._allowance = 0
        self._gathered = bytearray()
        self.starved = False
        self.error: OSError | None = None  # the last error of the kernel or TLS, which paho does not report
        self.linger_until: float | None = None  # deadline of close(), set before a DISCONNECT

    def open_turn(self, allowance_bytes: int) -> None:
        """Allow about this many bytes to be read from the kernel until the next call."""
        self._allowance = allowance_bytes
        self.starved = False

    @property
    def spent(self) -> bool:
        """Whether the turn's allowance is used up."""
        return self._allowance <= 0 and not self._view

    def recv(self, size: int) -> "bytes | memoryview":
        """Up to `size` bytes, valid until the next call. Raises BlockingIOError (no bytes yet), OSError."""
        view = self._view
        if not view:
            if self._allowance <= 0:
                raise BlockingIOError(errno.EAGAIN, "the turn's allowance is used up")
            view = self._fill()
            self._allowance -= len(view)
            if not view:
                return b""
        piece, self._view = view[:size], view[size:]
        return piece

    def _fill(self) -> memoryview:
        try:
            data = self._sock.recv(self._size)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            self.starved = True
            raise BlockingIOError(errno.EAGAIN, "nothing to read") from error
        except ssl.SSLEOFError:
            data = b""
        except OSError as error:
            self.error = error
            raise
        if len(data) == self._size:
            self._size = min(4 * self._size, _READ_MAXIMUM)
        elif 4 * len(data) < self._size:
            self._size = max(self._size // 2, _READ_MINIMUM)
        return memoryview(data)

    def send(self, data: "bytes | bytearray") -> int:
        """Write as much as fits; small writes are gathered until `flush`. Raises BlockingIOError, OSError."""
        if len(data) <= _SMALL and len(self._gathered) + len(data) <= _GATHER_MAXIMUM:
            self._gathered += data
            return len(data)
        if not self.flush():
            raise BlockingIOError(errno.EAGAIN, "no room to write")
        return self._write(data)

    def flush(self) -> bool:
        """Write the gathered bytes; False if some do not fit yet. Raises OSError."""
        while self._gathered:
            try:
                del self._gathered[: self._write(self._gathered)]
            except BlockingIOError:
                return False
        return True

    def _write(self, data: "bytes | bytearray") -> int:
        try:
            return self._sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError(errno.EAGAIN, "no room to write") from error
        except BlockingIOError:
            raise
        except OSError as error:
            self.error = error
            raise

    def fileno(self) -> int:
        """The file descriptor, -1 once closed."""
        return self._sock.fileno()

    def setblocking(self, _flag: bool) -> None:
        """Do nothing: the socket is always non-blocking. paho calls this."""

    def close(self) -> None:
        """Close. With `linger_until` set, wait until then at most for the broker to close first.

        If bytes are unread at close, the kernel sends a reset, which can overtake the last written bytes:
        the broker would miss the DISCONNECT and publish the last will.
        """
        if self.linger_until is not None and self._sock.fileno() >= 0:
            self._linger(self.linger_until)
        self._sock.close()

    def _linger(self, deadline: float) -> None:
        try:
            while not self.flush() and (left := deadline - self._clock()) > 0:
                with selectors.DefaultSelector() as selector:  # select() does not work above descriptor 1023
                    selector.register(self._sock, selectors.EVENT_WRITE)
                    selector.select(left)
            self._sock.shutdown(socket.SHUT_WR)
            # Read below TLS: these bytes are discarded and need no decryption.
            with socket.socket(fileno=os.dup(self._sock.fileno())) as raw:
                while (left := deadline - self._clock()) > 0:
                    raw.settimeout(left)
                    if not raw.recv(_READ_MAXIMUM):
                        return
        except OSError:
            return
