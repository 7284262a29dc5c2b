"""Records as tables of text: aligned for a terminal, Markdown for a document.

The notes of records are footnotes under the table, numbered at the metric: "load+add [1]".
"""

from collections.abc import Iterable, Sequence

from gridhe.base.table import aligned, markdown
from gridhe.bench.record import Record

__all__ = [
    "HEADINGS",
    "aligned_records",
    "figure",
    "markdown_records",
    "noted_rows",
    "rows_of",
]

HEADINGS = ("case", "preset", "metric", "unit", "median", "p95", "p99", "spread", "n")
_NUMBERS = range(4, len(HEADINGS))  # the columns that are flush right
_TAIL_FROM = 5  # with fewer repeats a 95th percentile is only the largest value


def figure(value: float) -> str:
    """A number with three or four significant digits."""
    size = abs(value)
    if size >= 1_000 or (value == round(value) and size >= 100):
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1 or value == 0:
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{value:.3g}"


def rows_of(records: Iterable[Record]) -> list[tuple[str, ...]]:
    """A row of HEADINGS for each record."""
    return [
        (
            record.case,
            record.preset,
            record.metric,
            record.unit,
            record.note if record.unit == "note" else figure(record.figures.median),
            "" if record.figures.count < _TAIL_FROM else figure(record.figures.p95),
            "" if record.figures.count < _TAIL_FROM else figure(record.figures.p99),
            "" if record.figures.count == 1 else f"{record.figures.spread:.0%}",
            str(record.figures.count),
        )
        for record in records
    ]


def noted_rows(records: Iterable[Record]) -> tuple[list[tuple[str, ...]], list[str]]:
    """The rows of these records, with footnote numbers at the metrics, and the notes: "[1] ...".

    Equal notes have the same number. A record that is only a note has it in its row already.
    """
    records = list(records)
    rows = rows_of(records)
    at = HEADINGS.index("metric")
    numbers: dict[str, int] = {}
    for i, record in enumerate(records):
        if record.note and record.unit != "note":
            number = numbers.setdefault(record.note, len(numbers) + 1)
            rows[i] = (*rows[i][:at], f"{rows[i][at]} [{number}]", *rows[i][at + 1 :])
    return rows, [f"[{number}] {note}" for note, number in numbers.items()]


def aligned_records(records: Iterable[Record]) -> str:
    """A table of records for a terminal, and its footnotes."""
    rows, notes = noted_rows(records)
    return "\n".join([aligned(HEADINGS, rows, right=_NUMBERS), *notes])


def markdown_records(records: Sequence[Record], *, suite: bool = False) -> str:
    """A Markdown table of records, and its footnotes; with `suite` the suite is the first column."""
    rows, notes = noted_rows(records)
    if not suite:
        parts = [markdown(HEADINGS, rows, right=_NUMBERS)]
    else:
        wider = [(record.suite, *row) for record, row in zip(records, rows, strict=True)]
        parts = [markdown(("suite", *HEADINGS), wider, right={i + 1 for i in _NUMBERS})]
    # One paragraph each: Markdown joins consecutive lines.
    return "\n\n".join([*parts, *notes])
