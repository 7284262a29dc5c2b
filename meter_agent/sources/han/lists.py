"""The lists that meters push: which value belongs to which OBIS code.

    pairs        code, value, code, value ... in one structure, or each pair in a structure of its own; a
                 structure (scaler, unit) may follow a value. Kamstrup sends two nulls for a missing phase.
    attributes   (class, code, attribute, value) each in a structure of its own
    descriptors  first a list of (class, code, attribute, index ...), then one value for each of them
    fixed        Kaifa in Norway: no codes; number and kind of the elements tell the list (`profiles`)

Any nesting of these. A code without a value, or more descriptors than values, is a broken list.
"""

from dataclasses import dataclass, field

from gridhe.errors import RemoteError
from gridhe.meter_agent.sources.han.axdr import DATE_TIME, ENUM, LISTS, NULL, OCTETS, TEXTS, Data
from gridhe.meter_agent.sources.han.profiles import FIXED_LISTS

__all__ = ["Entry", "PushList", "read_list"]

_CLASS = 0x12  # uint16
_ATTRIBUTES = (0x0F, 0x11)  # int8, uint8
_SCALER = 0x0F
_VALUE_ATTRIBUTE, _SCALER_ATTRIBUTE = 2, 3
_GROUP_A_MAX = 15  # a higher first byte is text or a counter, no OBIS code
_CLOCK_BYTES = 12
_KAIFA_LIST = b"KFM"


@dataclass(slots=True, kw_only=True)
class Entry:
    """A value and what the list says of it."""

    code: str  # such as "1-0:1.8.0"; with "*F" at its end if the sixth group is not 255
    value: Data
    scaler: int | None = None  # the value counts in 10^scaler
    unit: int | None = None  # DLMS unit: 27 W, 30 Wh


@dataclass(slots=True, kw_only=True)
class PushList:
    """All entries, in order."""

    entries: list[Entry] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)  # every text, with or without a code
    clocks: list[bytes] = field(default_factory=list)  # date-times without a code
    descriptors: bool = False
    last: Data | None = None  # a text without a code at the end of a list: the meter's id (Kaifa in Austria)

    def find(self, *codes: str) -> Entry | None:
        """The first entry of the first of these codes that there is."""
        for code in codes:
            for entry in self.entries:
                if entry.code == code:
                    return entry
        return None


def read_list(body: Data) -> PushList:
    """Raises RemoteError, reason "list", if codes and values do not fit together."""
    push = PushList()
    _texts(body, push.texts)
    descriptors = _descriptors(body.elements)
    if descriptors:
        push.descriptors = True
        _described(descriptors, body.elements, push)
    elif not _fixed(body.elements, push):
        _walk(body.elements, push)
    return push


def _texts(data: Data, found: list[bytes]) -> None:
    if data.tag in TEXTS and isinstance(data.value, bytes):
        found.append(data.value)
    for element in data.elements:
        _texts(element, found)


def _code(data: Data) -> str | None:
    """The OBIS code that an octet string of 6 bytes is."""
    if data.tag != OCTETS or not isinstance(data.value, bytes) or len(data.value) != 6:
        return None
    a, b, c, d, e, f = data.value
    if a > _GROUP_A_MAX:
        return None
    return f"{a}-{b}:{c}.{d}.{e}" + ("" if f == 255 else f"*{f}")


def _scaler_unit(data: Data) -> tuple[int, int] | None:
    if len(data.elements) == 2:
        scaler, unit = data.elements
        if scaler.tag == _SCALER and unit.tag == ENUM:
            return int(scaler.value), int(unit.value)  # type: ignore[arg-type]  # these tags hold integers
    return None


def _entry(code: str, value: Data, scale: tuple[int, int] | None) -> Entry:
    if scale is None and len(value.elements) == 2:  # (value, (scaler, unit))
        scale = _scaler_unit(value.elements[1])
        value = value.elements[0] if scale is not None else value
    return Entry(
        code=code,
        value=value,
        scaler=None if scale is None else scale[0],
        unit=None if scale is None else scale[1],
    )


