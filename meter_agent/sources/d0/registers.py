"""From the data sets of a readout (IEC 62056-21) to a reading.

Addresses are OBIS codes in short or long form:
1.8.0, 1-0:1.8.0*255, 1.8.0*10. *00 to *99 are values that were stored at the end of a period.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from gridhe.meter_agent.sources.d0.lines import DataSet, Readout
from gridhe.meter_agent.sources.reading import DeviceReading, Register

__all__ = ["ERROR_SET", "RegisterReader"]

ERROR_SET = "the meter reports an error of its own (F.F, 97.97.0): its values may be wrong; ask the operator"

_OBIS = re.compile(r"(?:(\d{1,3})-(\d{1,3}):)?(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?(?:([*&])(\d{1,3}))?")
_NUMBER = re.compile(r"\s*(-?)\s*(\d{1,12})(?:\.(\d{1,9}))?\s*(?:\*\s*([A-Za-z0-9]{1,5})\s*)?")
_FACTORS = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9}  # of a unit, as a power of ten
_IDS = ("96.1.0", "96.1.255", "C.1.0", "C.1", "0.0.9", "0.0.0")  # the serial number first
_ERRORS = ("F.F", "F.F.0", "97.97.0")
_TARIFF_MAX = 9
_DIGIT = re.compile(r"\d")
_NO_FORM: dict["_Code", str] = {}
_LARGEST_WH = Decimal(10) ** 15


class _Code(NamedTuple):
    c: int
    d: int
    e: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Number:
    value: Decimal
    exponent: int  # of its last digit
    digits: int  # before the decimal point
    padded: bool  # with zeros, to a fixed width
    unit: str  # "" for none


class RegisterReader:
    """Reads one meter's readouts; counts what it leaves out in `faults`."""

    def __init__(self, faults: Counter[str], *, missing_unit: str | None = None) -> None:
        self._faults = faults
        self._missing_unit = missing_unit or ""
        self._device: str | None = None
        self._form = self._other_form = _NO_FORM

    def reading(self, readout: Readout) -> DeviceReading | None:
        """The reading of one readout; None if it holds no energy register of electricity.

        In a readout without a checksum the registers have to have the form of the last one of the same meter:
        a lost digit or line looks like a good readout. A new form counts from its second readout on.
        """
        values = _live(readout.sets)
        named = {_short(address): value for address, value in reversed(readout.sets) if value}
        device = next((named[each].strip() for each in _IDS if named.get(each, "").strip()), None)
        if not readout.checked and not self._has_known_form(device, values):
            self._faults["form"] += 1
            return None
        imported, exported = self._direction(values, 1), self._direction(values, 2)
        if not imported and not exported:
            self._faults["no_energy"] += 1
            return None
        error = any(named.get(address, "").strip("0 ") for address in _ERRORS)
        return DeviceReading(
            imported=imported,
            exported=exported,
            power_w=_power_w(values, named),
            device=device,
            remarks=(ERROR_SET,) if error else (),
        )

    def _has_known_form(self, device: str | None, values: Mapping[_Code, list[str | None]]) -> bool:
        form = {code: _DIGIT.sub("0", str(same)) for code, same in values.items() if code.d == 8}
        if self._form == _NO_FORM or device != self._device or form == self._other_form:
            self._form = form
        self._device, self._other_form = device, form
        return form == self._form

    def _direction(self, values: Mapping[_Code, list[str | None]], c: int) -> dict[str, Register]:
        """The total, or without one all tariffs; nothing if one of these cannot be used."""
        total = _Code(c, 8, 0)
        codes = [total] if total in values else [code for code in values if code[:2] == total[:2]]
        found = {}
        for code in codes:
            register = self._register(code, values[code])
            if register is None:
                return {}
            found[f"{c}.8.{code.e}"] = register
        return found

    def _register(self, code: _Code, same: list[str | None]) -> Register | None:
        number = _number(same[0])
        power = _power_of_ten(number.unit or self._missing_unit, "wh") if number else None
        if len(set(same)) > 1:
            reason = "twice"
        elif number is None:
            reason = "bad_value" if same[0] and same[0].strip() else "empty_register"
        elif power is None:
            reason = "unit" if number.unit else "no_unit"
        elif code.e > _TARIFF_MAX:
            reason = "tariff"  # such as 63, which some meters give the sum of the others
        elif not 0 <= number.value.scaleb(power) < _LARGEST_WH:
            reason = "out_of_range"
        else:
            return Register(
                wh=number.value.scaleb(power),
                step_wh=Decimal(1).scaleb(number.exponent + power),
                modulus_wh=Decimal(1).scaleb(number.digits + power) if number.padded else None,
            )
        self._faults[reason] += 1
        return None


def _short(address: str) -> str:
    """The address without medium, channel and *255."""
    return address.rpartition(":")[2].removesuffix("*255")


def _live(sets: Iterable[DataSet]) -> dict[_Code, list[str | None]]:
    """The values of now by code. A meter marks them with nothing, with *255, or, if that is all, with *00."""
    found: dict[bool, dict[_Code, list[str | None]]] = {True: {}, False: {}}
    for address, value in sets:
        match = _OBIS.fullmatch(address)
        if match is None or (match[1] or "1") != "1" or int(match[2] or 0) > 1 or match[6] == "&":
            continue
        stored = int(match[7]) if match[7] else 255
        if stored in (0, 255):
            code = _Code(int(match[3]), int(match[4]), int(match[5] or 0))
            found[stored == 255].setdefault(code, []).append(value)
    plain, zero = found[True], found[False]
    directions = {code[:2] for code in plain}
    return plain | {code: values for code, values in zero.items() if code[:2] not in directions}


def _number(value: str | None) -> _Number | None:
    match = _NUMBER.fullmatch(value or "")
    if match is None:
        return None
    sign, digits, decimals, unit = match[1], match[2], match[3] or "", match[4] or ""
    return _Number(
        value=Decimal(f"{sign}{digits}.{decimals or 0}"),
        exponent=-len(decimals),
        digits=len(digits),
        padded=len(digits) > 1 and digits.startswith("0"),
        unit=unit,
    )


def _power_of_ten(unit: str, base: str) -> int | None:
    """3 for "kWh" with the base "wh"; None for another unit."""
    if not unit.lower().endswith(base):
        return None
    return _FACTORS.get(unit[: -len(base)])


def _power_w(values: Mapping[_Code, list[str | None]], named: Mapping[str, str]) -> Decimal | None:
    """Import minus export. For display: the registers alone decide about energy."""

    def watts(c: int) -> Decimal | None:
        number = _number(values.get(_Code(c, 7, 0), [None])[0])
        power = _power_of_ten(number.unit, "w") if number else None
        return None if number is None or power is None else number.value.scaleb(power)

    total, taken, given, absolute = watts(16), watts(1), watts(2), watts(15)
    if total is not None:
        return total
    if taken is not None or given is not None:
        return (taken or Decimal(0)) - (given or Decimal(0))
    status = re.fullmatch(r"[0-9A-Fa-f]{2}", named.get("96.5.5", ""))
    if absolute is None or status is None:  # without the status, its direction is not known
        return None
    return -absolute if int(status[0], 16) & 0x20 else absolute
