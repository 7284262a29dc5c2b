"""Reads a CSV of readings into integers: one column per meter, one row per interval.

    time,m1,m2                      the first column is a time stamp or any label
    2024-01-01T00:00Z,120,80        a cell is an integer (12, -3, +7, 12.0, 1e3) ...
    2024-01-01T01:00Z,,95           ... or empty: missing, never zero ...
    2024-01-01T02:00Z,n/a,12.5      ... or TEXT: words and fractions

Comma or semicolon, plain or gzip, UTF-8 with or without a byte order mark. A row with too many or too
few cells is refused, because its readings cannot be assigned to meters.
"""

import array
import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, TEXT

__all__ = ["Table", "parse_time", "read_header", "read_table"]

# int() and float() also accept underscores, other scripts' digits, inf and nan: those are TEXT here.
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?")
_PLAIN_ROW = re.compile(r"(?:-?[0-9]{1,18},)*-?[0-9]{1,18}")
_EXACT = 2.0**53
_EPOCH_MIN_S = 1e8  # smaller numbers in the first column are row numbers, not seconds (this is in 1973)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The readings of a file."""

    path: Path
    columns: tuple[str, ...]
    raw: NDArray[np.int64]  # [rows][columns], with ABSENT and TEXT
    times_s: NDArray[np.float64] | None  # [rows] UTC epoch seconds, where every label is a time stamp
    lines: NDArray[np.int64]  # [rows] each row's line number in the file

    def where(self, row: int, column: int) -> str:
        """The place of a cell, with the line number that an editor shows."""
        return f"{self.path}, line {int(self.lines[row])}, column {self.columns[column]!r}"


def parse_time(text: str) -> float | None:
    """UTC epoch seconds of an ISO 8601 time (UTC without a zone) or of epoch seconds; None for other text."""
    text = text.strip()
    if _DECIMAL.fullmatch(text):
        seconds = float(text)
        return seconds if seconds >= _EPOCH_MIN_S else None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _cell(text: str) -> int:
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


def _integers(cells: Sequence[str]) -> bytes:
    """The cells as int64 bytes. Most rows are plain integers, which numpy parses in one call."""
    joined = ",".join(cells)
    if _PLAIN_ROW.fullmatch(joined):
        return np.fromstring(joined, np.int64, sep=",").tobytes()
    return array.array("q", map(_cell, cells)).tobytes()


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOBase]:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = gzip.GzipFile(fileobj=file) if zipped else file
            with io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
                yield text
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path} is a damaged gzip file: {error}") from None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from None
    except csv.Error as error:
        raise SourceError(f"{path} is not a CSV file: {error}") from None


def _header(path: Path, text: io.TextIOBase) -> tuple[list[str], str]:
    line = text.readline(1 << 24).rstrip("\r\n")
    delimiter = ";" if line.count(";") > line.count(",") else ","
    header = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    if len(header) < 2:
        raise SourceError(f"{path} has no columns of readings: expected label,meter,meter,...")
    names = header[1:]
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if twice or "" in names:
        wrong = f"more than one column named {', '.join(sorted(twice)[:5])}" if twice else "an empty name"
        raise SourceError(f"{path} has {wrong}: give every column a name of its own")
    return header, delimiter


def read_header(path: Path) -> tuple[str, ...]:
    """The names of the file's reading columns. Raises SourceError."""
    with _opened(path) as text:
        return tuple(_header(path, text)[0][1:])


def read_table(path: Path, columns: Sequence[str] | None = None) -> Table:
    """The file's readings; only of `columns`, in that order, if given. Raises SourceError.

    Uses 8 bytes per cell, plus one row of text.
    """
    cells, lines = array.array("q"), array.array("q")
    times: array.array[float] | None = array.array("d")
    with _opened(path) as text:
        header, delimiter = _header(path, text)
        chosen = tuple(header[1:] if columns is None else columns)
        absent = sorted(set(chosen) - set(header[1:]))
        if absent:
            raise SourceError(
                f"{path} has no column {', '.join(absent[:5])}; it has {', '.join(header[1:6])}"
                + (f" and {len(header) - 6} more" if len(header) > 6 else "")
            )
        pick = _picker(header, chosen)
        reader = csv.reader(text, delimiter=delimiter)
        for row in reader:
            if not row:
                continue
            line = reader.line_num + 1  # the header line was read without this reader
            if len(row) != len(header):
                raise SourceError(f"{path}, line {line} has {len(row)} cells, not {len(header)}: correct it")
            cells.frombytes(_integers(pick(row)))
            lines.append(line)
            if times is not None:
                moment = parse_time(row[0])
                times = None if moment is None else times
                if times is not None and moment is not None:
                    times.append(moment)
    if not lines:
        raise SourceError(f"{path} has a header and no readings")
    return Table(
        path=path,
        columns=chosen,
        raw=np.frombuffer(cells, np.int64).reshape(len(lines), len(chosen)),
        times_s=None if times is None else np.frombuffer(times, np.float64),
        lines=np.frombuffer(lines, np.int64),
    )


def _picker(header: list[str], chosen: tuple[str, ...]) -> Callable[[list[str]], list[str]]:
    if list(chosen) == header[1:]:
        return lambda row: row[1:]
    at = [header.index(name, 1) for name in chosen]
    return lambda row: [row[i] for i in at]
