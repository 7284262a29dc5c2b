"""The messages of SML (BSI TR-03109-1): fields of a type and length, in lists, and a checksum a message.

A field's first byte holds its type (bits 6 to 4) and four bits of its length; bit 7 says that the next byte
holds four more bits. The length counts these bytes too, except a list's: that is the number of its fields.
"""

from dataclasses import dataclass

from gridhe.meter_agent.sources.sml.crc import message_crcs

__all__ = ["Field", "Message", "MessageError", "Number", "messages"]

_TEXT, _TRUTH, _SIGNED, _UNSIGNED, _LIST = 0, 4, 5, 6, 7
_DEPTH_MAX = 12
_NUMBER_MAX = 8  # bytes


class MessageError(ValueError):
    """A message that is damaged, or that is none; `str` is the word to count it by."""


@dataclass(frozen=True, slots=True)
class Number:
    """An integer and the bytes that it came in."""

    value: int
    data: bytes


# bytes: an octet string; None: an octet string of no length, SML's form of an absent value.
Field = bytes | bool | Number | None | tuple["Field", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message: the number of its kind, such as 0x701 (GetList.Res), and its content."""

    kind: int
    content: Field


def messages(data: bytes) -> list[Message]:
    """Every message of one frame. Raises MessageError if one is damaged: then none is to be used."""
    found = []
    at = 0
    while at < len(data):
        if data[at] == 0:  # filler
            at += 1
            continue
        message, at = _message(data, at)
        found.append(message)
    return found


def _message(data: bytes, start: int) -> tuple[Message, int]:
    """(transaction, group, abort on error, (kind, content), CRC of all before it), 0."""
    kind, fields, at = _head(data, start)
    if (kind, fields) != (_LIST, 6):
        raise MessageError("no_message")
    for _ in range(4):
        body, at = _field(data, at, 1)
    crc, end = _field(data, at, 1)
    if not isinstance(crc, Number) or data[end : end + 1] != b"\0":
        raise MessageError("no_message")
    if crc.value not in message_crcs(data[start:at]):
        raise MessageError("message_crc")
    match body:
        case (Number(number), content):
            return Message(kind=number, content=content), end + 1
        case _:
            raise MessageError("no_message")


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Type, length as sent, and the place behind the bytes that hold them."""
    try:
        kind, length = data[at] >> 4 & 7, data[at] & 0xF
        while data[at] & 0x80:
            at += 1
            length = length << 4 | data[at] & 0xF
            if length > len(data):
                raise MessageError("no_message")
    except IndexError:
        raise MessageError("no_message") from None
    return kind, length, at + 1


def _field(data: bytes, start: int, depth: int) -> tuple[Field, int]:
    kind, length, at = _head(data, start)
    if kind == _LIST:
        if depth == _DEPTH_MAX:
            raise MessageError("no_message")
        fields = []
        for _ in range(length):
            field, at = _field(data, at, depth + 1)
            fields.append(field)
        return tuple(fields), at
    end = start + length
    if not at <= end <= len(data):
        raise MessageError("no_message")
    return _value(kind, data[at:end]), end


def _value(kind: int, data: bytes) -> Field:
    if kind == _TEXT:
        return data or None
    if kind == _TRUTH and len(data) == 1:
        return data != b"\0"
    if kind in (_SIGNED, _UNSIGNED) and 1 <= len(data) <= _NUMBER_MAX:
        return Number(int.from_bytes(data, "big", signed=kind == _SIGNED), data)
    raise MessageError("no_message")
