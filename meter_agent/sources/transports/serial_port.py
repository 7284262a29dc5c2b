"""A serial port on the event loop: pyserial opens and configures it, the loop reads and writes it, no thread.

Every opening sets raw mode, baud rate and format anew, because an adapter that was unplugged comes back with
the system's defaults. The port is locked (flock), so that two agents do not share one meter's bytes.
"""

import asyncio
import errno
import os
import re
import stat
import termios
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import serial

from gridhe.errors import ConfigError, SourceError

__all__ = ["SerialLine", "SerialPort", "open_serial"]

_FORMAT = re.compile(r"\s*([0-9]{2,7})[ ,:/]+([5-8])([NEO])([12])\s*", re.IGNORECASE)
_PIECE = 65_536
_SEND_S = 20.0  # 300 baud sends 600 characters in this time
_PTY_MAJORS = range(136, 144)  # Unix98 pseudo-terminals have no parity and no character size
_NAMED = (Path("/dev/serial/by-id"), Path("/dev/serial/by-path"))
_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialLine:
    """How characters travel on a serial line."""

    baud: int = 115_200  # bits per second
    bits: int = 8  # data bits of a character
    parity: str = "N"  # N none, E even, O odd
    stop: int = 1  # stop bits

    @classmethod
    def parse(cls, text: str) -> "SerialLine":
        """From text such as "9600 7E1". Raises ConfigError."""
        match = _FORMAT.fullmatch(text)
        if match is None or int(match[1]) < 50:
            raise ConfigError(
                f"{text!r} is no serial line: write baud rate and format, such as 115200 8N1 or 9600 7E1"
            )
        return cls(baud=int(match[1]), bits=int(match[2]), parity=match[3].upper(), stop=int(match[4]))

    def __str__(self) -> str:
        return f"{self.baud} {self.bits}{self.parity}{self.stop}"


class SerialPort:
    """An open port: a `Line`."""

    def __init__(self, port: serial.Serial, line: SerialLine) -> None:
        self._port = port
        self._fd: int = port.fileno()
        self._line = line
        self.received = 0

    @property
    def name(self) -> str:
        """Path, baud rate and format."""
        return f"{self._port.port}, {self._line}"

    async def read(self, within_s: float | None = None) -> bytes:
        """See `Line`."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    data = self._read()
                    if data is not None:
                        self.received += len(data)
                        return data
                    await self._ready(writing=False)
        except TimeoutError:
            return b""

    def _read(self) -> bytes | None:
        try:
            data = os.read(self._fd, _PIECE)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._lost(error) from None
        if not data:  # with VMIN = 1 the end of a line that hung up
            raise self._lost(None)
        return data

    async def write(self, data: bytes) -> None:
        """See `Line`."""
        view = memoryview(data)
        try:
            async with asyncio.timeout(_SEND_S):
                while view:
                    try:
                        view = view[os.write(self._fd, view) :]
                    except BlockingIOError:
                        await self._ready(writing=True)
                while self._port.out_waiting:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise SourceError(f"{self.name}: the port does not send; unplug and plug the adapter") from None
        except OSError as error:
            raise self._lost(error) from None

    async def _ready(self, *, writing: bool) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        watch: Callable[..., None] = loop.add_writer if writing else loop.add_reader
        watch(self._fd, wake)
        try:
            await ready
        finally:
            (loop.remove_writer if writing else loop.remove_reader)(self._fd)

    def set_line(self, line: SerialLine) -> None:
        """See `Line`. Raises SourceError if the port refuses the settings."""
        _apply(self._port, line, is_pty=_is_pty(self._fd))
        self._line = line

    async def discard(self) -> None:
        """See `Line`."""
        try:
            self._port.reset_input_buffer()
        except (OSError, termios.error) as error:
            raise self._lost(error) from None

    def close(self) -> None:
        """See `Line`."""
        with suppress(OSError, termios.error):  # a port that is gone cannot be closed properly
            self._port.close()

    def _lost(self, error: BaseException | None) -> SourceError:
        path = Path(str(self._port.port))
        why = "the port has gone" if not path.exists() else "the port hung up"
        reason = f" ({os.strerror(error.errno)})" if isinstance(error, OSError) and error.errno else ""
        return SourceError(f"{path}: {why}{reason}; check the cable and the adapter's power")


def open_serial(path: str, line: SerialLine) -> SerialPort:
    """Opens a port: locked, raw, with these settings; drops bytes that arrived before.

    Raises SourceError, one line with the way out.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        raise SourceError(f"there is no {path}{_others()}") from None
    except OSError as error:
        raise SourceError(f"cannot open {path}: {error.strerror}; check source.address") from None
    if not stat.S_ISCHR(mode):
        raise SourceError(f"{path} is not a serial port{_others()}")
    port = serial.Serial(timeout=0, write_timeout=0, exclusive=True)
    port.port = path
    is_pty = os.major(Path(path).stat().st_rdev) in _PTY_MAJORS
    try:
        _set(port, line, is_pty=is_pty)
        port.open()
        _finish(port.fileno(), line)
    except (OSError, ValueError, termios.error) as error:  # serial.SerialException is an OSError
        with suppress(OSError, termios.error):
            port.close()
        raise SourceError(_refused(path, line, error)) from None
    return SerialPort(port, line)


