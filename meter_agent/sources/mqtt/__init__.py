"""Devices that publish to an MQTT broker in the home. `formats` is the table of what they publish,

`decoder` turns messages into readings without I/O, `home` is the connection, and `device` runs all of it.
"""

from gridhe.meter_agent.sources.mqtt.device import open_device
from gridhe.meter_agent.sources.mqtt.settings import Settings

__all__ = ["Settings", "open_device"]
