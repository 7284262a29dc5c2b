"""The driver of P1 ports: its settings, and the device that they describe."""

from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from gridhe.errors import ConfigError
from gridhe.meter_agent.sources.ciphering import read_key
from gridhe.meter_agent.sources.driver import Sink
from gridhe.meter_agent.sources.p1.ciphered import CipheredP1Decoder
from gridhe.meter_agent.sources.p1.decoder import P1Decoder
from gridhe.meter_agent.sources.reading import Decoder
from gridhe.meter_agent.sources.settings import SerialSettings
from gridhe.meter_agent.sources.transports.serial_port import SerialLine
from gridhe.meter_agent.sources.transports.stream import run_stream
from gridhe.meter_agent.sources.transports.tcp import is_tcp

__all__ = ["P1Device", "Settings", "open_device"]

# The same for every meter, and public: Smarty's P1 specification (Luxmetering).
_PUBLIC_AUTHENTICATION_KEY = bytes.fromhex("00112233445566778899AABBCCDDEEFF")


class Settings(SerialSettings):
    """A P1 port."""

    line: str = Field(
        "115200 8N1", description="baud rate and format: 115200 8N1, older meters (DSMR 2.2 and 3) 9600 7E1"
    )
    key_file: Path | None = Field(
        None,
        description="file (mode 0600) with the household's key in hex digits, for meters that encrypt "
        "(Luxembourg, Austria, Poland); the grid operator sends it on request",
    )
    authentication_key_file: Path | None = Field(
        None, description="the same for the authentication key, if it is not Luxembourg's public one"
    )
    restore_line_ends: bool | None = Field(
        None,
        description="accept telegrams whose line ends lost their CR, as text logs and network bridges pass "
        "them on; if not set: over tcp://, not on a serial port",
    )

    @field_validator("line", mode="before")
    @classmethod
    def _is_a_line(cls, line: object) -> str:
        try:
            return str(SerialLine.parse(str(line)))
        except ConfigError as error:
            raise ValueError(str(error)) from None


class P1Device:
    """A `Device`."""

    def __init__(self, settings: Settings) -> None:
        """Raises CredentialError for a key's file that is exposed, unreadable or holds no key."""
        self._settings = settings
        self._line = SerialLine.parse(settings.line)
        self._keys: tuple[bytes, bytes] | None = None
        if settings.key_file is not None:
            other = settings.authentication_key_file
            self._keys = (
                read_key(settings.key_file),
                _PUBLIC_AUTHENTICATION_KEY if other is None else read_key(other),
            )
        elif settings.authentication_key_file is not None:
            raise ConfigError("source p1: authentication_key_file needs key_file beside it")

    def decoder(self) -> Decoder:
        """A new decoder for this device."""
        settings = self._settings
        restore = settings.restore_line_ends
        plain = P1Decoder(
            zone=ZoneInfo(settings.zone) if settings.zone else None,
            restore_line_ends=is_tcp(settings.address) if restore is None else restore,
        )
        if self._keys is None:
            return plain
        return CipheredP1Decoder(plain, key=self._keys[0], authentication_key=self._keys[1])

    async def run(self, sink: Sink) -> None:
        """See `Device`."""
        await run_stream(self._settings, self._line, self.decoder(), sink)


def open_device(settings: Settings) -> P1Device:
    """The device of these settings. Raises CredentialError, ConfigError."""
    return P1Device(settings)
