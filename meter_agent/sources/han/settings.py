"""The settings of a meter that pushes DLMS."""

from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import Field

from gridhe.meter_agent.sources.settings import SerialSettings

__all__ = ["Settings"]


class Settings(SerialSettings):
    """A HAN port."""

    silence_s: float = Field(
        300.0,
        gt=0,
        le=86_400,
        description="seconds without a byte after which the port is opened again; some push once a minute",
    )
    baud: int = Field(2400, ge=300, le=921_600, description="baud rate of the port or the adapter")
    parity: Literal["N", "E", "O"] = Field(
        "E",
        description="parity: N none (Kamstrup), E even (most others), O odd; a wrong one damages most frames",
    )
    framing: Literal["auto", "hdlc", "mbus", "raw"] = Field(
        "auto",
        description="what carries the pushes; raw: nothing, with a pause of a second after each push",
    )
    profile: Literal["auto", "kaifa", "aidon", "kamstrup", "landis", "iskra", "sagemcom", "generic"] = Field(
        "auto", description="make of the meter; auto: as its telegrams show"
    )
    register_wh: Decimal | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="Wh of one step of the registers, if the telegrams do not say it (Kamstrup: 10 or 1, by "
        "country); compare with the display",
    )
    meter_time: Literal["auto", "standard", "local"] = Field(
        "auto",
        description="the meter's clock in summer: standard (stays on winter time) or local; auto: as "
        "is known of the make, else such stamps are not used",
    )
    key_file: Path | None = Field(
        None,
        description="file of the encryption key (GUEK), 32 hex digits, mode 0600; for meters that encrypt",
    )
    authentication_key_file: Path | None = Field(
        None,
        description="file of the authentication key (GAK), if the grid operator gave one; it checks pushes",
    )
