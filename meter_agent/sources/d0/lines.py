"""The lines of a readout: data sets, address(value*unit)(another value), one or more in a line."""

import re
from typing import NamedTuple

__all__ = ["DataSet", "Readout", "data_sets"]

_DATA_SET = re.compile(r"\s*([^()/\s]{1,32})\s*\(([^()]*)\)\s*(?:\([^()]*\)\s*)*")
_MORE_VALUES = re.compile(
    r"\s*(?:\([^()]*\)\s*)*"
)  # of the address in an earlier line, such as a load profile's
_ADDRESS = re.compile(r"[^()/\s]{1,32}")
_STRAY = re.compile(r"[^\r\n\x20-\x7e]")


class DataSet(NamedTuple):
    """An address with its first value; None: the line has none."""

    address: str
    value: str | None


class Readout(NamedTuple):
    """Every data set of one readout, in order."""

    sets: list[DataSet]
    checked: bool  # it had a checksum, and that is right


def data_sets(text: str, *, strict: bool) -> list[DataSet] | None:
    """Every data set, in order; None if a line has another form. Not `strict`: it may be an address alone."""
    if _STRAY.search(text):
        return None
    found: list[DataSet] = []
    for line in text.splitlines():
        sets = _of_line(line)
        if sets is not None:
            found += sets
        elif not strict and _ADDRESS.fullmatch(line.strip()):
            found.append(DataSet(line.strip(), None))
        else:
            return None
    return found


def _of_line(line: str) -> list[DataSet] | None:
    found: list[DataSet] = []
    more = _MORE_VALUES.match(line)
    at = more.end() if more else 0
    while at < len(line):
        match = _DATA_SET.match(line, at)
        if match is None:
            return None
        found.append(DataSet(match[1], match[2]))
        at = match.end()
    return found
