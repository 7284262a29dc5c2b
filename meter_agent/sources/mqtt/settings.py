"""The settings of source `mqtt`."""

from decimal import Decimal
from typing import Literal

from pydantic import Field, field_validator, model_validator

from gridhe.meter_agent.sources.mqtt.formats import FORMATS, format_of, items_of, topics_of
from gridhe.meter_agent.sources.payload import ENERGY_UNITS, Unit
from gridhe.meter_agent.sources.settings import SourceSettings

__all__ = ["Settings"]

_TOPIC_MAX = 512
_OPTIONAL = (
    "import_path",
    "export_path",
    "power_path",
    "id_path",
    "time_path",
    "unit_path",
    "export_topic",
    "power_topic",
)
_PATH = "; keys joined by dots, or a JSON pointer (/1.8.0); a sum of several is joined by ' + '"


class Settings(SourceSettings):
    """One device at the home's broker."""

    address: str = Field(
        min_length=1, max_length=512, description="the home's broker: mqtt://host:1883 or mqtts://host:8883"
    )
    format: Literal[
        "tasmota",
        "tasmota_sml",
        "shelly_gen1",
        "shelly_gen2",
        "zigbee2mqtt",
        "esphome",
        "homeassistant",
        "dsmr_reader",
        "pulse",
        "json",
    ] = Field(description="what the device publishes")
    topic: str = Field(
        min_length=1,
        max_length=_TOPIC_MAX,
        description="the device's topic, without wildcards (docs/meters.md has an example for each format); "
        "esphome and homeassistant: a sum of several is joined by ' + '",
    )
    export_topic: str | None = Field(
        None,
        min_length=1,
        max_length=_TOPIC_MAX,
        description="topic of the export register, if it has its own",
    )
    power_topic: str | None = Field(
        None, min_length=1, max_length=_TOPIC_MAX, description="topic of the power, if it has its own"
    )
    import_path: str | None = Field(None, max_length=256, description=f"path of the import register{_PATH}")
    export_path: str | None = Field(None, max_length=256, description=f"path of the export register{_PATH}")
    power_path: str | None = Field(None, max_length=256, description="path of the power, for display only")
    id_path: str | None = Field(None, max_length=256, description="path of the equipment id")
    time_path: str | None = Field(None, max_length=256, description="path of the time of the reading")
    unit: str | None = Field(None, description=f"unit of the registers: {', '.join(ENERGY_UNITS)}")
    unit_path: str | None = Field(
        None, max_length=256, description="path of the unit, if the payload says it"
    )
    scale: Decimal = Field(Decimal(1), gt=0, le=10**9, description="factor of the registers, such as 0.01")
    power_unit: Literal["W", "kW"] = Field("W", description="unit of the power")
    pulses_per_kwh: int | None = Field(
        None, ge=1, le=10**7, description="pulses per kWh, as printed on the meter"
    )
    component: str | None = Field(
        None,
        pattern=r"^[a-z0-9]{2,16}:[0-9]{1,3}$",
        description="shelly_gen2: switch:0, pm1:0, em:0 or em1:0",
    )
    array: Literal["auto", "sum", "first"] = Field(
        "auto",
        description="tasmota: an array of registers is summed (phases), or begins with the sum (tariffs)",
    )
    decimal: Literal[".", ","] = Field(".", description="decimal mark of numbers that are sent as text")
    user: str | None = Field(None, min_length=1, max_length=256, description="the home broker's user")
    password_file: str | None = Field(
        None, max_length=512, description="file with the user's password, readable by its owner only (0600)"
    )
    ca_file: str | None = Field(None, max_length=512, description="PEM file of the broker's CA, for mqtts://")
    insecure: bool = Field(False, description="send the password without TLS to another machine")
    silence_s: float = Field(
        300.0, gt=0, le=86_400, description="seconds without a message after which this is reported"
    )

    @field_validator("topic", "export_topic", "power_topic")
    @classmethod
    def _is_one_topic(cls, topic: str | None) -> str | None:
        for each in topics_of(topic) if topic is not None else ():
            if set("+#\0") & set(each) or not each.strip("/"):
                raise ValueError("expected one topic without + or #, which would mix devices")
        return topic

    @field_validator("unit")
    @classmethod
    def _is_known(cls, unit: str | None) -> str | None:
        if unit is not None and unit not in ENERGY_UNITS:
            raise ValueError(f"expected one of {', '.join(ENERGY_UNITS)}; came {unit[:20]!r}")
        return unit

    @model_validator(mode="after")
    def _is_whole(self) -> "Settings":
        name = format_of(dict(self))
        if name not in FORMATS:
            raise ValueError(_VARIANTS[self.format])
        for needed, why in FORMATS[name].needs.items():
            if getattr(self, needed) is None:
                raise ValueError(f"format {self.format} needs {needed}: {why}")
        for setting in _OPTIONAL:
            if getattr(self, setting) is not None and setting not in FORMATS[name].settings:
                raise ValueError(f"format {self.format} does not use {setting}; format json takes any path")
        sums = [each for each in (self.topic, self.export_topic or "") if len(topics_of(each)) > 1]
        if (sums and not FORMATS[name].kept) or len(topics_of(self.power_topic or "")) > 1:
            raise ValueError(
                f"format {self.format} takes one topic; a sum is for registers of esphome and homeassistant"
            )
        items = items_of(dict(self))
        registers = [item for item in items if item.role in ("import", "export")]
        if not registers:
            raise ValueError(f"format {self.format} needs import_path or export_path")
        if all(item.unit for item in registers) or self.format == "pulse":
            known = registers[0].unit or "pulses"
            if self.unit is not None or self.scale != 1:
                raise ValueError(f"format {self.format} knows its unit ({known}): leave unit and scale out")
        elif self.unit is None and self.unit_path is None and FORMATS[name].asks_unit:
            other = ", or unit_path if the payload says it" if self.format != "esphome" else ""
            raise ValueError(f"format {self.format} needs unit ({', '.join(ENERGY_UNITS)}){other}")
        if self.password_file is not None and self.user is None:
            raise ValueError("password_file needs user")
        return self

    def factor(self, told: str | None) -> Unit | None:
        """The registers' unit: what the device has told, else the settings'; None if neither is known."""
        if self.format == "pulse":
            return (1_000, self.pulses_per_kwh or 1)
        unit = told or self.unit
        return None if unit is None else (ENERGY_UNITS[unit][0] * self.scale, ENERGY_UNITS[unit][1])


_VARIANTS = {
    "shelly_gen1": "format shelly_gen1 needs the topic of a channel: shellies/shellyplug-s-A1B2C3/relay/0, "
    "or shellies/shellyem-A1B2C3/emeter/0; shellies/shellyem3-A1B2C3/emeter is the sum of a 3EM's phases",
    "shelly_gen2": "format shelly_gen2 needs component: switch:0 (a plug or relay), pm1:0, em:0 (three "
    "phases) or em1:0",
}
