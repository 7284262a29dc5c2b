"""Turns messages into readings. No I/O and no clock: topics, payloads and arrivals in, readings out.

Every message that holds no reading is counted by reason in `faults`:

    not_json       the payload is no JSON object (cut off, another format)
    no_value       nothing at any of the paths; `details` names the keys that are there
    null           the device says that it does not know: null, "unavailable", "nan", an empty payload
    not_a_number   a value is no number, also one with the other decimal mark or with a unit
    impossible     a register below 0 or above any meter's, a part of a pulse
    zero           every register is 0, from a device that publishes 0 until it has read its meter
    array          an array of registers may be phases or tariffs: setting `array` decides
    no_unit, other_unit   the unit topic has not come, or it contradicts the setting `unit`
    retained       kept by the broker, of unknown age or older than FRESH_S
    incomplete     a part of a reading that comes as several messages did not come
    power          the power is a fill value or above `largest_w`
    too_long       larger than payload.MAX_BYTES

A direction of which one register has no value has no registers in the reading. A sum of topics waits until
each of them came in this connection: what the broker kept may be from a device that is gone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from gridhe.meter_agent.sources.mqtt.formats import FORMATS, Item, format_of, items_of
from gridhe.meter_agent.sources.mqtt.values import DIRECTIONS, Found, Values
from gridhe.meter_agent.sources.payload import (
    ABSENT,
    ENERGY_UNITS,
    MAX_BYTES,
    POWER_UNITS,
    UNUSABLE,
    at_path,
    epoch_s,
    is_null,
    leaf_names,
    number,
    parse_json,
)
from gridhe.meter_agent.sources.reading import DeviceReading

if TYPE_CHECKING:
    from gridhe.meter_agent.sources.mqtt.settings import Settings

__all__ = ["FRESH_S", "QUIET_S", "Arrival", "MessageDecoder"]

FRESH_S: Final = 60.0  # a retained message with a time of its own is used up to this age
QUIET_S: Final = 0.5  # after this long without a message, the parts of a reading have all come
_VALUES: Final = (*DIRECTIONS, "power", "power_out")
_AHEAD_S: Final = 60.0
_UNSET_S: Final = 1_420_070_400.0  # 2015: a clock before it was never set


@dataclass(frozen=True, slots=True)
class Arrival:
    """A reading and when its (first) message arrived, UTC epoch seconds."""

    reading: DeviceReading
    arrived_s: float


class MessageDecoder:
    """The messages of one device. Takes any bytes and raises nothing."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._format = FORMATS[format_of(dict(settings))]
        self._items = items_of(dict(settings))
        self._zone = ZoneInfo(settings.zone) if settings.zone else None
        self._by_topic: dict[str, list[Item]] = {}
        for item in self._items:
            self._by_topic.setdefault(item.topic, []).append(item)
        self._often_without = {text.replace("{topic}", settings.topic) for text in self._format.often_without}
        self._waiting: dict[str, tuple[bytes, float]] = {}  # values whose unit has not come, by topic
        self._kept: dict[Item, Any] = {}  # the last value of each topic of a sum, in this connection
        self._parts: dict[Item, Any] = {}  # of the reading that is being gathered
        self._parts_at_s: float | None = None
        self._parts_arrived_s = 0.0
        self.faults: Counter[str] = Counter()
        self.details: dict[str, str] = {}  # by reason; names only, never values
        self._values = Values(settings, self._format, self.details)
        self._hint: str | None = f"a message on {settings.topic}"

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics to subscribe to."""
        return tuple(self._by_topic)

    @property
    def gathers(self) -> bool:
        """Whether `pause` is to be called QUIET_S after a message."""
        return self._format.gathered

    @property
    def waiting_for(self) -> str | None:
        """What is missing while messages come and no reading does."""
        return self._hint

    def reset(self) -> None:
        """The connection was opened anew: drop an unfinished reading. Counts and units stay."""
        self._parts.clear()
        self._parts_at_s = None
        self._waiting.clear()
        self._kept.clear()

    # -- messages ------------------------------------------------------------------------------

    def message(self, topic: str, payload: bytes, *, retained: bool, arrived_s: float) -> list[Arrival]:
        """The readings that a message completes, at most two. `retained`: the broker had kept it."""
        items = self._by_topic.get(topic)
        if not items:
            return []
        if len(payload) > MAX_BYTES:
            return self._drop("too_long", f"{topic}: a payload of {len(payload)} bytes")
        if not payload:  # the topic was deleted
            return self._drop("null")
        if items[0].role == "unit":
            return self._unit(items[0], payload)
        document: Any = None
        if any(item.path is not None for item in items):
            document = self._document(payload)
            if document is UNUSABLE:
                return self._drop("not_json", f"{topic}: the payload is no JSON object")
        bare = payload.decode("utf-8", "replace")
        values = {item: bare if item.path is None else at_path(document, item.path) for item in items}
        at_s = self._time(values, arrived_s)
        if retained and (at_s is None or not -_AHEAD_S <= arrived_s - at_s <= FRESH_S):
            return self._drop("retained", f"{topic}: of unknown age, or old; a new message is waited for")
        if self._format.gathered and document is None:
            return self._gather(values, at_s, arrived_s)
        for item, value in values.items():
            if item.role == "unit_text":
                self._values.units[topic] = value if isinstance(value, str) and value in ENERGY_UNITS else ""
        if self._holds_back(topic, values, payload, arrived_s):
            return []
        if self._format.kept:
            values = self._with_kept(values)
        if all(value is ABSENT for item, value in values.items() if item.role in _VALUES):
            if topic in self._often_without:
                return []
            wanted = ", ".join(dict.fromkeys(item.name for item in items if item.role in DIRECTIONS))
            return self._drop("no_value", f"{topic}: nothing at {wanted}; there is {leaf_names(document)}")
        return self._readings([self._values.find(values, at_s, arrived_s)])

    def pause(self) -> list[Arrival]:
        """No message for QUIET_S: the parts of a reading have all come."""
        return self._readings(self._gathered())

    def _document(self, payload: bytes) -> Any:
        document = parse_json(payload)
        wrapper = self._format.wrapper
        if wrapper is not None and isinstance(document, dict) and isinstance(document.get(wrapper), dict):
            document = document[wrapper]
        return document if isinstance(document, dict) else UNUSABLE

    def _drop(self, reason: str, detail: str = "") -> list[Arrival]:
        self.faults[reason] += 1
        if detail:
            self.details[reason] = detail
        self._hint = f"a usable value ({reason})"
        return []

    def _time(self, values: Mapping[Item, Any], arrived_s: float) -> float | None:
        """The message's own time; None if it is not certain, or its clock is ahead or was never set."""
        for item, value in values.items():
            if item.role == "time":
                at_s = epoch_s(number(value) if item.path is None and number(value) else value, self._zone)
                if at_s is not None and _UNSET_S <= at_s <= arrived_s + _AHEAD_S:
                    return at_s
        return None

    # -- units ---------------------------------------------------------------------------------

    def _unit(self, item: Item, payload: bytes) -> list[Arrival]:
        """The unit of another topic's value; that value may have been waiting for it."""
        text = payload.decode("utf-8", "replace").strip().strip('"')
        topic = "".join(item.path or ())
        known = (
            ENERGY_UNITS if any(each.role in DIRECTIONS for each in self._by_topic[topic]) else POWER_UNITS
        )
        self._values.units[topic] = text if text in known else ""
        if text not in known:
            return self._drop("no_unit", f"{item.topic}: the unit is none of {', '.join(known)}")
        held = self._waiting.pop(topic, None)
        return [] if held is None else self.message(topic, held[0], retained=False, arrived_s=held[1])

    def _holds_back(self, topic: str, values: Mapping[Item, Any], payload: bytes, arrived_s: float) -> bool:
        """Whether the unit of this topic's values is not known yet, or contradicts the settings."""
        told = self._values.units.get(topic)
        if told == "":
            self._drop("no_unit", f"{topic}: its unit is none of {', '.join(ENERGY_UNITS)}")
            return True
        if not any(item.role in DIRECTIONS and not item.unit for item in values):
            return False
        if self._settings.factor(told) is None:
            if not is_null(next(iter(values.values()))):
                self._waiting[topic] = (payload, arrived_s)
                self._hint = f"the unit of {topic}"
            return True
        if told is not None and self._settings.unit is not None and told != self._settings.unit:
            self._drop(
                "other_unit", f"{topic}: the unit topic says {told}, the settings {self._settings.unit}"
            )
            return True
        return False

    def _with_kept(self, values: dict[Item, Any]) -> dict[Item, Any]:
        """With the last values of the other registers of a sum, which were published when they changed."""
        self._kept.update(values)
        roles = {item.role for item in values}
        return {
            item: self._kept.get(item, ABSENT)
            for item in self._items
            if item.role in roles and item.role != "unit"
        }

    # -- readings that come in parts -----------------------------------------------------------

    def _gather(self, values: Mapping[Item, Any], at_s: float | None, arrived_s: float) -> list[Arrival]:
        """Keep a part. A part that is there already, also the time, begins the next reading."""
        done: list[Found] = []
        for item, value in values.items():
            if item in self._parts:
                done += self._gathered()
            if not self._parts:
                self._parts_arrived_s = arrived_s
            self._parts[item] = value
            if item.role == "time":
                self._parts_at_s = at_s
        if len(self._parts) == sum(item.path is None for item in self._items):
            done += self._gathered()
        return self._readings(done)

    def _gathered(self) -> list[Found]:
        """The reading that is being gathered, if it has parts beside its time; the next one begins."""
        parts, at_s, arrived_s = self._parts, self._parts_at_s, self._parts_arrived_s
        self._parts, self._parts_at_s = {}, None
        if all(item.role == "time" for item in parts):
            return []
        found = self._values.find(parts, at_s, arrived_s)
        for role in _VALUES:
            wanted = {item for item in self._items if item.role == role and item.path is None}
            here = wanted & parts.keys()
            if here and here != wanted:
                found.miss(role, "incomplete")
        return [found]

    # -- readings ------------------------------------------------------------------------------

    def _readings(self, several: Iterable[Found]) -> list[Arrival]:
        arrivals = []
        for found in several:
            for reason in dict.fromkeys(found.reasons):
                self.faults[reason] += 1
            imported, exported = (
                {} if role in found.broken else found.registers.get(role, {}) for role in DIRECTIONS
            )
            power_w = found.power_w
            if imported or exported or power_w is not None:
                self._hint = None
                reading = DeviceReading(
                    imported=imported,
                    exported=exported,
                    power_w=power_w,
                    device=found.device,
                    at_s=found.at_s,
                    remarks=tuple(dict.fromkeys(found.reasons)),
                )
                arrivals.append(Arrival(reading, found.arrived_s))
            elif found.reasons:
                self._hint = f"a usable value ({found.reasons[0]})"
        return arrivals
