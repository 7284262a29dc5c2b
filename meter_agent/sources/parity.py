"""7E1 characters that a port with 8 data bits read: bit 7 holds the even parity.

Seven data bits with even parity and eight without parity are the same bits on the wire. A port that is set to
8N1 therefore reads both, and the parity of every character can be checked here. Serial drivers do not.
"""

__all__ = ["SEVEN_BITS", "sound"]

SEVEN_BITS = bytes(byte & 0x7F for byte in range(256))  # for bytes.translate
_EVEN = bytes(byte for byte in range(256) if byte.bit_count() % 2 == 0)


def sound(data: bytes) -> bool:
    """Whether these are seven-bit characters, either all without parity or all with the right one."""
    return data.isascii() or not data.translate(None, _EVEN)
