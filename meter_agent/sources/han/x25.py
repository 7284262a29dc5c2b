"""CRC-16/X-25, HDLC's check sequence (ISO/IEC 13239: polynomial 0x1021 reflected, start and end inverted).

`binascii.crc_hqx` is the same polynomial with the highest bit first, in C: bytes and result are mirrored.
"""

from binascii import crc_hqx

__all__ = ["x25"]

_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def x25(data: bytes | bytearray) -> bytes:
    """The check sequence of `data` as its 2 bytes follow on the line: low byte first."""
    mirrored = crc_hqx(data.translate(_MIRROR), 0xFFFF) ^ 0xFFFF
    return bytes((_MIRROR[mirrored >> 8], _MIRROR[mirrored & 0xFF]))
