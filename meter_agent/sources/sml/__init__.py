"""German meters that push SML through an optical port: frames, messages, lists of values."""

from typing import Literal

from pydantic import Field

from gridhe.meter_agent.sources.driver import Device, Sink
from gridhe.meter_agent.sources.settings import SerialSettings
from gridhe.meter_agent.sources.sml.decoder import SmlDecoder
from gridhe.meter_agent.sources.transports.serial_port import SerialLine
from gridhe.meter_agent.sources.transports.stream import run_stream

__all__ = ["Settings", "open_device"]


class Settings(SerialSettings):
    """An SML meter."""

    baud: Literal[9600, 19200, 38400, 57600, 115200] = Field(
        9600, description="baud rate of the port; nearly every SML meter has 9600, 8 bits without parity"
    )
    unit: Literal["Wh"] | None = Field(
        None, description="unit of registers that the meter sends without one; not given: they are not read"
    )


class _Meter:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def run(self, sink: Sink) -> None:
        """See `Device`."""
        decoder = SmlDecoder(missing_unit_is_wh=self._settings.unit == "Wh")
        await run_stream(self._settings, SerialLine(baud=self._settings.baud), decoder, sink)


def open_device(settings: Settings) -> Device:
    """The meter of these settings."""
    return _Meter(settings)
