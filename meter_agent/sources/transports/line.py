"""An open line to a device: a serial port, or a TCP connection to a gateway that forwards its bytes."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gridhe.meter_agent.sources.transports.serial_port import SerialLine

__all__ = ["Line"]


class Line(Protocol):
    """Open until `close`. Every method raises SourceError, one line, once the line is lost."""

    received: int  # bytes so far

    @property
    def name(self) -> str:
        """The line, such as "/dev/ttyUSB0, 115200 8N1" or "tcp://10.0.0.7:8088"."""
        ...

    async def read(self, within_s: float | None = None) -> bytes:
        """The bytes that have arrived, at least one; waits for them. b"" if none comes in `within_s`.

        Nothing is lost if the call is cancelled.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Send these bytes; returns when the port has sent them (TCP: when they are handed over)."""
        ...

    def set_line(self, line: "SerialLine") -> None:
        """Change baud rate and character format. A TCP gateway has its own settings: no effect there."""
        ...

    async def discard(self) -> None:
        """Drop bytes that arrived and were not read."""
        ...

    def close(self) -> None:
        """Close the line. May be called twice."""
        ...
