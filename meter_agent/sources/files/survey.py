"""Looks at a whole CSV file before anything is read from it: its text, header line and columns."""

import csv
import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gridhe.errors import SourceError
from gridhe.meter_agent.sources.files.format import FileFormat
from gridhe.meter_agent.sources.files.moments import stamp_kind
from gridhe.meter_agent.sources.files.numerals import UNITS, marks
from gridhe.meter_agent.sources.files.opening import TextLines, encoding_of
from gridhe.meter_agent.sources.files.vocabulary import MISSING_WORDS

__all__ = ["Column", "Survey", "cell_code", "csv_rows", "find_delimiter", "survey"]

_HEAD_ROWS = 400
_HEAD_CHARS = 1 << 20
_WORDS = 64
_COLUMNS_MAX = 50_000
_DELIMITERS = (";", "\t", ",", "|")


@dataclass(slots=True)
class Column:
    """What the cells of one column are: counts of `cell_code`, and a few of its words."""

    name: str
    codes: Counter[str] = field(default_factory=Counter)
    words: set[str] = field(default_factory=set)

    def count(self, first: str) -> int:
        """How many cells have a code that starts so."""
        return sum(count for code, count in self.codes.items() if code.startswith(first))

    @property
    def filled(self) -> int:
        """How many cells hold anything but a word for "missing"."""
        return self.codes.total() - self.codes["e"] - self.codes["m"]

    def mostly(self, first: str) -> bool:
        """Whether at least half of the filled cells are of this kind."""
        return self.filled > 0 and 2 * self.count(first) >= self.filled


@dataclass(slots=True)
class Survey:
    """A CSV file from outside."""

    path: Path
    encoding: str
    delimiter: str
    header: list[str]
    header_line: int
    columns: list[Column]
    above: list[list[str]]  # the rows above the header line: never shown, they may hold names and addresses
    head: list[list[str]]  # the first rows below it
    certain: bool = True  # the header line stands above a row with a time
    rows: int = 0

    @property
    def shown_columns(self) -> str:
        """The columns' names for a message; nothing if they may be a preamble with personal data."""
        return f"; its columns are {', '.join(self.header[:8])}" if self.certain else ""


@functools.lru_cache(1 << 16)
def cell_code(cell: str) -> str:
    """e: empty; m: a word for missing; "t ...": a stamp; "n mark unit": a number; w: other text."""
    text = cell.strip()
    if not text:
        return "e"
    if text.lower() in MISSING_WORDS:
        return "m"
    if len(text) > 64:
        return "w"
    stamp = stamp_kind(text)
    if stamp is not None:
        return f"t {stamp}"
    number = marks(text)
    return "w" if number is None else f"n {number[0]} {number[1]}".rstrip()


def find_delimiter(lines: list[str]) -> str:
    """The delimiter that cuts most lines into the same number of cells, and the larger number if two do."""
    best = (0, 0, 0, ",")
    for rank, delimiter in enumerate(_DELIMITERS):
        try:
            found = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
        except csv.Error:
            continue
        counts = Counter(len(row) for row in found if len(row) > 1)
        if counts:
            cells, often = counts.most_common(1)[0]
            best = max(best, (often, cells, -rank, delimiter))
    return best[3]


def csv_rows(
    path: Path, encoding: str, delimiter: str, whole_lines: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row that is not blank. Raises SourceError."""
    lines = TextLines(path, encoding, whole_lines=whole_lines)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            lines.row_done()
            if any(map(str.strip, row)):
                if len(row) > _COLUMNS_MAX:
                    raise SourceError(
                        f"{path}, line {reader.line_num} has {len(row)} cells: no table has so many"
                    )
                yield reader.line_num, row
    except csv.Error as error:
        raise SourceError(f"{path}, line {reader.line_num} is no CSV: {error}") from None


def survey(path: Path, settings: FileFormat, whole_lines: bool = False) -> Survey:
    """Read the whole file once. Raises SourceError."""
    encoding = encoding_of(path, settings.encoding)
    if settings.delimiter == "auto":
        first: list[str] = []
        size = 0
        lines = TextLines(path, encoding)
        for line in itertools.islice(lines, _HEAD_ROWS):
            lines.row_done()
            first.append(line)
            size += len(line)
            if size > _HEAD_CHARS:
                break
        delimiter = find_delimiter(first)
    else:
        delimiter = "\t" if settings.delimiter == "tab" else settings.delimiter
    rows = csv_rows(path, encoding, delimiter, whole_lines)
    head = list(itertools.islice(rows, _HEAD_ROWS))
    at, certain = _header_at(path, head, settings.skip_rows)
    header_line, header = head[at]
    header = [name.strip() for name in header]
    found = Survey(
        path=path,
        encoding=encoding,
        delimiter=delimiter,
        header=header,
        header_line=header_line,
        columns=[Column(name) for name in header],
        above=[row for _, row in head[:at]],
        head=[],
        certain=certain,
    )
    for _, row in itertools.chain(head[at + 1 :], rows):
        if row[0].startswith("#") or [cell.strip() for cell in row] == header:
            continue
        found.rows += 1
        if len(found.head) < _HEAD_ROWS:
            found.head.append(row)
        for column, cell in zip(found.columns, row, strict=False):
            code = cell_code(cell)
            column.codes[code] += 1
            if code == "w" and len(column.words) < _WORDS:
                column.words.add(cell.strip()[:64])
    return found


def _header_at(path: Path, head: list[tuple[int, list[str]]], skip_rows: int | None) -> tuple[int, bool]:
    """The index of the header line: the one above the first row that has a time where most rows have one."""
    if not head:
        raise SourceError(f"{path} is empty: it has no columns of readings")
    if skip_rows is not None:
        at = next((at for at, (line, _) in enumerate(head) if line > skip_rows), None)
        if at is None:
            raise SourceError(f"{path} has no line below the {skip_rows} skipped ones")
        return at, True
    usual = Counter(len(row) for _, row in head).most_common(1)[0][0]
    alike = [row for _, row in head if len(row) == usual]
    later = alike[len(alike) // 2 :]
    for column in range(usual):
        stamped = sum(cell_code(row[column]).startswith("t") for row in later)
        if 2 * stamped < len(later):
            continue
        for at, (_, row) in enumerate(head):
            if len(row) > column and abs(len(row) - usual) <= 3 and cell_code(row[column]).startswith("t"):
                if at == 0:
                    raise SourceError(
                        f"{path} has no header line: name its columns in a line above the readings"
                    )
                return at - 1, True
    return 0, False


def unit_above(above: list[list[str]]) -> str | None:
    """A unit that stands alone in a cell above the header line; None if there is none, or two."""
    found = {cell.strip().lower() for row in above for cell in row} & UNITS.keys()
    return found.pop() if len(found) == 1 else None
