"""Meters that are polled over Modbus: RTU on a serial line or through a gateway, and Modbus TCP.

answers       requests, and the judging of what answers them (pure)
values        registers to exact numbers (pure)
register_map  data files that say where a meter keeps its energy: `maps/`, or the user's own
blocks        which registers are read together, and the reading that they make (pure)
sunspec       meters that say themselves where their registers are (pure)
bus           one owner of a line, one request at a time
device        the polling
"""

from gridhe.meter_agent.sources.driver import Device
from gridhe.meter_agent.sources.modbus.device import ModbusDevice
from gridhe.meter_agent.sources.modbus.register_map import SUNSPEC, load_map, map_names
from gridhe.meter_agent.sources.modbus.settings import Settings

__all__ = ["Settings", "map_names", "notes", "open_device"]


def open_device(settings: Settings) -> Device:
    """The meter of these settings. Raises SourceError or ConfigError for a wrong register map."""
    return ModbusDevice(settings, None if settings.map == SUNSPEC else load_map(settings.map))


def notes() -> list[str]:
    """The register maps, for `gridhe-meter sources modbus`."""
    maps = [f"map={name:<24}{load_map(name).meter}" for name in map_names() if name != SUNSPEC]
    return ["\n".join([*maps, f"map={SUNSPEC:<24}meters that say themselves where their registers are"])]