def _set(port: serial.Serial, line: SerialLine, *, is_pty: bool) -> None:
    port.baudrate = line.baud
    port.stopbits = line.stop
    port.bytesize, port.parity = (8, "N") if is_pty else (line.bits, line.parity)


def _apply(port: serial.Serial, line: SerialLine, *, is_pty: bool) -> None:
    try:
        _set(port, line, is_pty=is_pty)
        _finish(port.fileno(), line)  # pyserial sets the whole mode at each change
    except (OSError, ValueError, termios.error) as error:
        raise SourceError(_refused(str(port.port), line, error)) from None


def _is_pty(fd: int) -> bool:
    return os.major(os.fstat(fd).st_rdev) in _PTY_MAJORS


def _finish(fd: int, line: SerialLine) -> None:
    """What pyserial leaves out. VMIN = 1: an empty read means a hang-up. A character with wrong parity and a
    break on the line are read as a 0 byte: no telegram without checksum contains one."""
    mode = termios.tcgetattr(fd)
    mode[0] &= ~(termios.BRKINT | termios.IGNPAR)
    if line.parity != "N":
        mode[0] |= termios.INPCK
    mode[6][termios.VMIN] = 1
    termios.tcsetattr(fd, termios.TCSANOW, mode)


def _refused(path: str, line: SerialLine, error: BaseException) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, termios.error) and error.args:
        code = error.args[0]
    if code in (errno.EAGAIN, errno.EBUSY):
        return f"{path} is in use by another program{_holders(path)}; stop that program"
    if code in (errno.EACCES, errno.EPERM):
        return (
            f"no permission to open {path}: add this user to the group that owns it (usually: "
            f"sudo usermod -aG dialout $USER), then log in again"
        )
    if code == errno.ENOTTY or "ioctl" in str(error):
        return f"{path} is not a serial port{_others()}"
    if code in (errno.ENXIO, errno.ENODEV, errno.EIO):
        return f"{path} has no device behind it; check the cable and the adapter's power"
    if code == errno.EINVAL or isinstance(error, ValueError):
        return f"{path} does not support {line}; choose another baud rate or format"
    return f"cannot open {path}: {os.strerror(code) if code else error}"


def _others() -> str:
    """The ports that there are, by their lasting names."""
    names: list[str] = []
    for folder in _NAMED:
        with suppress(OSError):
            names += sorted(str(entry) for entry in folder.iterdir())
    if not names:
        return "; no serial port is plugged in (/dev/serial is empty): check the cable and source.address"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"; there are {', '.join(names[:_SHOWN])}{more}"


def _holders(path: str) -> str:
    """ " (name, process 123)" of the first process that holds the port, if this user may see it."""
    with suppress(OSError):
        device = Path(path).stat().st_rdev
        for process in Path("/proc").iterdir():
            if not process.name.isdigit() or int(process.name) == os.getpid():
                continue
            with suppress(OSError):
                for entry in (process / "fd").iterdir():
                    if entry.stat().st_rdev == device:
                        program = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                        return f" ({program}, process {process.name})"
    return ""
