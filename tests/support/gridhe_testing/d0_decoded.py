"""Readouts of an invented D0 meter, and the readings that the decoder makes of them."""

from decimal import Decimal
from functools import reduce
from operator import xor

from gridhe.meter_agent.sources.d0.decoder import D0Decoder
from gridhe.meter_agent.sources.reading import DeviceReading, total_wh

__all__ = ["BOTH", "IDENT", "LINES", "block", "decoded", "even", "only", "pushed", "wh"]

IDENT = b"/ELS5\\@V9.30 \r\n"
LINES = b"F.F(00)\r\nC.1(7755)\r\n1.8.0(000285.4*kWh)\r\n2.8.0(000120.1*kWh)\r\n"


def block(lines: bytes = LINES, ident: bytes = IDENT) -> bytes:
    """A readout with a checksum."""
    inner = lines + b"!\r\n\x03"
    return ident + b"\x02" + inner + bytes([reduce(xor, inner)])


def pushed(lines: bytes = LINES, ident: bytes = b"/ESY5Q3D\r\n") -> bytes:
    """A readout of mode D."""
    return ident + b"\r\n" + lines + b"!\r\n"


def even(data: bytes) -> bytes:
    """7E1 characters as a port of 8N1 reads them."""
    return bytes(byte | (byte.bit_count() % 2) << 7 for byte in data)


def decoded(data: bytes, unit: str | None = None) -> tuple[list[DeviceReading], dict[str, int]]:
    decoder = D0Decoder(missing_unit=unit)
    found = decoder.feed(data) + decoder.pause()
    return found, dict(decoder.faults)


def only(lines: bytes) -> DeviceReading:
    (reading,), faults = decoded(block(lines))
    assert faults == {}
    (same,), faults = decoded(pushed(lines))
    assert (same, faults) == (reading, {})
    return reading


def wh(reading: DeviceReading) -> tuple[Decimal | None, Decimal | None]:
    return total_wh(reading.imported), total_wh(reading.exported)


BOTH = (Decimal(285_400), Decimal(120_100))
