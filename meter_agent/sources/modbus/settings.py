"""The settings of a meter on a bus."""

import re
from typing import Literal

from pydantic import Field, field_validator

from gridhe.errors import ConfigError
from gridhe.meter_agent.sources.modbus.bus import Framing
from gridhe.meter_agent.sources.settings import SerialSettings
from gridhe.meter_agent.sources.transports.serial_port import SerialLine
from gridhe.meter_agent.sources.transports.tcp import is_tcp

__all__ = ["Settings"]

_NO_PORT = re.compile(r"tcp://([^/:\[\]]+|\[[^/\[\]]+\])", re.IGNORECASE)


class Settings(SerialSettings):
    """Source `modbus`."""

    map: str = Field(
        min_length=1,
        max_length=512,
        description="name of a register map (gridhe-meter sources modbus lists them), sunspec, or the path "
        "of your own such as ./mine.yaml",
    )
    unit: int = Field(1, ge=0, le=255, description="the meter's number on the bus")
    poll_s: float = Field(10.0, ge=0.01, le=3_600, description="seconds from one reading to the next")
    timeout_s: float = Field(1.0, ge=0.05, le=60, description="seconds that the meter has for an answer")
    framing: Literal["auto"] | Framing = Field(
        "auto",
        description="auto: rtu on a serial port, tcp behind tcp://; rtu behind tcp:// for a gateway that "
        "passes bytes on; tcp_without_ids for a gateway that does not repeat transaction ids",
    )
    line: str | None = Field(
        None, description="baud rate and format such as 9600 8N1 or 19200 8E1, if not as the map says"
    )
    meter: int = Field(1, ge=1, le=32, description="which of the device's meters (SunSpec only)")
    reverse: bool = Field(False, description="the meter is mounted the other way: swap import and export")

    @field_validator("address")
    @classmethod
    def _with_port(cls, address: str) -> str:
        return f"{address}:502" if _NO_PORT.fullmatch(address) else address

    @field_validator("line")
    @classmethod
    def _is_line(cls, line: str | None) -> str | None:
        if line is not None:
            try:
                SerialLine.parse(line)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return line

    @property
    def framing_here(self) -> Framing:
        """The framing, decided."""
        if self.framing != "auto":
            return self.framing
        return "tcp" if is_tcp(self.address) else "rtu"
