"""The values of one message as registers and power: numbers, units, arrays, and the noise of floats."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from gridhe.meter_agent.sources.mqtt.formats import Format, Item, Role
from gridhe.meter_agent.sources.payload import (
    ABSENT,
    ENERGY_UNITS,
    POWER_UNITS,
    Resolution,
    Unit,
    equipment_id,
    is_null,
    number,
    register,
    scaled,
)
from gridhe.meter_agent.sources.reading import Register

if TYPE_CHECKING:
    from gridhe.meter_agent.sources.mqtt.settings import Settings

__all__ = ["DIRECTIONS", "Found", "Values"]

DIRECTIONS: tuple[Role, ...] = ("import", "export")
_FILLS = frozenset(map(Decimal, ("65535", "32767", "-32767", "-32768", "6553.5", "3276.7", "-3276.8")))
_ARRAY_MAX = 16
_FINEST_WH = Decimal("0.1")  # of a float: near 0 it is finer than any meter
_TARIFF_NOISE = Decimal("0.0025")  # kWh: three values that are rounded one by one


@dataclass(slots=True)
class Found:
    """What one message, or the messages of one reading, hold."""

    arrived_s: float
    registers: dict[Role, dict[str, Register]] = field(default_factory=dict)
    powers: dict[Role, dict[str, Decimal]] = field(default_factory=dict)
    broken: set[Role] = field(default_factory=set)  # roles of which a value is missing
    device: str | None = None
    at_s: float | None = None
    reasons: list[str] = field(default_factory=list)

    def miss(self, role: Role, reason: str) -> None:
        """A value of `role` is not there or unusable."""
        self.broken.add(role)
        self.reasons.append(reason)

    @property
    def power_w(self) -> Decimal | None:
        """Import minus export; None if one of the parts is missing."""
        if self.broken & {"power", "power_out"} or not self.powers:
            return None
        total_in, total_out = (
            sum(self.powers.get(role, {}).values(), Decimal(0)) for role in ("power", "power_out")
        )
        return total_in - total_out


class Values:
    """Reads the values of one device's messages. Remembers units and resolutions."""

    def __init__(self, settings: "Settings", form: Format, details: dict[str, str]) -> None:
        """`details` takes an explanation of a reason: names only."""
        self._settings, self._format, self.details = settings, form, details
        self.units: dict[str, str] = {}  # by the topic of the value
        self._resolutions: dict[tuple[Role, str], Resolution] = {}

    def find(self, values: Mapping[Item, Any], at_s: float | None, arrived_s: float) -> Found:
        """The registers, powers and equipment id of `values`, by item."""
        found = Found(arrived_s=arrived_s, at_s=at_s)
        for item, value in values.items():
            if item.role == "device":
                found.device = equipment_id(value)
            elif item.role not in ("time", "unit_text"):
                self._take(found, item, value)
        # Of a sum, every register has to be there; a direction without any is one that the device has not.
        for role in DIRECTIONS:
            wanted = [item for item in values if item.role == role]
            if any(values[item] is ABSENT for item in wanted) and found.registers.get(role):
                found.miss(role, "no_value")
        if self._format.zero_first:
            registers = [each for part in found.registers.values() for each in part.values()]
            if registers and not any(each.wh for each in registers):
                found.registers.clear()
                found.powers.clear()
                found.reasons.append("zero")
        return found

    def _take(self, found: Found, item: Item, value: Any) -> None:
        """One value, or an array of them."""
        if value is ABSENT:
            return
        if not isinstance(value, list) or not value or not self._format.arrays:
            self._take_one(found, item, value, item.name)
            return
        several = self._phases(item, value)
        if not several:
            found.miss(item.role, "array")
            self.details["array"] = (
                f"{item.name} is an array whose first value is the sum of the others: set array=first if it "
                "is a total before its tariffs, array=sum if it is one value a phase"
            )
        for position, each in enumerate(several):
            self._take_one(found, item, each, f"{item.name}[{position}]")

    def _phases(self, item: Item, values: list[Any]) -> list[Any]:
        """The elements that make up the sum; none if that is not certain."""
        if len(values) > _ARRAY_MAX:
            return []
        if item.role not in DIRECTIONS or self._settings.array == "sum":
            return values
        if self._settings.array == "first":
            return values[:1]
        known = [number(each) for each in values]
        numbers = [each for each in known if each is not None]
        if len(numbers) == len(known) > 2 and numbers[0]:
            # Older Tasmota writes [sum, tariff 1, tariff 2] under the key of [phase 1, phase 2, phase 3].
            rest = sum(numbers[1:], Decimal(0))
            if abs(rest - numbers[0]) <= _TARIFF_NOISE:
                return []
        return values

    def _take_one(self, found: Found, item: Item, value: Any, name: str) -> None:
        if is_null(value):
            found.miss(item.role, "null")
            return
        given = number(value, decimal=self._settings.decimal)
        if given is None:
            found.miss(item.role, "not_a_number")
        elif item.role in DIRECTIONS:
            taken = self._register(item, given, name)
            if taken is None:
                found.miss(item.role, "impossible")
            else:
                found.registers.setdefault(item.role, {})[name] = taken
        else:
            power_w = scaled(given, self._factor(item))
            if given in _FILLS or abs(power_w) > self._settings.largest_w:
                found.miss(item.role, "power")
            else:
                found.powers.setdefault(item.role, {})[name] = power_w

    def _register(self, item: Item, given: Decimal, name: str) -> Register | None:
        unit = self._factor(item)
        if self._format.float32:
            short = _as_float32(given)
            taken = None if short is None else register(short[0], unit)
            if taken is None or short is None:
                return None
            return Register(wh=taken.wh, step_wh=max(scaled(short[1], unit), _FINEST_WH))
        if self._format.whole and given != given.to_integral_value():
            return None
        if not self._format.trims:
            return register(given, unit)
        resolution = self._resolutions.setdefault((item.role, name), Resolution())
        return register(given, unit, resolution)

    def _factor(self, item: Item) -> Unit:
        if item.role in DIRECTIONS:
            if item.unit:
                return ENERGY_UNITS[item.unit]
            return self._settings.factor(self.units.get(item.topic)) or (1, 1)
        return POWER_UNITS[item.unit or self.units.get(item.topic) or self._settings.power_unit]


def _as_float32(value: Decimal) -> tuple[Decimal, Decimal] | None:
    """The shortest decimal of the 32-bit float nearest to `value`, and the distance to the next float.

    ESPHome writes 8345.45996 for the float of 8345.46. None if it is beyond these floats.
    """
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        return None
    (nearest,) = struct.unpack("<f", packed)
    (following,) = struct.unpack("<f", (int.from_bytes(packed, "little") + 1).to_bytes(4, "little"))
    for digits in range(1, 10):
        text = f"{nearest:.{digits}g}"
        if struct.pack("<f", float(text)) == packed:
            break
    return Decimal(text), Decimal(f"{abs(following - nearest):.3g}")
