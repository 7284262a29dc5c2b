"""JSON, numbers and times as devices write them: exact, bounded, and never an exception for any bytes.

Devices write NaN, 1e309, the same key twice, numbers as texts, and the noise of binary fractions
(7.409999999999999). A value that is not certainly a number is UNUSABLE: it is not null, and not 0.
"""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Any, Final
from zoneinfo import ZoneInfo

from gridhe.meter_agent.sources.reading import Register

__all__ = [
    "ABSENT",
    "ENERGY_UNITS",
    "POWER_UNITS",
    "UNUSABLE",
    "Resolution",
    "Unit",
    "at_path",
    "epoch_s",
    "equipment_id",
    "is_null",
    "leaf_names",
    "number",
    "parse_json",
    "register",
    "scaled",
    "split_path",
]

MAX_BYTES: Final = 64 * 1024  # of a payload: Tasmota's longest SENSOR message has about 4 KB

_NUMBER_MAX = 40  # characters
_EXPONENT_MAX = 18  # 10^18 Wh is beyond any meter; also of a fraction
_NOISE_DIGITS, _CLEAN_DIGITS = 14, 12  # a double that was calculated with shows 15 to 17 digits
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_NULLS = frozenset({"", "nan", "none", "null", "unavailable", "unknown"})
_NAMES_MAX, _NAME_MAX, _DEPTH_MAX = 16, 40, 6

Unit = tuple[int | Decimal, int]  # Wh or W = value * numerator / denominator

ENERGY_UNITS: Final[dict[str, Unit]] = {
    "Wh": (1, 1),
    "kWh": (1_000, 1),
    "MWh": (1_000_000, 1),
    "GWh": (1_000_000_000, 1),
    "Wmin": (1, 60),
    "J": (1, 3_600),
    "kJ": (10, 36),
    "MJ": (10_000, 36),
    "GJ": (10_000_000, 36),
}
POWER_UNITS: Final[dict[str, Unit]] = {"W": (1, 1), "kW": (1_000, 1), "MW": (1_000_000, 1)}


class _Mark:
    """A value of its own, which no device can send."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


ABSENT: Final = _Mark("ABSENT")  # there is nothing at a path
UNUSABLE: Final = _Mark("UNUSABLE")  # there is something that is no finite number of a sane size


def parse_json(payload: bytes) -> Any:
    """The document with Decimal numbers; UNUSABLE if it is not JSON, too large or nested too deeply.

    Numbers that are not finite or not of a sane size are UNUSABLE, and so is a key with two different values.
    """
    if len(payload) > MAX_BYTES:
        return UNUSABLE
    try:
        return json.loads(
            payload.decode("utf-8-sig"),
            parse_float=_exact,
            parse_int=_exact,
            parse_constant=lambda _: UNUSABLE,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError):
        return UNUSABLE


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found[key] = UNUSABLE if key in found and found[key] != value else value
    return found


def _exact(text: str) -> "Decimal | _Mark":
    if len(text) > _NUMBER_MAX:
        return UNUSABLE
    try:
        value = Decimal(text)
    except ArithmeticError:  # an exponent beyond Decimal's own
        return UNUSABLE
    if not value.is_finite() or abs(value.adjusted()) > _EXPONENT_MAX:
        return UNUSABLE
    return value


def is_null(value: Any) -> bool:
    """Whether the device says that it does not know: null, or a text such as "unavailable" or "nan"."""
    return value is None or (isinstance(value, str) and value.strip().casefold() in _NULLS)


def number(value: Any, *, decimal: str = ".") -> Decimal | None:
    """A number or a text of one, in which `decimal` is the decimal mark; None for anything else.

    A comma is refused where a point is expected, and the other way round: "5,123" may be 5 or 5123.
    """
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str) or len(value) > 2 * _NUMBER_MAX:
        return None
    text = value.strip()
    found = _NUMBER.fullmatch(text)
    if found is None or (found[1] is not None and found[1][0] != decimal):
        return None
    exact = _exact(text.replace(",", "."))
    return exact if isinstance(exact, Decimal) else None


def equipment_id(value: Any) -> str | None:
    """An equipment id: short printable text, or a whole number; None for anything else."""
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return f"{value:f}"
    if not isinstance(value, str) or len(value) > 128 or not value.isprintable():
        return None
    return value.strip() or None


def split_path(path: str) -> tuple[str, ...]:
    """`a.b.0` as keys and positions; a path that begins with `/` is a JSON pointer, for keys with dots."""
    if path.startswith("/"):
        return tuple(each.replace("~1", "/").replace("~0", "~") for each in path[1:].split("/"))
    return tuple(path.split("."))


def at_path(document: Any, path: tuple[str, ...]) -> Any:
    """The value at a path, or ABSENT. The empty path is the document itself."""
    for key in path:
        if isinstance(document, dict):
            document = document.get(key, ABSENT)
        elif isinstance(document, list) and key.isascii() and key.isdigit() and len(key) < 5:
            document = document[int(key)] if int(key) < len(document) else ABSENT
        else:
            return ABSENT
    return document


def leaf_names(document: Any) -> str:
    """The paths of a document's numbers, or of all its values if it has none; names only, for a message."""
    leaves: list[tuple[str, bool]] = []
    waiting: list[tuple[str, Any, int]] = [("", document, 0)]
    while waiting and len(leaves) < 20 * _NAMES_MAX:
        name, value, depth = waiting.pop()
        if isinstance(value, dict) and depth < _DEPTH_MAX:
            inner = list(value.items())[: 4 * _NAMES_MAX]
            waiting += [
                (f"{name}.{_tame(key)}" if depth else _tame(key), v, depth + 1) for key, v in inner[::-1]
            ]
        else:
            leaves.append((name, number(value) is not None))
    if not document or not isinstance(document, dict):
        return "none"
    names = [name for name, is_number in leaves if is_number] or [name for name, _ in leaves]
    more = ", ..." if len(names) > _NAMES_MAX else ""
    return ", ".join(names[:_NAMES_MAX]) + more


