"""An encoder of DLMS pushes: the telegrams of meters that tests invent, and the frames that carry them."""

__all__ = [
    "NULL",
    "array",
    "blocks",
    "clock",
    "code",
    "enum",
    "escaped",
    "hdlc",
    "i8",
    "i32",
    "mbus",
    "mbus_segments",
    "notification",
    "octets",
    "scaler",
    "segments",
    "structure",
    "text",
    "u16",
    "u32",
    "x25",
]

NULL = b"\x00"
LLC = b"\xe6\xe7\x00"


def x25(data: bytes) -> bytes:
    """CRC-16/X-25 bit by bit, low byte first: another way than the decoder's."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x8408 if value & 1 else 0)
    return (value ^ 0xFFFF).to_bytes(2, "little")


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    return bytes([0x81, size]) if size < 0x100 else b"\x82" + size.to_bytes(2, "big")


def structure(*elements: bytes) -> bytes:
    return b"\x02" + _length(len(elements)) + b"".join(elements)


def array(*elements: bytes) -> bytes:
    return b"\x01" + _length(len(elements)) + b"".join(elements)


def octets(data: bytes) -> bytes:
    return b"\x09" + _length(len(data)) + data


def text(words: str) -> bytes:
    return b"\x0a" + _length(len(words)) + words.encode("ascii")


def code(obis: str) -> bytes:
    """ "1-0:1.8.0" as an octet string; the sixth group is 255 unless "*97" follows."""
    groups = obis.replace("-", ".").replace(":", ".").replace("*", ".").split(".")
    return octets(bytes(int(group) for group in (*groups, "255")[:6]))


def u16(value: int) -> bytes:
    return b"\x12" + value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return b"\x06" + value.to_bytes(4, "big")


def i32(value: int) -> bytes:
    return b"\x05" + value.to_bytes(4, "big", signed=True)


def i8(value: int) -> bytes:
    return b"\x0f" + value.to_bytes(1, "big", signed=True)


def enum(value: int) -> bytes:
    return bytes([0x16, value])


def scaler(exponent: int, unit: int = 30) -> bytes:
    """Scaler and unit: 30 Wh, 27 W."""
    return structure(i8(exponent), enum(unit))


def clock(stamp: str, deviation: int = -0x8000, status: int = 0) -> bytes:
    """The 12 bytes of "2025-12-14 17:00:00"."""
    date, time = stamp.split()
    year, month, day = map(int, date.split("-"))
    return (
        year.to_bytes(2, "big")
        + bytes([month, day, 0xFF, *map(int, time.split(":")), 0xFF])
        + deviation.to_bytes(2, "big", signed=True)
        + bytes([status])
    )


def notification(body: bytes, time: bytes = b"") -> bytes:
    """A data-notification."""
    return b"\x0f\x40\x00\x00\x00" + _length(len(time)) + time + body


def hdlc(
    information: bytes, *, more: bool = False, llc: bool = True, addresses: bytes = b"\x41\x03"
) -> bytes:
    """One frame with its flags; `addresses` are destination and source."""
    information = (LLC if llc else b"") + information
    size = 2 + len(addresses) + 1 + 2 + len(information) + 2
    head = bytes([0xA0 | (8 if more else 0) | size >> 8, size & 0xFF]) + addresses + b"\x13"
    covered = head + x25(head) + information
    return b"\x7e" + covered + x25(covered) + b"\x7e"


def segments(apdu: bytes, size: int, **kinds: bytes) -> list[bytes]:
    """One APDU in HDLC segments of `size` bytes."""
    parts = [apdu[at : at + size] for at in range(0, len(apdu), size)]
    last = len(parts) - 1
    return [hdlc(part, more=at < last, llc=at == 0, **kinds) for at, part in enumerate(parts)]


def blocks(apdu: bytes, size: int) -> list[bytes]:
    """One APDU as a general block transfer: a frame for each block, the LLC header in the first."""
    parts = [apdu[at : at + size] for at in range(0, len(apdu), size)]
    last = len(parts) - 1
    frames = []
    for at, part in enumerate(parts):
        control = 0xC0 if at == last else 0x40
        head = bytes([0xE0, control]) + (at + 1).to_bytes(2, "big") + b"\x00\x00"
        frames.append(hdlc(head + _length(len(part)) + part, llc=at == 0, addresses=b"\xce\xff\x03"))
    return frames


def escaped(frame: bytes) -> bytes:
    """A frame whose inner 7e and 7d are escaped."""
    inner = frame[1:-1].replace(b"\x7d", b"\x7d\x5d").replace(b"\x7e", b"\x7d\x5e")
    return b"\x7e" + inner + b"\x7e"


def mbus(data: bytes, *, number: int = 0, last: bool = True) -> bytes:
    """A wired M-Bus long frame; its length is modulo 256, as Sagemcom's meters write it."""
    body = bytes([0x53, 0xFF, number | (0x10 if last else 0), 0x01, 0x67]) + data
    size = len(body) & 0xFF
    return bytes([0x68, size, size, 0x68]) + body + bytes([sum(body) & 0xFF, 0x16])


def mbus_segments(apdu: bytes, size: int = 245) -> list[bytes]:
    """One APDU in numbered M-Bus segments."""
    parts = [apdu[at : at + size] for at in range(0, len(apdu), size)]
    return [mbus(part, number=at % 16, last=at == len(parts) - 1) for at, part in enumerate(parts)]
