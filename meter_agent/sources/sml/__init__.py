"""German meters that push SML through an optical port: frames, messages, lists of values."""

from typing import Literal

from pydantic import Field

from gridhe.meter_agent.sources.settings import SerialSettings

__all__ = ["Settings"]


class Settings(SerialSettings):
    """An SML meter."""

    baud: Literal[9600, 19200, 38400, 57600, 115200] = Field(
        9600, description="baud rate of the port; nearly every SML meter has 9600, 8 bits without parity"
    )
    missing_unit: Literal["refuse", "Wh"] = Field(
        "refuse",
        description="unit of a register that the meter sends without one; refuse: no reading from it",
    )
