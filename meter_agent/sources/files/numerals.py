"""Numbers as people's programs print them: decimal and thousands marks, units. Exact: text to Decimal."""

import functools
import re
from decimal import Decimal
from typing import NamedTuple

__all__ = ["UNITS", "Unit", "marks", "parse_number", "unit_of"]


class Unit(NamedTuple):
    """A unit of energy or power."""

    name: str
    factor: int  # Wh or W
    power: bool


UNITS = {
    name.lower(): Unit(name, factor, name.endswith("W"))
    for name, factor in (("Wh", 1), ("kWh", 1000), ("MWh", 10**6), ("W", 1), ("kW", 1000), ("MW", 10**6))
}
_SPACES = " \u00a0\u2009\u202f"
_NUMBER = re.compile(
    r"[+\-\u2212]?(?:[0-9][0-9.,'\u2019" + _SPACES + r"]{0,40}|[.,][0-9]{1,40})(?:[eE][+-]?[0-9]{1,2})?"
)
_UNIT_END = re.compile(r"(.*[0-9.,])[" + _SPACES + r"]*([kKmM]?[wW][hH]?)\s*", re.DOTALL)
_IN_NAME = re.compile(r"(?<![A-Za-z])([kKmM]?[Ww][Hh]?)(?![A-Za-z])")


@functools.lru_cache(1 << 14)
def _split(text: str) -> tuple[str, str]:
    """A cell's number and its unit ("" without one)."""
    text = text.strip()
    if text and text[-1] in "hHwW":
        found = _UNIT_END.fullmatch(text)
        if found:
            return found[1].strip(), found[2].lower()
    return text, ""


def marks(cell: str) -> tuple[str, str] | None:
    """The kind of number that a cell holds, and its unit; None if it is no number.

    bare: digits only; "dec.", "dec,": that mark is decimal; "mix.", "mix,": it is, and the other one
    separates thousands; "tho.", "tho,": it separates thousands;
    "amb.", "amb,": it may be either ("1.234"); "other": apostrophes, blanks, exponents: certain by itself.
    """
    text, unit = _split(cell)
    if not _NUMBER.fullmatch(text):
        return None
    body = text.lstrip("+-\u2212")
    if "e" in body or "E" in body:
        return "other", unit
    dots, commas = body.count("."), body.count(",")
    if not dots and not commas:
        return ("bare" if body.isdigit() else "other"), unit
    if dots and commas:
        last = "." if body.rindex(".") > body.rindex(",") else ","
        return f"mix{last}", unit
    mark = "." if dots else ","
    if dots + commas > 1:
        return f"tho{mark}", unit
    before, after = body.split(mark)
    if len(after) != 3 or not before or before.startswith("0") or len(before) > 3 or not before.isdigit():
        return f"dec{mark}", unit
    return f"amb{mark}", unit


@functools.cache
def _strict(decimal: str, thousands: str) -> "re.Pattern[str]":
    groups = "'\u2019" + _SPACES + thousands
    return re.compile(
        rf"([+\-\u2212]?)([0-9]+|[0-9]{{1,3}}(?:[{re.escape(groups)}][0-9]{{3}})+|(?=[{decimal}]))"
        rf"(?:[{decimal}]([0-9]*))?([eE][+-]?[0-9]{{1,2}})?"
    )


def parse_number(cell: str, decimal: str, thousands: str) -> tuple[Decimal, str] | None:
    """The exact number and the unit printed behind it ("" without); None if it is no such number."""
    text, unit = _split(cell)
    if len(text) > 48:
        return None
    found = _strict(decimal, thousands).fullmatch(text)
    if found is None or not (found[2] or found[3]):
        return None
    digits = "".join(filter(str.isdigit, found[2]))
    sign = "-" if found[1] in ("-", "\u2212") else ""
    return Decimal(f"{sign}{digits or '0'}.{found[3] or '0'}{found[4] or ''}"), unit


def unit_of(name: str) -> Unit | None:
    """The unit in a column's name, as in `Verbrauch [kWh]`, `KWH/hh`, `consumo_kWh`; None without one."""
    found = _IN_NAME.findall(name)
    return UNITS[found[-1].lower()] if found else None
