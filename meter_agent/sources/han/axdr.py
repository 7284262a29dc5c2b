"""A-XDR (IEC 61334-6): the encoding of COSEM data, with what some meters make of it.

Strict first. Two other layouts are tried only if the strict reading fails, and each has to end exactly where
the data does:

    swapped     Landis+Gyr ZMF100 with EMBRIQ's firmware exchanges tag and length of some OBIS codes:
                06 09 for 09 06.
    untagged    Sagemcom XT211 (EG.D) writes class, OBIS code and attribute as 9 bare bytes in place of the
                first of two elements.
"""

import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Literal, NamedTuple

from gridhe.errors import RemoteError

__all__ = [
    "DATE_TIME",
    "ENUM",
    "LAYOUTS",
    "LISTS",
    "NULL",
    "OCTETS",
    "TEXTS",
    "Data",
    "Layout",
    "Reader",
    "read_data",
]

Layout = Literal["strict", "swapped", "untagged"]
LAYOUTS: tuple[Layout, ...] = ("strict", "swapped", "untagged")

NULL, ARRAY, STRUCTURE, BITS, OCTETS, VISIBLE, UTF8, COMPACT, ENUM = (
    0x00,
    0x01,
    0x02,
    0x04,
    0x09,
    0x0A,
    0x0C,
    0x13,
    0x16,
)
DATE_TIME = 0x19
LISTS = (ARRAY, STRUCTURE)
TEXTS = (OCTETS, VISIBLE, UTF8)

DEPTH_MAX = 16
ELEMENTS_MAX = 4096

_NUMBERS = {  # tag: size in bytes, signed
    0x03: (1, False),  # boolean
    0x05: (4, True),
    0x06: (4, False),
    0x0D: (1, False),  # BCD, as it is
    0x0F: (1, True),
    0x10: (2, True),
    0x11: (1, False),
    0x12: (2, False),
    0x14: (8, True),
    0x15: (8, False),
    ENUM: (1, False),
}
_FLOATS = {0x17: ">f", 0x18: ">d"}
_OCTET_STRINGS = {DATE_TIME: 12, 0x1A: 5, 0x1B: 4}  # date-time, date, time


class Data(NamedTuple):
    """One element: its A-XDR tag, and None, a number, bytes (texts, bit strings, times) or its elements."""

    tag: int
    value: "int | Decimal | bytes | tuple[Data, ...] | None"

    @property
    def elements(self) -> "tuple[Data, ...]":
        """Those of an array or structure, else none."""
        return self.value if isinstance(self.value, tuple) else ()


def _broken(what: str) -> RemoteError:
    return RemoteError("structure", what)


class Reader:
    """Reads from the start of `data` on. Its methods raise RemoteError, reason "structure"."""

    def __init__(self, data: bytes, *, layout: Layout = "strict") -> None:
        self._data = data
        self._at = 0
        self._layout = layout
        self._elements = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size > len(self._data) - self._at:
            raise _broken("the data ends too early")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int, *, signed: bool = False) -> int:
        """An integer of `size` bytes, highest byte first."""
        return int.from_bytes(self.take(size), "big", signed=signed)

    def length(self) -> int:
        """A length: one byte below 0x80, else 0x80 + the count of its bytes."""
        first = self.number(1)
        if first < 0x80:
            return first
        if not 0x81 <= first <= 0x84:
            raise _broken("a length of more than 4 bytes")
        return self.number(first - 0x80)

    def octets(self) -> bytes:
        """A length, and as many bytes."""
        return self.take(self.length())

    def peek(self, size: int) -> bytes:
        """Up to `size` of the next bytes, which stay."""
        return self._data[self._at : self._at + size]

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._data):
            raise _broken(f"{len(self._data) - self._at} bytes too many")

    def data(self, depth: int = 0) -> Data:
        """One element with all that is in it."""
        return self._value(self.number(1), depth)

    def _value(self, tag: int, depth: int) -> Data:
        self._count_element()
        if tag in LISTS:
            return Data(tag, self._list(tag, depth))
        if tag in _NUMBERS:
            size, signed = _NUMBERS[tag]
            return Data(tag, self.number(size, signed=signed))
        if tag in TEXTS:
            return Data(tag, self.octets())
        if tag in _OCTET_STRINGS:
            return Data(tag, self.take(_OCTET_STRINGS[tag]))
        if tag in _FLOATS:
            form = _FLOATS[tag]
            return Data(tag, Decimal(struct.unpack(form, self.take(struct.calcsize(form)))[0]))
        if tag == BITS:
            return Data(tag, self.take((self.length() + 7) // 8))
        if tag == COMPACT:
            return Data(ARRAY, self._compact(depth))
        if tag in (NULL, 0xFF):  # 0xFF: don't care
            return Data(NULL, None)
        raise _broken(f"unknown tag {tag:#04x}")

    def _count_element(self) -> None:
        self._elements += 1
        if self._elements > ELEMENTS_MAX:
            raise _broken(f"more than {ELEMENTS_MAX} elements")

    def _list(self, tag: int, depth: int) -> tuple[Data, ...]:
        count = self._count(depth)
        elements = []
        for index in range(count):
            code = self._bare_code(index, count) if tag == STRUCTURE else None
            elements.append(Data(OCTETS, code) if code is not None else self.data(depth + 1))
        return tuple(elements)

    def _count(self, depth: int) -> int:
        if depth >= DEPTH_MAX:
            raise _broken(f"more than {DEPTH_MAX} levels")
        return self.length()  # each element takes a byte at least: a count that is too large ends soon

    def _bare_code(self, index: int, count: int) -> bytes | None:
        """An OBIS code in the form of one of the other layouts."""
        if index or self._layout == "strict":
            return None
        if self._layout == "swapped":
            head = self.peek(8)
            if len(head) == 8 and head[:2] == b"\x06\x09" and head[2] <= 1 and head[7] == 0xFF:
                return self.take(8)[2:]
        elif count == 2:
            head = self.peek(9)
            if len(head) == 9 and head[0] == 0 and head[7] == 0xFF and 1 <= head[8] <= 16:
                return self.take(9)[2:8]
        return None

    def _compact(self, depth: int) -> tuple[Data, ...]:
        """A compact array: the type of all elements, then their contents without tags."""
        element = self._type(depth + 1)
        end = self.length() + self._at
        if end > len(self._data):
            raise _broken("the data ends too early")
        elements = []
        while self._at < end:
            elements.append(element())  # one without content is counted: ELEMENTS_MAX ends it
        if self._at != end:
            raise _broken("a compact array with half an element")
        return tuple(elements)

    def _type(self, depth: int) -> Callable[[], Data]:
        if depth >= DEPTH_MAX:
            raise _broken(f"more than {DEPTH_MAX} levels")
        tag = self.number(1)
        if tag in LISTS:
            repeated = self.number(2) if tag == ARRAY else 1
            fields = [self._type(depth + 1) for _ in range(1 if tag == ARRAY else self._count(depth))]

            def build() -> Data:
                self._count_element()
                return Data(tag, tuple(field() for _ in range(repeated) for field in fields))

            return build
        if tag == COMPACT:
            raise _broken("a compact array in a compact array")
        return lambda: self._value(tag, depth)


def read_data(data: bytes) -> tuple[Data, Layout]:
    """All of `data` as one element, and the layout that fits. Raises RemoteError, reason "structure"."""
    failures = []
    for layout in LAYOUTS:
        reader = Reader(data, layout=layout)
        try:
            found = reader.data()
            reader.end()
        except RemoteError as error:
            failures.append(error)
        else:
            return found, layout
    raise failures[0]
