"""What devices publish, as a table: for each format its rows of role, topic, path and unit.

    role      import, export: registers; power, power_out: W now, import and export; time, device: of the
              reading; unit: the unit of the value whose topic is the row's path; unit_text: the unit of
              the registers in the same payload
    topic     {name} stands for a setting
    path      of the value in a JSON payload, {name} stands for a setting; None: the payload is the value
    unit      "": the setting `unit`, or what a `unit` row says

A row that names a setting which is not set is left out. Sources: tasmota.github.io/docs (JSON responses),
shelly-api-docs.shelly.cloud (gen1: MQTT; gen2: EM, EMData, EM1Data, Switch, PM1), zigbee2mqtt.io (exposes:
energy, produced_energy, power), esphome.io (MQTT client), home-assistant.io (mqtt_statestream),
dsmr-reader.readthedocs.io (MQTT).

Shelly's three-phase meters count each phase alone: their export grows while the house as a whole imports.
The two registers are passed on as they are, and never netted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gridhe.meter_agent.sources.payload import split_path

__all__ = ["FORMATS", "Format", "Item", "Role", "format_of", "items_of", "topics_of"]

Role = Literal["import", "export", "power", "power_out", "time", "device", "unit", "unit_text"]
_Row = tuple[Role, str, str | None, str]
_SUM = " + "


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format, or one variant of it."""

    rows: tuple[_Row, ...]
    wrapper: str | None = None  # an object that holds the document in answers to a command
    arrays: bool = False  # a value may be an array of one value a phase
    gathered: bool = False  # a reading comes as several messages
    kept: bool = False  # one topic a register, published when it changes: a sum keeps the others' values
    trims: bool = False  # writes 12.3 for 12.300
    float32: bool = False  # the device's numbers have 24 bits
    zero_first: bool = False  # publishes 0 until it has read its meter
    whole: bool = False  # counts: whole numbers only
    often_without: tuple[str, ...] = ()  # topics of which most messages hold no reading
    needs: Mapping[str, str] = field(default_factory=dict)  # settings that it needs, and why

    @property
    def settings(self) -> set[str]:
        """The settings that its rows name."""
        return {name for row in self.rows for text in row[1:3] for name in _NAME.findall(text or "")}

    @property
    def asks_unit(self) -> bool:
        """Whether neither the format nor the messages fix the registers' unit."""
        roles = {role for role, *_, unit in self.rows if not unit}
        return not self.whole and "import" in roles and "unit" not in roles


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A row with the settings of one device."""

    role: Role
    topic: str
    path: tuple[str, ...] | None
    unit: str
    name: str  # of the register


_NAME = re.compile(r"\{(\w+)\}")
_USER_PATHS: tuple[_Row, ...] = (
    ("import", "{topic}", "{import_path}", ""),
    ("export", "{topic}", "{export_path}", ""),
    ("power", "{topic}", "{power_path}", "{power_unit}"),
    ("device", "{topic}", "{id_path}", ""),
    ("time", "{topic}", "{time_path}", ""),
    ("unit_text", "{topic}", "{unit_path}", ""),
)
_DSMR = ("electricity_delivered", "electricity_returned", "electricity_currently_")


def _shelly_gen1(register: str, unit: str) -> tuple[_Row, ...]:
    return (("import", f"{{topic}}/{register}", None, unit), ("power", "{topic}/power", None, "W"))


def _shelly_gen2(imported: str, exported: str, power: str) -> tuple[_Row, ...]:
    """The values of a component: on its own topics, and in the notifications of all components."""
    paths: tuple[tuple[Role, str, str, str], ...] = (
        ("import", "data", imported, "Wh"),
        ("export", "data", exported, "Wh"),
        ("power", "component", power, "W"),
    )
    status = [(role, f"{{topic}}/status/{{{of}}}", path, unit) for role, of, path, unit in paths]
    events = [(role, "{topic}/events/rpc", f"params.{{{of}}}.{path}", unit) for role, of, path, unit in paths]
    return (*status, *events, ("time", "{topic}/events/rpc", "params.ts", ""))


def _dsmr_reader(topic: str, inside: bool) -> tuple[_Row, ...]:
    """One topic a value below `topic`, or all of them in the JSON message of `topic`."""
    values: tuple[tuple[Role, str, str], ...] = (
        ("time", "timestamp", ""),
        ("import", f"{_DSMR[0]}_1", "kWh"),
        ("import", f"{_DSMR[0]}_2", "kWh"),
        ("export", f"{_DSMR[1]}_1", "kWh"),
        ("export", f"{_DSMR[1]}_2", "kWh"),
        ("power", f"{_DSMR[2]}delivered", "kW"),
        ("power_out", f"{_DSMR[2]}returned", "kW"),
    )
    if inside:
        return tuple((role, topic, name, unit) for role, name, unit in values)
    return tuple((role, f"{topic}/{name}", None, unit) for role, name, unit in values)


FORMATS: Mapping[str, Format] = {
    "tasmota": Format(
        rows=(
            ("import", "{topic}", "ENERGY.Total", "kWh"),
            ("export", "{topic}", "ENERGY.ExportActive", "kWh"),
            ("power", "{topic}", "ENERGY.Power", "W"),
            ("time", "{topic}", "Time", ""),
        ),
        wrapper="StatusSNS",
        arrays=True,
    ),
    "tasmota_sml": Format(
        rows=(*_USER_PATHS, ("time", "{topic}", "Time", "")),
        wrapper="StatusSNS",
        zero_first=True,
        needs={"import_path": "the script names its values, for example SML.Total_in"},
    ),
    "shelly_gen1/relay": Format(rows=_shelly_gen1("energy", "Wmin")),
    "shelly_gen1/emeter": Format(
        rows=(*_shelly_gen1("total", "Wh"), ("export", "{topic}/total_returned", None, "Wh"))
    ),
    "shelly_gen1/emeters": Format(
        rows=tuple(
            row
            for phase in range(3)
            for row in (
                ("import", f"{{topic}}/{phase}/total", None, "Wh"),
                ("export", f"{{topic}}/{phase}/total_returned", None, "Wh"),
                ("power", f"{{topic}}/{phase}/power", None, "W"),
            )
        ),
        gathered=True,
    ),
    "shelly_gen2/em": Format(
        rows=_shelly_gen2("total_act", "total_act_ret", "total_act_power"),
        often_without=("{topic}/events/rpc",),
    ),
    "shelly_gen2/em1": Format(
        rows=_shelly_gen2("total_act_energy", "total_act_ret_energy", "act_power"),
        often_without=("{topic}/events/rpc",),
    ),
    "shelly_gen2/switch": Format(
        rows=_shelly_gen2("aenergy.total", "ret_aenergy.total", "apower"),
        often_without=("{topic}/events/rpc",),
    ),
    "zigbee2mqtt": Format(
        rows=(
            ("import", "{topic}", "energy", "kWh"),
            ("export", "{topic}", "produced_energy", "kWh"),
            ("power", "{topic}", "power", "W"),
            ("time", "{topic}", "last_seen", ""),
        ),
        trims=True,
        zero_first=True,
    ),
    "esphome": Format(
        rows=(
            ("import", "{topic}", None, ""),
            ("export", "{export_topic}", None, ""),
            ("power", "{power_topic}", None, "{power_unit}"),
        ),
        kept=True,
        float32=True,
        zero_first=True,
    ),
    "homeassistant": Format(
        rows=(
            ("import", "{topic}/state", None, ""),
            ("export", "{export_topic}/state", None, ""),
            ("power", "{power_topic}/state", None, ""),
            ("unit", "{topic}/unit_of_measurement", "{topic}/state", ""),
            ("unit", "{export_topic}/unit_of_measurement", "{export_topic}/state", ""),
            ("unit", "{power_topic}/unit_of_measurement", "{power_topic}/state", ""),
        ),
        kept=True,
        trims=True,
        zero_first=True,
    ),
    "dsmr_reader": Format(
        rows=(*_dsmr_reader("{topic}/reading", inside=False), *_dsmr_reader("{topic}/json", inside=True)),
        gathered=True,
    ),
    "pulse": Format(
        rows=(("import", "{topic}", "{import_path}", ""), ("time", "{topic}", "{time_path}", "")),
        whole=True,
        needs={"pulses_per_kwh": "it is printed on the meter (1000, 800, ...)"},
    ),
    "json": Format(
        rows=_USER_PATHS,
        trims=True,
        zero_first=True,
    ),
}


def format_of(settings: Mapping[str, Any]) -> str:
    """The name of the settings' format and variant in FORMATS; of none if the settings do not tell."""
    levels = settings["topic"].split("/")
    match settings["format"]:
        case "shelly_gen1":
            if levels[-1] == "emeter":
                return "shelly_gen1/emeters"
            kind = levels[-2] if len(levels) > 1 and levels[-1].isdigit() else "none"
            return f"shelly_gen1/{'relay' if kind in ('roller', 'light') else kind}"
        case "shelly_gen2":
            kind = (settings["component"] or "none").split(":")[0]
            return f"shelly_gen2/{kind if kind in ('em', 'em1', 'none') else 'switch'}"
        case name:
            return str(name)


