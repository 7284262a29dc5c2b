"""Reads gridhe's own shape quickly: a label or time, then one column of whole Wh a meter.

    time,m1,m2
    2024-01-01T00:00Z,120,80        a cell is an integer (12, -3, +7, 12.0, 1e3) ...
    2024-01-01T01:00Z,,95           ... or empty: missing, never zero ...
    2024-01-01T02:00Z,n/a,12.5      ... or TEXT: words and fractions, set aside
    Summe,120,175                   a sum is no reading

A row with too many or too few cells is refused, because its readings cannot be assigned to meters. Returns
None for a file that needs more than this: units, decimal commas, local times, registers.
"""

import array
import csv
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, TEXT
from gridhe.meter_agent.sources.files.moments import parse_time
from gridhe.meter_agent.sources.files.opening import TextLines
from gridhe.meter_agent.sources.files.table import CONFLICT, Findings, Table
from gridhe.meter_agent.sources.files.vocabulary import is_sum, role_of
from gridhe.meter_agent.sources.files.zones import refuse_local_times

__all__ = ["Choose", "cell_value", "plain_integers", "read_plain"]

Choose = Callable[[Sequence[str]], Sequence[str]]

# int() and float() also accept underscores, other scripts' digits, inf and nan: those are TEXT here.
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?")
_PLAIN_ROW = re.compile(r"(?:-?[0-9]{1,18},)*-?[0-9]{1,18}")
_NUMBERISH = re.compile(r"\s*[+-]?[0-9][0-9.,' ]*\s*")
_OFFSET = re.compile(r"[Zz]\s*$|:[0-9]{2}(?::[0-9.]+)?\s?[+-][0-9]{2}:?(?:[0-9]{2})?\s*$|^\s*[0-9.eE+]+\s*$")
_EXACT = 2.0**53
_HEAD_ROWS = 50
_SIDES = ("import", "export", "net", "register", "generation", "unit", "direction", "from", "to")


def cell_value(text: str) -> int:
    """The cell's integer, ABSENT if it is empty, else TEXT."""
    text = text.strip()
    if not text:
        return ABSENT
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        number = float(text)
        if abs(number) <= _EXACT and number.is_integer():
            return int(number)
    return TEXT


def plain_integers(cells: Sequence[str]) -> bytes:
    """The cells as int64 bytes. Most rows are plain integers, which numpy parses in one call."""
    joined = ",".join(cells)
    if joined.count(",") == len(cells) - 1 and _PLAIN_ROW.fullmatch(joined):  # no cell has a comma of its own
        return np.fromstring(joined, np.int64, sep=",").tobytes()
    return array.array("q", map(cell_value, cells)).tobytes()


