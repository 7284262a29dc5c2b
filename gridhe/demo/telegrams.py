"""Writes P1 telegrams as meters of several countries do, for simulated meters.

The layouts (lines, order, number of digits, units, time stamps, checksum) are those of real meters; the
equipment ids and the values are made up. This writer shares no code with the driver that reads them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

__all__ = ["LAYOUTS", "Layout", "MeterState"]

_AMSTERDAM = ZoneInfo("Europe/Amsterdam")
_SWEDEN = timezone(timedelta(hours=1))  # Swedish meters keep winter time all year


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterState:
    """What a meter shows at a moment."""

    at_s: int  # UTC epoch seconds
    serial: int
    import_wh: int
    export_wh: int
    power_w: int  # import minus export


@dataclass(frozen=True, slots=True)
class Layout:
    """The telegram of one kind of meter."""

    name: str
    lines: Callable[[MeterState], list[str]]

    def write(self, state: MeterState) -> bytes:
        """The telegram, with its checksum."""
        body = ("\r\n".join(self.lines(state)) + "\r\n!").encode("ascii")
        return body + f"{crc16_arc(body):04X}\r\n".encode()


def crc16_arc(data: bytes) -> int:
    """CRC-16/ARC: polynomial 0x8005 reflected, initial value 0 (DSMR 5.0.2 P1, chapter 5.2.2)."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def _stamp(at_s: int) -> str:
    local = datetime.fromtimestamp(at_s, _AMSTERDAM)
    return f"{local:%y%m%d%H%M%S}{'S' if local.dst() else 'W'}"


def _kwh(wh: int, digits: int = 6) -> str:
    return f"{wh // 1000:0{digits}d}.{wh % 1000:03d}*kWh"


def _kw(watts: int, digits: int = 2) -> str:
    return f"{max(0, watts) // 1000:0{digits}d}.{max(0, watts) % 1000:03d}*kW"


def _id(state: MeterState) -> str:
    return f"E9999{state.serial:012d}".encode().hex().upper()


def _dsmr5(state: MeterState) -> list[str]:
    low = state.import_wh // 3
    return [
        "/ISK5\\2M550T-1012",
        "",
        "1-3:0.2.8(50)",
        f"0-0:1.0.0({_stamp(state.at_s)})",
        f"0-0:96.1.1({_id(state)})",
        f"1-0:1.8.1({_kwh(low)})",
        f"1-0:1.8.2({_kwh(state.import_wh - low)})",
        f"1-0:2.8.1({_kwh(0)})",
        f"1-0:2.8.2({_kwh(state.export_wh)})",
        "0-0:96.14.0(0002)",
        f"1-0:1.7.0({_kw(state.power_w)})",
        f"1-0:2.7.0({_kw(-state.power_w)})",
        "0-0:96.7.21(00005)",
        "0-0:96.7.9(00003)",
        "1-0:99.97.0(1)(0-0:96.7.19)(190326095015W)(0000002014*s)",
        "1-0:32.32.0(00001)",
        "1-0:52.32.0(00001)",
        "1-0:72.32.0(00192)",
        "0-0:96.13.0()",
        "1-0:32.7.0(229.9*V)",
        "1-0:52.7.0(229.2*V)",
        "1-0:72.7.0(222.9*V)",
        "1-0:31.7.0(000*A)",
        "1-0:51.7.0(000*A)",
        "1-0:71.7.0(001*A)",
        f"1-0:21.7.0({_kw(state.power_w)})",
        "1-0:41.7.0(00.000*kW)",
        "1-0:61.7.0(00.000*kW)",
        "0-1:24.1.0(003)",
        "0-1:96.1.0()",
        "0-1:24.2.1(700101010000W)(00000000)",
    ]


def _dsmr42(state: MeterState) -> list[str]:
    low = state.import_wh // 2
    return [
        "/KFM5KAIFA-METER",
        "",
        "1-3:0.2.8(42)",
        f"0-0:1.0.0({_stamp(state.at_s)})",
        f"0-0:96.1.1({_id(state)})",
        f"1-0:1.8.1({_kwh(low)})",
        f"1-0:1.8.2({_kwh(state.import_wh - low)})",
        f"1-0:2.8.1({_kwh(state.export_wh)})",
        f"1-0:2.8.2({_kwh(0)})",
        "0-0:96.14.0(0002)",
        f"1-0:1.7.0({_kw(state.power_w)})",
        f"1-0:2.7.0({_kw(-state.power_w)})",
        "1-0:99.97.0(2)(0-0:96.7.19)(000104180320W)(0000237126*s)(000101000001W)(2147583646*s)",
        "0-0:96.13.1()",
        "0-0:96.13.0()",
        "0-1:24.1.0(003)",
        "0-1:24.2.1(161129200000W)(00981.443*m3)",
    ]