def topics_of(topic: str) -> list[str]:
    """The topics of a sum, joined by ` + `."""
    return [each.strip() for each in topic.split(_SUM)]


def items_of(settings: Mapping[str, Any]) -> tuple[Item, ...]:
    """The rows of the settings' format that the settings, by name, complete."""
    form = FORMATS[format_of(settings)]
    # The energy of component em:0 is in emdata:0; other components have one for both.
    data = re.sub(r"^(em1?):", r"\1data:", settings["component"] or "")
    values = {**settings, "data": data}
    found: list[Item] = []
    for row in form.rows:
        named = _NAME.findall(row[1])[0]
        topics = topics_of(values[named] or "") if form.kept else [values[named]]
        for topic in topics:
            found += _items_of_row(row, {**values, named: topic or None})
    if form.wrapper is not None:
        found += [replace(item, topic=topic) for topic in _answers(settings["topic"]) for item in found]
    return tuple(found)


def _items_of_row(row: _Row, values: Mapping[str, Any]) -> list[Item]:
    role, topic, path, unit = row
    names = _NAME.findall(f"{topic} {path or ''} {unit}")
    if path == "{import_path}" and values["format"] == "pulse" and values["import_path"] is None:
        path = None  # the payload is the count
    elif any(values[name] is None for name in names):
        return []
    topic, unit = _filled(topic, values), _filled(unit, values)
    if path is None or role == "unit":
        name = topic.removeprefix(values["topic"]).strip("/").removeprefix("reading/") or "total"
        if FORMATS[format_of(values)].kept:
            name = topic
        of = None if path is None else (_filled(path, values),)
        return [Item(role=role, topic=topic, path=of, unit=unit, name=name)]
    filled = _filled(path, values)
    found = []
    for each in filled.split(_SUM) if path.startswith("{") else (filled,):
        # The same register is also on a topic of its own, under the same name.
        name = each.strip().removeprefix(f"params.{values['data']}.")
        found.append(Item(role=role, topic=topic, path=split_path(each.strip()), unit=unit, name=name))
    return found


def _answers(topic: str) -> tuple[str, ...]:
    """The topics of Tasmota's answers to `Status 8` and `Status 10`, which hold what is in SENSOR."""
    levels = topic.split("/")
    if levels[-1] != "SENSOR" or "tele" not in levels:
        return ()
    levels[levels.index("tele")] = "stat"
    return tuple("/".join((*levels[:-1], name)) for name in ("STATUS8", "STATUS10"))


def _filled(text: str, values: Mapping[str, object]) -> str:
    return _NAME.sub(lambda match: str(values[match[1]]), text)
