"""Meters with an optical port by IEC 62056-21 (D0): asked in modes A to C, listened to in mode D."""

from typing import Literal

from pydantic import Field

from gridhe.meter_agent.sources.d0.decoder import D0Decoder
from gridhe.meter_agent.sources.d0.exchange import Exchange
from gridhe.meter_agent.sources.driver import Device, Sink
from gridhe.meter_agent.sources.settings import SerialSettings
from gridhe.meter_agent.sources.transports.serial_port import SerialLine
from gridhe.meter_agent.sources.transports.stream import keep_open, run_stream
from gridhe.meter_agent.sources.transports.tcp import is_tcp

__all__ = ["Settings", "open_device"]

_ASKED_BAUD, _PUSHED_BAUD = 300, 9600


class Settings(SerialSettings):
    """A meter with a D0 port."""

    mode: Literal["A", "C", "D"] = Field(
        "D",
        description="D: the meter sends by itself; C: it is asked, and may change the baud rate; A: it is "
        "asked, and keeps the baud rate",
    )
    baud: Literal[300, 600, 1200, 2400, 4800, 9600, 19200] | None = Field(
        None, description="baud rate of the meter's first line; not given: 9600 in mode D, else 300"
    )
    every_s: float = Field(
        60.0, ge=1, le=86_400, description="seconds from one question to the next (modes A and C)"
    )
    meter_address: str = Field(
        "",
        pattern=r"^[0-9A-Za-z ]{0,32}$",
        description="address of the meter if several share the line; not given: the only one (modes A, C)",
    )
    switch_s: float = Field(
        0.4,
        ge=0.1,
        le=1.5,
        description="seconds from the acknowledgement to the change of the baud rate (mode C)",
    )
    unit: Literal["Wh", "kWh", "MWh"] | None = Field(
        None, description="unit of registers that the meter prints without one; not given: they are not read"
    )


class _Meter:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def run(self, sink: Sink) -> None:
        """See `Device`."""
        settings = self._settings
        decoder = D0Decoder(missing_unit=settings.unit)
        if settings.mode == "D":
            # As 8N1, so that the decoder sees the parity of 7E1 characters: mode D has no other check.
            await run_stream(settings, SerialLine(baud=settings.baud or _PUSHED_BAUD), decoder, sink)
        else:
            line = SerialLine(baud=settings.baud or _ASKED_BAUD, bits=7, parity="E")
            exchange = Exchange(
                decoder,
                sink,
                line=line,
                address=settings.meter_address,
                every_s=settings.every_s,
                switch_s=settings.switch_s,
                acknowledges=settings.mode == "C",
                follows=settings.mode == "C" and not is_tcp(settings.address),  # a gateway's rate is its own
            )
            await keep_open(settings, line, sink, exchange.converse)


def open_device(settings: Settings) -> Device:
    """The meter of these settings."""
    return _Meter(settings)
