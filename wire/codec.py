"""Helpers of all decoders: bounded msgpack, checked fields, and errors with a reason."""

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from gridhe.errors import ConfigError, EnvelopeError

__all__ = [
    "TAG_BYTES",
    "bin_header",
    "field",
    "key_id",
    "pack",
    "plan_id",
    "tag",
    "tag_matches",
    "unpack",
    "unpack_bins",
]

TAG_BYTES = 32
_ID = re.compile(r"([pk])[0-9a-f]{16}")
T = TypeVar("T")


def pack(record: Any) -> bytes:
    """msgpack bytes."""
    packed: bytes = msgpack.packb(record)
    return packed


def unpack(data: bytes | memoryview) -> Any:
    """The object in msgpack bytes; no part can be larger than the bytes. Raises EnvelopeError `malformed`."""
    try:
        return msgpack.unpackb(data, use_list=False, max_ext_len=0)
    # For junk msgpack raises its own errors, ValueError (UTF-8, depth), TypeError (unhashable keys)
    # and, on deep nesting, RecursionError.
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise EnvelopeError("malformed", f"not msgpack: {type(error).__name__}") from None


# First byte of a msgpack byte string -> number of bytes of its length field, big-endian.
_BIN = {0xC4: 1, 0xC5: 2, 0xC6: 4}


def unpack_bins(data: bytes, count: int, max_bytes: int) -> list[memoryview]:
    """The `count` byte strings of a msgpack array, as views into `data`.

    Parsed here without msgpack, so that nothing is copied and junk uses no memory: a general unpacker
    would first build every nested object. Raises EnvelopeError `size` or `malformed`.
    """
    if len(data) > max_bytes:
        raise EnvelopeError("size", f"{len(data)} bytes, at most {max_bytes} are allowed")
    if not data or data[0] != 0x90 + count:
        raise EnvelopeError("malformed", f"not an array of {count}")
    view, at, parts = memoryview(data), 1, []
    for _ in range(count):
        width = _BIN.get(data[at]) if at < len(data) else None
        if width is None:
            raise EnvelopeError("malformed", f"not {count} byte strings")
        start = at + 1 + width
        at = start + int.from_bytes(data[start - width : start], "big")
        # (With a truncated length field, start is beyond the end.)
        if start > len(data) or at > len(data):
            raise EnvelopeError("malformed", "cut short")
        parts.append(view[start:at])
    if at != len(data):
        raise EnvelopeError("malformed", f"{len(data) - at} bytes too many")
    return parts


def bin_header(size: int) -> bytes:
    """The msgpack bytes before a byte string of this size, which must be below 2^32."""
    kind = next(kind for kind, width in _BIN.items() if size < 1 << 8 * width)
    return bytes([kind]) + size.to_bytes(_BIN[kind], "big")


def field(record: Any, name: str, kind: type[T], *, check: Callable[[T], Any] | None = None) -> T:
    """A field of a decoded map, of exactly this type. Raises EnvelopeError `malformed`."""
    if not isinstance(record, dict) or type(record.get(name)) is not kind:
        raise EnvelopeError("malformed", f"{name!r} is missing or not of type {kind.__name__}")
    value: T = record[name]
    if check is not None:
        try:
            check(value)
        except ConfigError as error:
            raise EnvelopeError("malformed", str(error)) from None
    return value


def _check_id(value: str, letter: str) -> None:
    match = _ID.fullmatch(value)
    if match is None or match.group(1) != letter:
        raise ConfigError(f"{value[:40]!r} is not {letter!r} and 16 hex digits")


def plan_id(value: str) -> None:
    """Raise ConfigError unless this is a plan's id."""
    _check_id(value, "p")


def key_id(value: str) -> None:
    """Raise ConfigError unless this is a key's id."""
    _check_id(value, "k")


def tag(ingest_key: bytes, *parts: bytes | memoryview) -> bytes:
    """HMAC-SHA256 over the concatenated parts, 32 bytes."""
    mac = hmac.new(ingest_key, parts[0], hashlib.sha256)
    for part in parts[1:]:
        mac.update(part)
    return mac.digest()


def tag_matches(received: bytes | memoryview, ingest_key: bytes, *parts: bytes | memoryview) -> bool:
    """Whether `received` is the tag of these parts, compared in constant time; any length is allowed."""
    return hmac.compare_digest(received, tag(ingest_key, *parts))
