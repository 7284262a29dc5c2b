"""CRC-16/ARC, the checksum of P1 telegrams (DSMR 5.0.2 P1 Companion Standard, 5.2.2).

Polynomial 0x8005, bits reflected, first value 0 (the catalogue of parametrised CRC algorithms: the check
value of "123456789" is 0xBB3D).
"""

__all__ = ["crc16_arc"]


def _row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_row, range(256)))


def crc16_arc(data: bytes) -> int:
    """The checksum of `data`, 0..65535."""
    crc = 0
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc
