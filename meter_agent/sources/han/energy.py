"""From a push list to a reading: registers, power, device, time."""

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from zoneinfo import ZoneInfo

from gridhe.errors import RemoteError
from gridhe.meter_agent.sources.han.axdr import NULL, TEXTS
from gridhe.meter_agent.sources.han.clock import Season, Stamp, moment_s, parse_stamp
from gridhe.meter_agent.sources.han.lists import Entry, PushList
from gridhe.meter_agent.sources.han.profiles import STANDARD_TIME_ZONES, Profile
from gridhe.meter_agent.sources.reading import DeviceReading, Register

__all__ = ["Agreements", "to_reading"]

_W, _WH = 27, 30
_SCALER_MAX = 12
_REGISTER_TAGS = (0x05, 0x06, 0x12, 0x14, 0x15, 0x17, 0x18)  # 16 bits and more: no flag, enum or index
_TARIFFS = range(1, 64)
_DEVICE_MAX = 64
# The equipment's number: general, Kamstrup's, other parts of the number, the device's logical name.
_DEVICE_CODES = ("0-0:96.1.0", "1-1:0.0.5", "0-0:96.1.1", "1-0:0.0.0", "0-0:42.0.0")
_CLOCK_CODES = ("0-0:1.0.0", "0-1:1.0.0", "1-0:1.0.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreements:
    """What telegrams do not say and the settings do."""

    zone: ZoneInfo | None = None
    season: Season = None
    register_wh: Decimal | None = None  # of one step, in telegrams without scalers


def to_reading(
    push: PushList,
    *,
    time: bytes | None,
    title: bytes | None,
    profile: Profile,
    agreements: Agreements,
    faults: Counter[str],
) -> DeviceReading | None:
    """The reading; None if the list has neither energy nor power. `time` and `title`: of the notification.

    Raises RemoteError, reason "conflict", if one register has two values. A register of unknown scale, of
    another unit or without a value is left out with its whole direction, and counted.
    """
    remarks: list[str] = []
    step_wh = agreements.register_wh
    if step_wh is None:
        step_wh = profile.step_wh(agreements.zone.key if agreements.zone else None)
    directions: list[dict[str, Register]] = []
    for group in (1, 2):
        try:
            directions.append(_registers(_energy(push, group), step_wh))
        except _Unusable as error:
            faults[error.reason] += 1
            remarks.append(str(error))
            directions.append({})
    imported, exported = directions
    power = _power(push)
    if not imported and not exported and power is None:
        if not remarks:
            faults["no_reading"] += 1
        return None
    return DeviceReading(
        imported=imported,
        exported=exported,
        power_w=power,
        device=_device(push, title),
        at_s=_at_s(push, time, profile, agreements),
        remarks=tuple(dict.fromkeys(remarks)),
    )


class _Unusable(RemoteError):
    """A direction's registers cannot be used; the message is a remark."""


def _energy(push: PushList, group: int) -> list[Entry]:
    """The total of a direction, or else its tariffs. Landis+Gyr's ZMF100 has 0 for the first group."""
    total: list[Entry] = []
    tariffs: list[Entry] = []
    for entry in push.entries:
        medium, _, rest = entry.code.partition(":")
        if not medium.startswith(("1-", "0-")) or not rest.startswith(f"{group}.8.") or "*" in rest:
            continue
        tariff = int(rest.rpartition(".")[2])
        if tariff == 0:
            total.append(entry)
        elif tariff in _TARIFFS:
            tariffs.append(entry)
    return total or tariffs


def _registers(entries: list[Entry], step_wh: Decimal | None) -> dict[str, Register]:
    registers: dict[str, Register] = {}
    tariffs: dict[str, Decimal] = {}
    for entry in entries:
        if entry.value.tag == NULL:
            return {}  # "not available": the direction is not known
        register = _register(entry, step_wh)
        number = entry.code.partition(":")[2]
        if tariffs.setdefault(number, register.wh) != register.wh:
            raise RemoteError("conflict", f"two values of {number}")
        if all(code.partition(":")[2] != number for code in registers):
            registers[entry.code] = register
    return registers


def _register(entry: Entry, step_wh: Decimal | None) -> Register:
    if entry.unit not in (None, _WH):
        raise _Unusable("unit", f"register {entry.code} is not in Wh (DLMS unit {entry.unit})")
    if entry.scaler is not None:
        if abs(entry.scaler) > _SCALER_MAX:
            raise _Unusable("scale", f"register {entry.code} has an impossible scaler")
        step_wh = Decimal(1).scaleb(entry.scaler)
    elif step_wh is None:
        raise _Unusable(
            "scale",
            "the telegram does not say what a step of its registers is: compare with the display and set "
            "register_wh=1 or register_wh=10 (or the zone, for a known make)",
        )
    value = entry.value.value
    if entry.value.tag not in _REGISTER_TAGS or not isinstance(value, int | Decimal):
        raise _Unusable("type", f"register {entry.code} is no number of 16 bits or more")
    exact = Decimal(value)
    if not exact.is_finite() or exact < 0 or exact.adjusted() > 20:
        raise _Unusable("type", f"register {entry.code} is negative or no number")
    return Register(wh=exact * step_wh, step_wh=step_wh)


def _power(push: PushList) -> Decimal | None:
    """Import minus export, in W; by agreement if the telegram has no unit. For display only."""
    imported, exported, net = (_watts(push, group) for group in (1, 2, 16))
    if imported is None:
        return net if exported is None or net is not None else -exported
    return imported if exported is None else imported - exported


def _watts(push: PushList, group: int) -> Decimal | None:
    for entry in push.entries:
        medium, _, rest = entry.code.partition(":")
        if rest != f"{group}.7.0" or not medium.startswith(("1-", "0-")):
            continue
        value = entry.value.value
        if not isinstance(value, int | Decimal) or entry.unit not in (None, _W):
            return None
        exact = Decimal(value)
        if not exact.is_finite() or abs(entry.scaler or 0) > _SCALER_MAX:
            return None
        return exact.scaleb(entry.scaler or 0)
    return None


def _device(push: PushList, title: bytes | None) -> str | None:
    """The equipment's id in the list, or else the system title of an encrypted push."""
    entry = push.find(*_DEVICE_CODES)
    data = push.last if entry is None else entry.value
    if data is None or data.tag not in TEXTS or not isinstance(data.value, bytes):
        return title.hex() if title else None
    raw = data.value.rstrip(b"\x00 ")[:_DEVICE_MAX]
    if not raw:
        return None
    return raw.decode("ascii") if raw.isascii() and raw.decode("ascii").isprintable() else raw.hex()


def _at_s(push: PushList, time: bytes | None, profile: Profile, agreements: Agreements) -> float | None:
    """The clock inside the list, which belongs to its registers, or else the time of the push."""
    stamp = _stamp(push, time)
    if stamp is None:
        return None
    season = agreements.season or profile.season
    if agreements.season is None and agreements.zone and agreements.zone.key in STANDARD_TIME_ZONES:
        season = "standard"
    return moment_s(stamp, agreements.zone, season)


def _stamp(push: PushList, time: bytes | None) -> Stamp | None:
    entry = push.find(*_CLOCK_CODES)
    if entry is not None:
        clock = entry.value.value
        return parse_stamp(clock) if isinstance(clock, bytes) else None
    clocks = [*push.clocks, *([time] if time else [])]
    return parse_stamp(clocks[0]) if clocks else None