def _walk(elements: tuple[Data, ...], push: PushList) -> None:
    """One level: head (texts, a clock, counters), pairs in a row, lists; a text may end it.

    Nothing else: two pushes that lost a part in between would otherwise pass for one.
    """
    if len(elements) == 4 and elements[0].tag == _CLASS and elements[2].tag in _ATTRIBUTES:
        code = _code(elements[1])
        if code is not None:
            _attribute(code, elements[2].value, elements[3], push)
            return
    at, head, lists = 0, True, False
    while at < len(elements):
        element = elements[at]
        code = _code(element)
        at += 1
        if element.tag in LISTS:
            _walk(element.elements, push)
            lists = True
        elif lists and element.tag not in TEXTS:
            raise RemoteError("list", "a value after a list")
        elif code is not None:
            at += _pair(code, elements[at : at + 2], push)
            head = False
        elif element.tag == NULL and not head and at < len(elements) and elements[at].tag == NULL:
            at += 1
        elif _is_clock(element) and head:
            push.clocks.append(element.value)  # type: ignore[arg-type]  # bytes
        elif not head:
            if at < len(elements) or element.tag not in TEXTS:
                raise RemoteError("list", "a value without a code")
            push.last = element
    if head and not lists and elements:
        raise RemoteError("list", "values without codes")


def _is_clock(data: Data) -> bool:
    return data.tag == DATE_TIME or (
        data.tag == OCTETS and isinstance(data.value, bytes) and len(data.value) == _CLOCK_BYTES
    )


def _pair(code: str, following: tuple[Data, ...], push: PushList) -> int:
    """The value of `code`, and scaler and unit if they follow. Returns how many elements these are."""
    if not following:
        raise RemoteError("list", f"{code} has no value")
    scale = _scaler_unit(following[1]) if len(following) > 1 else None
    push.entries.append(_entry(code, following[0], scale))
    return 1 if scale is None else 2


def _attribute(code: str, attribute: object, value: Data, push: PushList) -> None:
    if attribute == _VALUE_ATTRIBUTE:
        push.entries.append(_entry(code, value, None))
    elif attribute == _SCALER_ATTRIBUTE:
        scale = _scaler_unit(value)
        entry = push.find(code)
        if scale is None or entry is None:
            raise RemoteError("list", f"a scaler of {code} without its value")
        entry.scaler, entry.unit = scale


def _descriptors(elements: tuple[Data, ...]) -> list[tuple[str, int]]:
    """Code and attribute of each, if the first element is a list of descriptors."""
    found = []
    for each in elements[0].elements if elements else ():
        parts = each.elements
        if len(parts) < 4 or parts[0].tag != _CLASS or parts[2].tag not in _ATTRIBUTES:
            return []
        code = _code(parts[1])
        if code is None:
            return []
        found.append((code, int(parts[2].value)))  # type: ignore[arg-type]  # these tags hold integers
    return found


def _described(descriptors: list[tuple[str, int]], elements: tuple[Data, ...], push: PushList) -> None:
    # The list describes itself as its own first element, or does not.
    values = elements if len(elements) == len(descriptors) else elements[1:]
    if len(values) != len(descriptors):
        raise RemoteError("list", f"{len(descriptors)} descriptors and {len(values)} values")
    pairs = list(zip(descriptors, values, strict=True))
    for attribute in (_VALUE_ATTRIBUTE, _SCALER_ATTRIBUTE):  # values first
        for (code, described), value in pairs:
            if described == attribute:
                _attribute(code, described, value, push)


def _fixed(elements: tuple[Data, ...], push: PushList) -> bool:
    layout = FIXED_LISTS.get(len(elements))
    if layout is None or any(element.elements or _code(element) for element in elements):
        return False
    if len(elements) > 1 and not (push.texts and push.texts[0].startswith(_KAIFA_LIST)):
        return False
    for code, element in zip(layout.codes, elements, strict=True):
        is_text = element.tag in TEXTS
        wants_text = not code or code.startswith("0-0:")
        if element.tag != NULL and is_text != wants_text:
            raise RemoteError("list", f"a {len(elements)}-element list with another kind of element")
        if code:
            push.entries.append(Entry(code=code, value=element))
    return True
