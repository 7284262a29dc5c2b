"""A HAN port that is read."""

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gridhe.errors import ConfigError
from gridhe.meter_agent.sources.ciphering import decipher, read_key
from gridhe.meter_agent.sources.driver import Sink
from gridhe.meter_agent.sources.han.decoder import HanDecoder
from gridhe.meter_agent.sources.han.energy import Agreements
from gridhe.meter_agent.sources.han.profiles import PROFILES
from gridhe.meter_agent.sources.han.settings import Settings
from gridhe.meter_agent.sources.transports.serial_port import SerialLine
from gridhe.meter_agent.sources.transports.stream import run_stream

__all__ = ["HanDevice", "decoder_of"]


def decoder_of(settings: Settings) -> HanDecoder:
    """The decoder that these settings describe.

    Raises CredentialError (a key's file) or ConfigError (an unknown zone, an authentication key alone).
    """
    try:
        zone = ZoneInfo(settings.zone) if settings.zone is not None else None
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder's name
        raise ConfigError(f"there is no time zone {settings.zone}: write one such as Europe/Oslo") from None
    known = {profile.name: profile for profile in PROFILES}
    agreements = Agreements(
        zone=zone,
        season=None if settings.meter_time == "auto" else settings.meter_time,
        register_wh=settings.register_wh,
    )
    framing, profile = settings.framing, known.get(settings.profile)
    if settings.key_file is None:
        if settings.authentication_key_file is not None:
            raise ConfigError("authentication_key_file checks what key_file opens: give key_file=... too")
        return HanDecoder(framing=framing, profile=profile, agreements=agreements)
    second = settings.authentication_key_file
    key, authentication_key = read_key(settings.key_file), None if second is None else read_key(second)

    def open_apdu(apdu: bytes) -> bytes:  # no partial(): its repr shows the keys
        return decipher(apdu, key, authentication_key)

    return HanDecoder(framing=framing, profile=profile, agreements=agreements, decipher=open_apdu)


class HanDevice:
    """A `Device`."""

    def __init__(self, settings: Settings) -> None:
        """Raises as `decoder_of` does."""
        self._settings = settings
        self._decoder = decoder_of(settings)

    async def run(self, sink: Sink) -> None:
        """See `Device`."""
        line = SerialLine(baud=self._settings.baud, parity=self._settings.parity)
        await run_stream(self._settings, line, self._decoder, sink)
