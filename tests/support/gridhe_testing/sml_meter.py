"""An encoder of SML (BSI TR-03109-1): the frames of meters that tests invent."""

import binascii
from dataclasses import dataclass

__all__ = [
    "EMPTY",
    "SERVER",
    "Entry",
    "fields",
    "frame",
    "message",
    "message_of",
    "signed",
    "sml_frame",
    "text",
    "unsigned",
    "values",
]

EMPTY = b"\x01"
SERVER = bytes.fromhex("0a01484c590200000001")
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def crc(data: bytes, kind: str) -> bytes:
    """X-25 low byte first, or KERMIT high byte first, as meters send them."""
    first = 0xFFFF if kind == "x25" else 0
    value = binascii.crc_hqx(data.translate(_MIRRORED), first)
    value = int(f"{value:016b}"[::-1], 2)
    return (value ^ 0xFFFF).to_bytes(2, "little") if kind == "x25" else value.to_bytes(2, "big")


def _head(kind: int, length: int) -> bytes:
    """Type and length of a field; a length that counts its own bytes already."""
    if length < 16:
        return bytes([kind << 4 | length])
    return bytes([0x80 | kind << 4 | length >> 4, length & 15])


def text(data: bytes) -> bytes:
    return _head(0, len(data) + 1 + (len(data) > 14)) + data


def unsigned(value: int, size: int = 1) -> bytes:
    return _head(6, size + 1) + value.to_bytes(size, "big")


def signed(value: int, size: int = 1) -> bytes:
    return _head(5, size + 1) + value.to_bytes(size, "big", signed=True)


def fields(*each: bytes) -> bytes:
    return _head(7, len(each)) + b"".join(each)


def message(number: int, kind: int, content: bytes, crc_kind: str = "x25") -> bytes:
    return message_of(fields(unsigned(kind, 2), content), number, crc_kind)


def message_of(body: bytes, number: int = 1, crc_kind: str = "x25") -> bytes:
    inner = _head(7, 6) + text(number.to_bytes(3, "big")) + unsigned(0) + unsigned(0) + body
    return inner + b"\x63" + crc(inner, crc_kind) + b"\0"


def frame(*messages: bytes, crc_kind: str = "x25") -> bytes:
    inner = b"".join(messages)
    filler = -len(inner) % 4
    start = bytes.fromhex("1b1b1b1b01010101") + (inner + bytes(filler)).replace(b"\x1b" * 4, b"\x1b" * 8)
    start += bytes.fromhex("1b1b1b1b1a") + bytes([filler])
    return start + crc(start, crc_kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One value as a meter lists it: encoded fields, EMPTY for an absent one."""

    code: str  # "1-0:1.8.0*255"
    value: bytes
    unit: bytes = unsigned(30)
    scaler: bytes = signed(-1)
    status: bytes = EMPTY
    time: bytes = EMPTY

    def encode(self) -> bytes:
        groups = self.code.replace("-", ".").replace(":", ".").replace("*", ".").split(".")
        code = text(bytes(int(group) for group in groups))
        return fields(code, self.status, self.time, self.unit, self.scaler, self.value, EMPTY)


def values(*entries: Entry, server: bytes = SERVER, crc_kind: str = "x25", signature: bytes = EMPTY) -> bytes:
    """The message with a list of values (GetList.Res)."""
    rows = fields(*(entry.encode() for entry in entries))
    return message(2, 0x701, fields(EMPTY, text(server), EMPTY, EMPTY, rows, signature, EMPTY), crc_kind)


def sml_frame(*entries: Entry, server: bytes = SERVER, crc_kind: str = "x25") -> bytes:
    """A whole frame as meters push it: open, values, close."""
    return frame(
        message(1, 0x101, fields(EMPTY, EMPTY, text(b"\1\2\3"), text(server), EMPTY, EMPTY), crc_kind),
        values(*entries, server=server, crc_kind=crc_kind),
        message(3, 0x201, fields(EMPTY), crc_kind),
        crc_kind=crc_kind,
    )
