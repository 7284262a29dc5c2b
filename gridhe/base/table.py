"""Tables of text: aligned columns for a terminal, Markdown for a document."""

from collections.abc import Container, Sequence
from typing import TextIO

from gridhe.base.output import echo

__all__ = ["aligned", "markdown", "print_table"]


def aligned(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Container[int], rule: bool = False
) -> str:
    """Aligned columns with headings; columns in `right` are flush right. `rule`: a line below them."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    lines = []
    for row in (headings, *([["-" * width for width in widths]] if rule else []), *rows):
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Container[int]) -> str:
    """A Markdown table."""
    rule = ["---:" if i in right else "---" for i in range(len(headings))]
    clean = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (list(headings), rule, *clean))


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, to: TextIO) -> None:
    """Print a title and its table. The first column is text, the others are numbers."""
    echo(title, bold=True, to=to)
    echo(aligned(headings, rows, right=range(1, len(headings)), rule=True), to=to)