def _fluvius(state: MeterState) -> list[str]:
    day = state.import_wh // 4
    return [
        "/FLU5\\253769484_A",
        "",
        "0-0:96.1.4(99930)",
        f"0-0:96.1.1({_id(state)})",
        f"0-0:1.0.0({_stamp(state.at_s)})",
        f"1-0:1.8.1({_kwh(day)})",
        f"1-0:1.8.2({_kwh(state.import_wh - day)})",
        f"1-0:2.8.1({_kwh(state.export_wh)})",
        f"1-0:2.8.2({_kwh(0)})",
        "1-0:1.4.0(02.351*kW)",
        "1-0:1.6.0(632525252525W)(02.589*kW)",
        "0-0:98.1.0(1)(1-0:1.6.0)(1-0:1.6.0)(200501000000S)(200423192538S)(03.695*kW)",
        "0-0:96.14.0(0001)",
        f"1-0:1.7.0({_kw(state.power_w)})",
        f"1-0:2.7.0({_kw(-state.power_w)})",
        "0-0:96.3.10(1)",
        "0-0:17.0.0(999.9*kW)",
        "0-0:96.13.0()",
    ]


def _austria(state: MeterState) -> list[str]:
    first = state.import_wh // 5 * 4
    return [
        "/EST5\\253710000_A",
        "",
        "1-3:0.2.8(50)",
        f"0-0:1.0.0({_stamp(state.at_s)})",
        f"1-0:1.8.0({state.import_wh:09d}*Wh)",
        f"1-0:1.8.1({first:09d}*Wh)",
        f"1-0:1.8.2({state.import_wh - first:09d}*Wh)",
        f"1-0:1.7.0({max(0, state.power_w):09d}*W)",
        f"1-0:2.8.0({state.export_wh:09d}*Wh)",
        f"1-0:2.8.1({0:09d}*Wh)",
        f"1-0:2.8.2({state.export_wh:09d}*Wh)",
        f"1-0:2.7.0({max(0, -state.power_w):09d}*W)",
        "1-0:3.8.0(000000747*varh)",
        "1-0:4.8.0(003897726*varh)",
    ]


def _hungary(state: MeterState) -> list[str]:
    first = state.import_wh // 3
    return [
        "/SAG5SAG-METER",
        "",
        f"0-0:1.0.0({_stamp(state.at_s)})",
        f"0-0:96.1.0({_id(state)})",
        "0-0:96.14.0(0001)",
        "0-0:17.0.0(90.000*kW)",
        f"1-0:1.8.0({_kwh(state.import_wh)})",
        f"1-0:1.8.1({_kwh(first)})",
        f"1-0:1.8.2({_kwh(state.import_wh - first)})",
        f"1-0:1.8.3({_kwh(0)})",
        f"1-0:1.8.4({_kwh(0)})",
        f"1-0:2.8.0({_kwh(state.export_wh)})",
        f"1-0:15.8.0({_kwh(state.import_wh + state.export_wh)})",
        "1-0:13.7.0(4.556)",
        f"1-0:1.7.0({_kw(state.power_w)})",
        f"1-0:2.7.0({_kw(-state.power_w)})",
        "0-0:96.13.0()",
    ]


def _sweden(state: MeterState) -> list[str]:
    local = datetime.fromtimestamp(state.at_s, UTC).astimezone(_SWEDEN)
    return [
        "/LGF5E360",
        "",
        f"0-0:1.0.0({local:%y%m%d%H%M%S}W)",
        f"1-0:1.8.0({_kwh(state.import_wh, 8)})",
        f"1-0:2.8.0({_kwh(state.export_wh, 8)})",
        "1-0:3.8.0(00000518.309*kVArh)",
        f"1-0:1.7.0({_kw(state.power_w, 4)})",
        f"1-0:2.7.0({_kw(-state.power_w, 4)})",
        "1-0:32.7.0(230.1*V)",
        "1-0:31.7.0(000.6*A)",
    ]


LAYOUTS = (
    Layout("DSMR 5, Iskra AM550 (Netherlands)", _dsmr5),
    Layout("DSMR 4.2, Kaifa MA304 (Netherlands)", _dsmr42),
    Layout("e-MUCS 1.7.1, Fluvius (Belgium)", _fluvius),
    Layout("Sagemcom T210-D (Austria)", _austria),
    Layout("Sagemcom, E.ON (Hungary)", _hungary),
    Layout("Landis+Gyr E360 (Sweden)", _sweden),
)