class _Reader:
    def __init__(self, path: Path, encoding: str, whole_lines: bool, energies: bool, utc: bool) -> None:
        self.energies, self.utc = energies, utc
        self.path, self._text = path, TextLines(path, encoding, whole_lines=whole_lines)
        self._lines = iter(self._text)
        line = next(self._lines, "").rstrip("\r\n")
        self.delimiter = ";" if line.count(";") > line.count(",") else ","
        self.header = [name.strip() for name in next(csv.reader([line], delimiter=self.delimiter), [])]
        self.lines, self.cells = array.array("q"), array.array("q")
        self.times = array.array("d")
        self.findings = Findings()

    def is_plain(self) -> bool:
        """Whether the header and the first rows have this shape."""
        header = self.header
        if len(header) < 2 or any(role_of(name) in _SIDES for name in header[1:]):
            return False
        self._head = []
        for line in itertools.islice(self._lines, _HEAD_ROWS):
            self._text.row_done()
            self._head.append(line)
        try:
            rows = [row for row in csv.reader(self._head, delimiter=self.delimiter) if row]
        except csv.Error:
            return False
        whole = sum(len(row) == len(header) for row in rows)
        if 2 * whole < len(rows) or all(map(is_sum, header[1:])):
            return False
        cells = [cell for row in rows for cell in row[1:] if cell.strip()]
        numbers = sum(cell_value(cell) > TEXT for cell in cells)
        odd = sum(cell_value(cell) == TEXT and _NUMBERISH.fullmatch(cell) is not None for cell in cells)
        self.offset = bool(rows) and bool(rows[0]) and _OFFSET.search(rows[0][0]) is not None
        plain = bool(rows) and numbers > 0 and len(cells) <= 2 * numbers and 4 * odd <= len(cells)
        nameless = [at for at, name in enumerate(header) if at and not name]
        if plain and nameless:
            if any(at < len(row) and row[at].strip() for row in rows for at in nameless):
                raise SourceError(f"{self.path} has an empty name: give every column a name of its own")
            return False
        return plain

    def read(self, chosen: Sequence[str]) -> bool:
        """All rows. Returns False if too many cells are numbers of another kind."""
        header = self.header
        pick = _picker(header, chosen)
        reader = csv.reader(itertools.chain(self._head, self._lines), delimiter=self.delimiter, strict=True)
        odd = 0
        try:
            for row in reader:
                self._text.row_done()
                if not row or row[0].startswith("#"):
                    continue
                line = reader.line_num + 1  # the header line was read without this reader
                if len(row) != len(header):
                    if any(map(str.strip, row[len(header) :])) or len(row) < len(header):
                        raise SourceError(
                            f"{self.path}, line {line} has {len(row)} cells, not {len(header)}: correct it"
                        )
                    row = row[: len(header)]
                moment = parse_time(row[0])
                if moment is None and is_sum(row[0]):
                    self.findings.add(line, "", "a sum, no reading", settled=True)
                    continue
                if row[0] == header[0] and moment is None and [cell.strip() for cell in row] == header:
                    self.findings.add(line, "", "the header again", settled=True)
                    continue
                picked = pick(row)
                integers = plain_integers(picked)
                if _TEXT_BYTES in integers and TEXT in np.frombuffer(integers, np.int64):
                    odd += self._note_text(line, picked, chosen)
                self.cells.frombytes(integers)
                self.lines.append(line)
                self.times.append(_NO_TIME if moment is None else moment)
        except csv.Error as error:
            raise SourceError(f"{self.path}, line {reader.line_num + 1} is no CSV: {error}") from None
        return 4 * odd <= len(self.cells)

    def _note_text(self, line: int, cells: Sequence[str], names: Sequence[str]) -> int:
        odd = 0
        for name, cell in zip(names, cells, strict=True):
            if cell_value(cell) == TEXT:
                numberish = _NUMBERISH.fullmatch(cell) is not None
                odd += numberish
                self.findings.add(line, name, "is no whole number" if numberish else "is no number")
        return odd


_TEXT_BYTES = np.array([TEXT], np.int64).tobytes()
_NO_TIME = float("-inf")


def _picker(header: list[str], chosen: Sequence[str]) -> Callable[[list[str]], list[str]]:
    if list(chosen) == header[1:]:
        return lambda row: row[1:]
    at = [header.index(name, 1) for name in chosen]
    return lambda row: [row[i] for i in at]


def read_plain(
    path: Path,
    encoding: str,
    choose: Choose | None = None,
    *,
    whole_lines: bool = False,
    energies: bool = False,
    utc: bool = False,
) -> Table | None:
    """The readings of the columns that `choose` picks; None if the file has another shape.

    `energies`, `utc`: the user has said that values are energies, or that times are in UTC.

    Uses 8 bytes per cell, plus one row of text.
    """
    reader = _Reader(path, encoding, whole_lines, energies, utc)
    if not reader.is_plain():
        return None
    names = reader.header[1:]
    twice = sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ())
    if twice:
        raise SourceError(
            f"{path} has more than one column named {', '.join(twice[:5])}: give every column a name of its "
            "own"
        )
    meters = [name for name in names if not is_sum(name)]
    chosen = meters if choose is None else list(choose(meters))
    if not reader.read(chosen):
        return None
    if not reader.lines:
        raise SourceError(f"{path} has a header and no readings")
    return _table(reader, chosen)


