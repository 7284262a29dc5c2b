"""Records as tables of text: aligned for a terminal, Markdown for a document."""

from collections.abc import Iterable, Sequence

from gridhe.bench.record import Record

__all__ = ["HEADINGS", "aligned", "figure", "markdown", "rows_of"]

HEADINGS = ("case", "preset", "metric", "unit", "median", "p95", "p99", "spread", "n")


def figure(value: float) -> str:
    """A number with three or four digits that matter."""
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
            "" if record.figures.count == 1 else figure(record.figures.p95),
            "" if record.figures.count == 1 else figure(record.figures.p99),
            "" if record.figures.count == 1 else f"{record.figures.spread:.0%}",
            str(record.figures.count),
        )
        for record in records
    ]


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    """Columns for a terminal; from `numbers_from` on they are flush right."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    lines = []
    for row in (headings, *rows):
        cells = [
            cell.rjust(width) if i >= numbers_from else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    """A Markdown table."""
    rule = ["---:" if i >= numbers_from else "---" for i in range(len(headings))]
    clean = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (list(headings), rule, *clean))