def _tame(key: str) -> str:
    text = "".join(each if each.isprintable() else "?" for each in key[:_NAME_MAX])
    return text if len(key) <= _NAME_MAX else f"{text}..."


def without_noise(value: Decimal) -> Decimal:
    """7.409999999999999 is 7.41: the noise of a binary fraction is rounded off. Fewer digits stay."""
    if len(value.as_tuple().digits) <= _NOISE_DIGITS or value == value.to_integral_value():
        return value
    with localcontext(prec=_CLEAN_DIGITS):
        return (+value).normalize()


def scaled(value: Decimal, unit: Unit) -> Decimal:
    """`value` in the base unit."""
    with localcontext(prec=50):
        return value * unit[0] / unit[1]


def register(value: Decimal, unit: Unit, resolution: "Resolution | None" = None) -> Register | None:
    """An energy register of a number in a unit; None if it is negative or not of a sane size.

    `resolution` is for devices that write 12.3 for 12.300; without it, the digits are the resolution.
    """
    clean = without_noise(value)
    if clean < 0:
        return None
    exponent = clean.as_tuple().exponent
    step = Decimal(1).scaleb(max(-_EXPONENT_MAX, min(_EXPONENT_MAX, int(exponent))))
    step_wh = scaled(step, unit)
    if resolution is not None:
        step_wh = resolution.next(clean, step_wh)
    return Register(wh=scaled(clean, unit), step_wh=step_wh)


class Resolution:
    """A register's resolution, where trailing zeros are not written: the finest of its last few values.

    Until there are a few, it is 10 Wh or finer: a false resolution of 1 kWh would look like a locked meter.
    """

    __slots__ = ("_last", "_steps")

    _KEPT = 4
    _FIRST_WH = Decimal(10)

    def __init__(self) -> None:
        self._last: Decimal | None = None
        self._steps = [self._FIRST_WH] * self._KEPT

    def next(self, value: Decimal, step_wh: Decimal) -> Decimal:
        """The resolution in Wh after a value whose digits show `step_wh`."""
        if value != self._last:
            self._last = value
            self._steps = [*self._steps[1:], step_wh]
        return min(self._steps)


def epoch_s(value: Any, zone: ZoneInfo | None = None) -> float | None:
    """A time as UTC epoch seconds; None unless it is certain.

    Takes epoch seconds, milliseconds and microseconds, and ISO 8601 with an offset. A text without an offset
    needs `zone`, and is not certain in the hour that autumn repeats or spring skips.
    """
    if isinstance(value, Decimal):
        for below, divisor in ((10**11, 1), (10**14, 1_000), (10**17, 1_000_000)):
            if 0 <= value < below:
                return float(value) / divisor
        return None
    if not isinstance(value, str) or not 16 <= len(value := value.strip()) <= 40:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            if zone is None:
                return None
            moment = moment.replace(tzinfo=zone, fold=0)
            if moment.utcoffset() != moment.replace(fold=1).utcoffset():
                return None
        return moment.astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return None