def _table(reader: _Reader, chosen: Sequence[str]) -> Table | None:
    path, findings = reader.path, reader.findings
    lines = np.frombuffer(reader.lines, np.int64)
    raw = np.frombuffer(reader.cells, np.int64).reshape(len(lines), len(chosen))
    times = np.frombuffer(reader.times, np.float64)
    timed = times > _NO_TIME
    count = int(np.count_nonzero(timed))
    said = ["a column a meter", "Wh (energy)"]
    if not count:
        raw, lines = _without_sums(raw, lines, findings)
        if not reader.energies and _looks_like_registers(path, raw, 3600):
            return None
        said.append("labels without times: rows follow each other")
        return Table(
            path=path, columns=tuple(chosen), values={"import": raw}, times_s=None, lines=lines,
            decided="; ".join(said), findings=findings,
        )  # fmt: skip
    if 2 * count < len(times):
        raise SourceError(
            f"{path} has times in {count} of {len(times)} rows only, first in line "
            f"{int(lines[np.argmax(timed)])}: "
            "correct the first column"
        )
    for at in np.flatnonzero(~timed):
        findings.add(int(lines[at]), reader.header[0], "has no time")
    if count < len(times):
        raw, lines, times = raw[timed], lines[timed], times[timed]
    seconds = np.floor(times).astype(np.int64)
    if len(seconds) > 1 and (seconds == seconds[0]).all():
        raise SourceError(
            f"{path} has the same time in every row, as a spreadsheet's 1.71E+09: export it again; or give "
            "--start "
            "TIME and --with stamp=rows if no row is missing"
        )
    steps = np.diff(seconds)
    rising = steps[steps > 0]
    if not rising.size:
        if len(seconds) > 1:
            seconds, raw, lines = seconds[::-1], raw[::-1], lines[::-1]
        step_s = None
    else:
        values, counts = np.unique(rising, return_counts=True)
        step_s = int(values[np.argmax(counts)])
    if not reader.utc and not reader.offset and step_s is not None:
        refuse_local_times(path, seconds, step_s)
    if (steps < 0).any():
        return _sorted(reader, chosen, seconds, raw, lines, step_s, said)
    return _merged(reader, chosen, seconds, raw, lines, step_s, said)


def _sorted(
    reader: _Reader,
    chosen: Sequence[str],
    seconds: NDArray[np.int64],
    raw: NDArray[np.int64],
    lines: NDArray[np.int64],
    step_s: int | None,
    said: list[str],
) -> Table | None:
    order = np.argsort(seconds, kind="stable")
    distances = np.diff(seconds[order])
    values, counts = np.unique(distances[distances > 0], return_counts=True)
    step_s = int(values[np.argmax(counts)]) if len(values) else step_s
    said.append("rows put in order")
    return _merged(reader, chosen, seconds[order], raw[order], lines[order], step_s, said)


