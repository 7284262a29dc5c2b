"""Frames of an invented SML meter, and the readings that the decoder makes of them."""

from decimal import Decimal

from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe.meter_agent.sources.sml.decoder import SmlDecoder
from gridhe_testing.sml_meter import (
    SERVER,
    Entry,
    signed,
    sml_frame,
    unsigned,
)

__all__ = ["EXPORT", "FNN_DELIVERING", "FNN_TAKING", "IMPORT", "decoded", "only", "power", "wh"]

IMPORT = Entry(code="1-0:1.8.0*255", value=unsigned(12_345_678, 4))
EXPORT = Entry(code="1-0:2.8.0*255", value=unsigned(987_654, 4))
FNN_TAKING, FNN_DELIVERING = unsigned(0x1C0104, 3), unsigned(0x1D4904, 3)


def power(value: bytes, code: str = "1-0:16.7.0*255", scaler: int = 0) -> Entry:
    return Entry(code=code, value=value, unit=unsigned(27), scaler=signed(scaler))


def decoded(data: bytes, *, missing_unit_is_wh: bool = False) -> tuple[list[DeviceReading], dict[str, int]]:
    decoder = SmlDecoder(missing_unit_is_wh=missing_unit_is_wh)
    found = decoder.feed(data) + decoder.pause()
    return found, dict(decoder.faults)


def only(*entries: Entry, server: bytes = SERVER) -> DeviceReading:
    (reading,), faults = decoded(sml_frame(*entries, server=server))
    assert faults == {}
    return reading


def wh(reading: DeviceReading) -> tuple[Decimal | None, Decimal | None]:
    return total_wh(reading.imported), total_wh(reading.exported)
