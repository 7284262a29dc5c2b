"""HAN ports: meters that push DLMS over HDLC, over M-Bus or without frames.

bytes -> `frames` -> `joining` -> `apdu`, `axdr` -> `lists` (codes and values) -> `energy` (readings)
"""

from gridhe.meter_agent.sources.han.device import HanDevice
from gridhe.meter_agent.sources.han.settings import Settings

__all__ = ["Settings", "open_device"]


def open_device(settings: Settings) -> HanDevice:
    """A HAN port. Raises CredentialError or ConfigError: a key's file, an unknown zone."""
    return HanDevice(settings)
