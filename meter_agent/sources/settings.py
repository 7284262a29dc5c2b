"""The settings that several drivers share. Each driver has its own model, strict as those of `gridhe.config`.

They stand in section `source` of the settings file beside `driver`, or on the command line:

    gridhe-meter run --source p1 --with address=/dev/ttyUSB0 --with zone=Europe/Helsinki ...
    gridhe-meter probe p1 address=/dev/ttyUSB0
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["SerialSettings", "SourceSettings"]


class SourceSettings(BaseModel):
    """What every driver has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Whose time dates a reading. auto: the device's, while it is close to this computer's and moves.
    clock: Literal["auto", "device", "host"] = "auto"
    zone: str | None = Field(None, max_length=64)  # of times without an offset, such as Europe/Helsinki
    largest_w: int = Field(100_000, ge=100, le=10**9)  # a register that rises faster is not believed at once
    device_id: str | None = Field(None, max_length=128)  # accept this equipment id only


class SerialSettings(SourceSettings):
    """A device on a serial line, or behind a gateway that forwards its bytes.

    `address` is a path (/dev/serial/by-id/..., /dev/ttyUSB0) or tcp://host:port.
    """

    address: str = Field(min_length=1, max_length=512)
    silence_s: float = Field(60.0, gt=0, le=86_400)  # no byte for this long: open the port again, and say so