def _merged(
    reader: _Reader,
    chosen: Sequence[str],
    seconds: NDArray[np.int64],
    raw: NDArray[np.int64],
    lines: NDArray[np.int64],
    step_s: int | None,
    said: list[str],
) -> Table | None:
    path, findings = reader.path, reader.findings
    flags: dict[str, NDArray[np.uint8]] = {}
    keep = np.ones(len(seconds), np.bool_)
    repeated = np.flatnonzero(np.diff(seconds) == 0) + 1
    if repeated.size:
        raw = raw.copy()
        marked = flags["import"] = np.zeros(raw.shape, np.uint8)
        for at in map(int, repeated):
            first = int(np.searchsorted(seconds, seconds[at]))
            keep[at] = False
            same = (raw[first] == raw[at]) | (raw[at] == ABSENT)
            filled = (raw[first] == ABSENT) & ~same & (marked[first] != CONFLICT)
            conflict = ~same & ~filled
            raw[first][filled] = raw[at][filled]
            raw[first][conflict] = ABSENT
            marked[first][conflict] = CONFLICT
            if conflict.any():
                name = chosen[int(np.argmax(conflict))]
                findings.add(int(lines[at]), name, "two rows have different values for one time")
            else:
                findings.add(int(lines[at]), "", "repeats a row", settled=True)
    if step_s is not None and step_s > 0:
        grid_s = min(step_s, 86_400)
        phases, counts = np.unique(seconds % grid_s, return_counts=True)
        off = seconds % grid_s != phases[np.argmax(counts)]
        for at in map(int, np.flatnonzero(off & keep)):
            empty = bool((raw[at] == ABSENT).all())
            findings.add(int(lines[at]), "", "lies between two intervals", settled=empty)
        keep &= ~off
    if not keep.all():
        seconds, raw, lines = seconds[keep], raw[keep], lines[keep]
        flags = {name: each[keep] for name, each in flags.items()}
    if not reader.energies and _looks_like_registers(path, raw, step_s or 3600):
        return None
    said.append("times without an offset are UTC" + ("" if step_s is None else f"; every {step_s} s"))
    return Table(
        path=path, columns=tuple(chosen), values={"import": raw}, times_s=seconds, step_s=step_s, lines=lines,
        flags=flags, decided="; ".join(said), findings=findings,
    )  # fmt: skip


def _without_sums(
    raw: NDArray[np.int64], lines: NDArray[np.int64], findings: Findings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Without a last row that is the sum of all others in every column, whatever its label."""
    if len(raw) < 4 or (raw[-1] <= TEXT).any() or not (raw[-1] != 0).any():
        return raw, lines
    one = raw[:-1, 0]
    if int(one[one > TEXT].astype(np.float64).sum()) != int(raw[-1, 0]):
        return raw, lines
    above = np.where(raw[:-1] <= TEXT, 0, raw[:-1])
    if float(np.abs(above).max(initial=0)) < 2.0**40 and (above.sum(axis=0) == raw[-1]).all():
        findings.add(int(lines[-1]), "", "a sum, no reading", settled=True)
        return raw[:-1], lines[:-1]
    return raw, lines


_MONOTONE_ROWS = 12
_VARIED = 3


def _looks_like_registers(path: Path, raw: NDArray[np.int64], step_s: int) -> bool:
    """Whether the columns are registers.

    Raises SourceError if they may be either, or only some of them are.
    """
    if len(raw) < _MONOTONE_ROWS:
        return False
    steps = np.diff(raw, axis=0)
    special = (raw <= TEXT).any(axis=0)
    rising = np.atleast_1d(~special & (steps >= 0).all(axis=0) & (steps > 0).any(axis=0))
    most = 100_000 * step_s // 3600
    huge = np.zeros(raw.shape[1], np.bool_)
    huge[rising] = np.median(raw[:, rising], axis=0) > most
    short = np.zeros(raw.shape[1], np.bool_)
    for at in map(int, np.flatnonzero(special)):  # with empty cells between
        known = raw[raw[:, at] > TEXT, at]
        short[at] = len(known) < _MONOTONE_ROWS
        if not short[at] and (np.diff(known) >= 0).all() and known[-1] > known[0]:
            rising[at] = True
            huge[at] = float(np.median(known)) > most
    if not rising.any():
        return False
    idle = ~special & (steps == 0).all(axis=0)
    if huge.any() and (huge | idle | short).all():
        return True
    if huge.any():
        at = int(np.argmax(huge))
        raise SourceError(
            f"{path}: column {at + 2} only rises, as a register does, and others do not; replay them from "
            "two files"
        )
    if len(raw) >= 2 * _MONOTONE_ROWS and (rising | idle).all():
        varied = [len(np.unique(steps[:, at])) >= _VARIED for at in np.flatnonzero(rising)]
        if all(varied):
            raise SourceError(
                f"{path} has values that only rise: give --with kind=register if they are a meter's "
                "register, or "
                "--with kind=interval if they are energies"
            )
    return False
