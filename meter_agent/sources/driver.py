"""The interface between a driver (one kind of device) and the agent that runs it.

A driver opens its transport, decodes, and gives what it finds to a `Sink`. It runs as one coroutine on the
agent's loop until it is cancelled, and opens its transport again whenever it is lost.
"""

from typing import Protocol

from gridhe.meter_agent.sources.reading import DeviceReading

__all__ = ["Device", "Sink"]


class Sink(Protocol):
    """Takes what a device says."""

    def reading(self, reading: DeviceReading, *, arrived_s: float | None = None) -> None:
        """One reading. `arrived_s` (UTC epoch seconds): its arrival, if that was not just now."""
        ...

    def fault(self, reason: str, detail: str = "", count: int = 1) -> None:
        """Something was dropped: counted by `reason` (a short fixed word), logged rarely.

        `detail` holds no readings.
        """
        ...

    def opened(self, what: str) -> None:
        """The transport is open; `what` names it, such as "/dev/ttyUSB0, 115200 8N1"."""
        ...

    def lost(self, why: str) -> None:
        """The transport is gone, or could not be opened again; the driver keeps trying."""
        ...

    def bytes_seen(self, count: int, hint: str | None) -> None:
        """`count` bytes arrived; `hint` is the decoder's `waiting_for`. For `gridhe-meter probe`."""
        ...


class Device(Protocol):
    """A device that is described by its settings, ready to run."""

    async def run(self, sink: Sink) -> None:
        """Run until cancelled. Once the transport was open, it is opened again whenever it is lost.

        Raises SourceError, one line with the way out, if the transport cannot be opened the first time (no
        such file, a port that another program holds, a refused password).
        """
        ...
