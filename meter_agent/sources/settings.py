"""The settings that several drivers share. Each driver has its own model, strict as those of `gridhe.config`.

Every field has a description, which `gridhe-meter sources NAME` prints. The settings stand in section
`source` of the settings file beside `driver`, or on the command line:

    gridhe-meter run --source p1 --with address=/dev/ttyUSB0 --with zone=Europe/Helsinki ...
    gridhe-meter probe p1 address=/dev/ttyUSB0
"""

from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["SerialSettings", "SourceSettings"]


class SourceSettings(BaseModel):
    """What every driver has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clock: Literal["auto", "device", "host"] = Field(
        "auto",
        description="whose time dates a reading; auto: the device's, while it moves and is close to this "
        "computer's",
    )
    zone: str | None = Field(
        None,
        max_length=64,
        description="time zone of the device's times without an offset, such as Europe/Helsinki",
    )
    largest_w: int = Field(
        100_000,
        ge=100,
        le=10**9,
        description="W: a register that rises faster than this is not believed at once",
    )
    device_id: str | None = Field(
        None, max_length=128, description="accept readings of the meter with this equipment id only"
    )
    quantities: dict[str, Literal["imported", "exported"]] = Field(
        {},
        max_length=16,
        description="direction of the plan's quantities whose names do not begin with import or export, such "
        "as {consumption_wh: imported}",
    )

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, zone: str | None) -> str | None:
        if zone is not None:
            try:
                ZoneInfo(zone)
            except (OSError, ValueError, LookupError):
                raise ValueError(f"expected a time zone such as Europe/Helsinki; came {zone!r}") from None
        return zone


class SerialSettings(SourceSettings):
    """A device on a serial line, or behind a gateway that forwards its bytes."""

    address: str = Field(
        min_length=1,
        max_length=512,
        description="path of the port (/dev/serial/by-path/..., /dev/ttyUSB0), or tcp://host:port",
    )
    silence_s: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="seconds without a byte after which the port is opened again, with a message",
    )
