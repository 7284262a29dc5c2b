"""The two checksums of SML: CRC-16/X-25 of BSI TR-03109-1, and CRC-16/KERMIT that some meters use instead.

Both have the polynomial 0x1021 and reflected bits; they differ in their first and last step (the catalogue of
parametrised CRC algorithms: check values of "123456789" are 0x906E and 0x2189).
"""

import binascii

__all__ = ["frame_crcs", "message_crcs"]

_REFLECTED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _reflected(data: bytes, first: int) -> int:
    crc = binascii.crc_hqx(data.translate(_REFLECTED), first)
    return _REFLECTED[crc & 0xFF] << 8 | _REFLECTED[crc >> 8]


def frame_crcs(data: bytes) -> tuple[bytes, bytes]:
    """The two bytes that may stand behind `data`: X-25, low byte first; KERMIT, high byte first."""
    return (
        (_reflected(data, 0xFFFF) ^ 0xFFFF).to_bytes(2, "little"),
        _reflected(data, 0).to_bytes(2, "big"),
    )


def message_crcs(data: bytes) -> tuple[int, int]:
    """The same two checksums as the unsigned integers that a message gives them as."""
    x25, kermit = frame_crcs(data)
    return int.from_bytes(x25, "big"), int.from_bytes(kermit, "big")
