"""From a list of values (SML GetList.Res) to a reading.

An entry is (OBIS code of 6 bytes, status, time, unit, scaler, value, signature). It stands for
value x 10^scaler in the unit; scaler and unit are optional. Only codes 1-0:C.D.E*255 are of now: *96 to *100
are sums of past periods.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from gridhe.meter_agent.sources.reading import DeviceReading, Register
from gridhe.meter_agent.sources.sml.messages import Field, Message, Number

__all__ = ["LOCKED", "ListReader"]

LOCKED = "whole kWh only: enter the meter's PIN and switch on its detailed values (INF On), for good"

_GET_LIST = 0x701
_WH, _W, _NO_UNIT = 30, 27, (None, 0, 255)  # IEC 62056-6-2; 0 and 255 are "no unit"
_SCALER_MAX = 9
_LARGEST_WH = Decimal(10) ** 15  # nothing that a meter counts; and digits of a Decimal are 28
_LOCKED_STEP_WH = 1_000
_MAKER_DZG = b"DZG"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    status: int | None
    unit: int | None
    scaler: int
    value: Field


class ListReader:
    """Reads the lists of values of one meter's frames; counts what it leaves out in `faults`."""

    def __init__(self, faults: Counter[str], *, missing_unit_is_wh: bool = False) -> None:
        self._faults = faults
        self._missing_unit_is_wh = missing_unit_is_wh

    def reading(self, message: Message) -> DeviceReading | None:
        """The reading in a message; None if it is no list of values, or holds no energy register."""
        if message.kind != _GET_LIST:
            return None
        match message.content:
            case (_, server, _, _, tuple(rows), *_):
                entries = self._entries(rows)
            case _:
                self._faults["no_list"] += 1
                return None
        imported, exported = self._direction(entries, 1), self._direction(entries, 2)
        if not imported and not exported:
            self._faults["no_energy"] += 1
            return None
        device = server if isinstance(server, bytes) else _serial(entries)
        locked = any(each.step_wh >= _LOCKED_STEP_WH for each in (*imported.values(), *exported.values()))
        return DeviceReading(
            imported=imported,
            exported=exported,
            power_w=_power_w(entries, device or b""),
            device=device.hex() if device else None,
            locked=locked,
            remarks=(LOCKED,) if locked else (),
        )

    def _entries(self, rows: tuple[Field, ...]) -> dict[bytes, list[_Entry]]:
        """Every entry of now by its code's groups A to E. A code may stand twice."""
        found: dict[bytes, list[_Entry]] = {}
        for row in rows:
            match row:
                case (bytes(code), status, _, unit, scaler, value, *_) if len(code) == 6 and code[5] == 255:
                    entry = _Entry(
                        status=_integer(status),
                        unit=_integer(unit),
                        scaler=_integer(scaler) or 0,
                        value=value,
                    )
                    found.setdefault(code[:5], []).append(entry)
        return found

    def _direction(self, entries: Mapping[bytes, list[_Entry]], c: int) -> dict[str, Register]:
        """The total, or without one all tariffs; nothing if one of these cannot be used."""
        total = bytes([1, 0, c, 8, 0])
        codes = [total] if total in entries else [code for code in entries if code[:4] == total[:4]]
        found = {}
        for code in codes:
            register = self._register(entries[code])
            if register is None:
                return {}
            found[f"{c}.8.{code[4]}"] = register
        return found

    def _register(self, same: list[_Entry]) -> Register | None:
        entry = same[0]
        reason = None
        if any(other != entry for other in same):
            reason = "twice"
        elif not isinstance(entry.value, Number):
            reason = "empty_register"
        elif entry.unit in _NO_UNIT and not self._missing_unit_is_wh:
            reason = "no_unit"
        elif entry.unit not in (_WH, *_NO_UNIT):
            reason = "unit"
        elif abs(entry.scaler) > _SCALER_MAX or not 0 <= (wh := _scaled(entry)) < _LARGEST_WH:
            reason = "out_of_range"
        else:
            return Register(wh=wh, step_wh=Decimal(1).scaleb(entry.scaler))
        self._faults[reason] += 1
        return None


def _integer(field: Field) -> int | None:
    return field.value if isinstance(field, Number) else None


def _scaled(entry: _Entry) -> Decimal:
    value = _integer(entry.value)
    return Decimal(0 if value is None else value).scaleb(entry.scaler)


def _serial(entries: Mapping[bytes, list[_Entry]]) -> bytes | None:
    """The meter's own id as an entry: 1-0:96.1.0, 1-0:0.0.9 or 1-0:0.0.0."""
    for code in (b"\1\0\x60\1\0", b"\1\0\0\0\x09", b"\1\0\0\0\0"):
        for entry in entries.get(code, ()):
            if isinstance(entry.value, bytes):
                return entry.value
    return None


def _delivers(entries: Mapping[bytes, list[_Entry]]) -> bool | None:
    """What the status word says of the sum of all phases; None without one.

    The 24 or 32 bits of a basic meter by the FNN's specification end in 04, and bit 11 is the direction; the
    older one of EDL meters has it in bit 5.
    """
    codes = sorted(code for code in entries if code[:2] == b"\1\0" and code[2] in (1, 2) and code[3] == 8)
    for status in (entry.status for code in codes for entry in entries[code]):
        if status is not None:
            return bool(status & (0x800 if status & 0xFF == 4 else 0x20))
    return None


def _power_w(entries: Mapping[bytes, list[_Entry]], device: bytes) -> Decimal | None:
    """Import minus export. For display: the registers alone decide about energy.

    Many meters send the sum without its sign; then the status word has the direction. Meters of DZG before
    serial number 60000000 send 327.68 to 655.35 W as an unsigned number that is marked as signed.
    """
    for c, e in ((16, 0), (15, 0), (1, 0), (1, 1)):
        for entry in entries.get(bytes([1, 0, c, 7, e]), ()):
            if not isinstance(entry.value, Number) or entry.unit != _W or abs(entry.scaler) > _SCALER_MAX:
                continue
            power, delivers = _scaled(entry), _delivers(entries)
            returned = entries.get(bytes([1, 0, 2, 7, e]), []) if c == 1 else []
            if returned and returned[0].unit == _W and abs(returned[0].scaler) <= _SCALER_MAX:
                return power - _scaled(returned[0])
            if power > 0 and delivers:
                return -power
            if power < 0 and delivers is False and _MAKER_DZG in device and len(entry.value.data) == 2:
                return power + Decimal(1 << 16).scaleb(entry.scaler)
            return power
    return None
