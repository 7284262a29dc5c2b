"""Devices that publish to an MQTT broker in the home.

`formats` is the table of what they publish, `decoder` turns messages into readings without I/O, `home` is the
connection, and `device` runs all of it.
"""

from gridhe.meter_agent.sources.mqtt.device import open_device
from gridhe.meter_agent.sources.mqtt.formats import FORMATS
from gridhe.meter_agent.sources.mqtt.settings import Settings

__all__ = ["Settings", "notes", "open_device"]


def notes() -> list[str]:
    """What each format needs, for `gridhe-meter sources mqtt`."""
    lines: dict[str, str] = {}
    for variant, each in FORMATS.items():
        needs = "; ".join(f"needs {setting}: {why}" for setting, why in each.needs.items())
        if each.asks_unit:
            needs = "; ".join(filter(None, (needs, "needs unit")))
        known = sorted((each.settings - set(each.needs) - {"topic"}) & Settings.model_fields.keys())
        takes = f"takes {', '.join(known)}" if known else ""
        name = variant.partition("/")[0]
        lines.setdefault(name, f"format={name:<16}{'; '.join(filter(None, (needs, takes)))}".rstrip())
    return ["\n".join(lines.values())]
