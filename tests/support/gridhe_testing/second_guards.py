"""The PRF lines of docs/wire.md a second time, in plain Python, to check `gridhe.plan.guards` against.

Written from the page with hmac and hashlib alone; nothing of gridhe is imported. ChaCha20 is RFC 8439's.
"""

import hashlib
import hmac
import struct
from collections.abc import Sequence

__all__ = [
    "alpha",
    "chacha20",
    "context",
    "fill",
    "guard_key",
    "hkdf",
    "home_key",
    "presence",
    "primes",
    "sealed",
    "siv",
    "words",
]

_WORD = 0xFFFFFFFF


def _rotate(value: int, bits: int) -> int:
    return (value << bits & _WORD) | value >> (32 - bits)


def _quarter_round(state: list[int], a: int, b: int, c: int, d: int) -> None:
    """RFC 8439, 2.1."""
    for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[x] = state[x] + state[y] & _WORD
        state[z] = _rotate(state[z] ^ state[x], bits)


def _block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """RFC 8439, 2.3."""
    constants = struct.unpack("<4I", b"expand 32-byte k")
    start = [*constants, *struct.unpack("<8I", key), counter & _WORD, *struct.unpack("<3I", nonce)]
    state = start[:]
    for _ in range(10):
        for column in range(4):
            _quarter_round(state, column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            _quarter_round(state, column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return struct.pack("<16I", *((a + b) & _WORD for a, b in zip(start, state, strict=True)))


def chacha20(key: bytes, size: int, counter: int = 0, nonce: bytes = bytes(12)) -> bytes:
    """The first `size` bytes of the key stream."""
    blocks = -(-size // 64)
    return b"".join(_block(key, counter + i, nonce) for i in range(blocks))[:size]


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, 32 bytes: one block of output."""
    extracted = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def guard_key(guard_secret: bytes, meter: str) -> bytes:
    """k."""
    return hkdf(guard_secret, b"gridhe/v2/guard/" + meter.encode("ascii"))


def home_key(guard_secret: bytes) -> bytes:
    """h."""
    return hkdf(guard_secret, b"gridhe/v2/home")


def context(plan_id: str, window: int) -> bytes:
    """ctx: 25 bytes."""
    return plan_id.encode("ascii") + struct.pack(">Q", window)


def _hmac(key: bytes, label: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, label + b"\x00" + b"".join(parts), hashlib.sha256).digest()


def presence(bits: Sequence[int]) -> bytes:
    """Highest bit first, padded with zeros."""
    packed = bytearray(-(-len(bits) // 8))
    for at, bit in enumerate(bits):
        packed[at // 8] |= bit << (7 - at % 8)
    return bytes(packed)


def siv(k: bytes, ctx: bytes, used: Sequence[int]) -> bytes:
    """8 bytes."""
    return _hmac(k, b"gridhe/v2/siv", ctx, struct.pack(f"<{len(used)}q", *used))[:8]


def sealed(k: bytes, ctx: bytes, siv: bytes, present: bytes) -> bytes:
    """The presence, masked."""
    mask = chacha20(_hmac(k, b"gridhe/v2/presence", ctx, siv), len(present))
    return bytes(a ^ b for a, b in zip(present, mask, strict=True))


def words(k: bytes, ctx: bytes, siv: bytes, present: bytes, guards: int, guard_bits: int) -> list[int]:
    """g, one for each guard slot."""
    stream = chacha20(_hmac(k, b"gridhe/v2/guards", ctx, siv, present), 2 * guards)
    return [word & (1 << guard_bits) - 1 for word in struct.unpack(f"<{guards}H", stream)]


def primes(guard_bits: int) -> list[int]:
    """p_0 to p_7."""
    return ([65521, 65519] if guard_bits == 16 else [16381, 16369]) * 4


def alpha(h: bytes, ctx: bytes, used: int, guard_bits: int) -> list[list[int]]:
    """alpha_ji: 8 coefficients for each used slot."""
    stream = chacha20(_hmac(h, b"gridhe/v2/alpha", ctx), 4 * 8 * used)
    numbers = struct.unpack(f"<{8 * used}I", stream)
    return [[numbers[8 * j + i] % p for i, p in enumerate(primes(guard_bits))] for j in range(used)]


def fill(
    used: Sequence[int],
    present_bits: Sequence[int],
    *,
    k: bytes,
    h: bytes,
    ctx: bytes,
    slots: int,
    guard_bits: int,
) -> tuple[list[int], bytes]:
    """All slots of a batch, and its proof."""
    number = siv(k, ctx, used)
    present = presence(present_bits)
    guards = words(k, ctx, number, present, slots - len(used), guard_bits)
    coefficients = alpha(h, ctx, len(used), guard_bits)
    for i, p in enumerate(primes(guard_bits)):
        checksum = sum(row[i] * x for row, x in zip(coefficients, used, strict=True))
        guards[len(guards) - 8 + i] = (guards[len(guards) - 8 + i] + checksum) % p
    return [*used, *guards], number + sealed(k, ctx, number, present)
