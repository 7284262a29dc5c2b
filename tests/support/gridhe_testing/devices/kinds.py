"""The telegrams of each kind of simulated meter, and how `gridhe-meter run` reads it."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from gridhe.demo.telegrams import LAYOUTS, MeterState
from gridhe_testing.devices.faults import Shown
from gridhe_testing.dlms_meter import code, hdlc, notification, scaler, structure, text, u32
from gridhe_testing.sml_meter import Entry, sml_frame, unsigned

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of meter."""

    name: str  # of its source
    write: Callable[..., bytes]  # a telegram of a Shown; of a polled meter, the answer to `request`
    settings: tuple[str, ...] = ()  # besides address
    polled: bool = False
    has_id: bool = True  # whether an exchange of the meter shows


def _p1(shown: Shown) -> bytes:
    state = MeterState(at_s=int(shown.at_s), serial=shown.serial, import_wh=shown.wh, export_wh=0, power_w=0)
    return LAYOUTS[0].write(state)


def _sml(shown: Shown) -> bytes:
    server = bytes.fromhex("0a01484c5902") + shown.serial.to_bytes(4, "big")
    return sml_frame(
        Entry(code="1-0:1.8.0*255", value=unsigned(shown.wh * 10, 8)),
        Entry(code="1-0:16.7.0*255", value=unsigned(100, 2), unit=unsigned(27)),
        server=server,
    )


def _han(shown: Shown) -> bytes:
    """A push of an Aidon meter (Sweden) in HDLC."""
    push = structure(
        text("AIDON_V0001"),
        structure(code("0-0:96.1.0"), text(f"{shown.serial:016d}")),
        structure(code("1-0:1.8.0"), u32(shown.wh), scaler(0)),
        structure(code("1-0:2.8.0"), u32(0), scaler(0)),
        structure(code("1-0:1.7.0"), u32(500), scaler(0, 27)),
    )
    return hdlc(notification(push))


def _modbus(shown: Shown, *, request: bytes) -> bytes:
    """The answer of a Schneider iEM3000 (RTU): energies are int64 in Wh, the power is a float in kW."""
    registers = dict(enumerate(struct.unpack(">4H", struct.pack(">q", shown.wh)), 3_203))
    registers |= dict(enumerate(struct.unpack(">2H", struct.pack(">f", 0.1)), 3_059))
    registers |= dict(enumerate(divmod(shown.serial, 1 << 16), 0x0081))
    unit, function, start, count = struct.unpack(">BBHH", request[:6])
    values = [registers.get(at, 0) for at in range(start, start + count)]
    answer = struct.pack(f">BBB{count}H", unit, function, 2 * count, *values)
    return answer + crc16_modbus(answer).to_bytes(2, "little")


def crc16_modbus(data: bytes) -> int:
    """CRC-16 of Modbus (Modbus over Serial Line V1.02, 6.2.2): polynomial 0x8005 reflected."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


KINDS = (
    Kind(name="p1", write=_p1),
    Kind(name="sml", write=_sml),
    Kind(name="han", write=_han),
    Kind(
        name="modbus",
        write=_modbus,
        settings=("map=schneider_iem3000", "poll_s=0.1", "timeout_s=0.2"),
        polled=True,
        has_id=False,
    ),
)
