"""A table on a terminal: with rich where it is installed, in plain columns where it is not."""

import sys
from collections.abc import Sequence
from typing import TextIO

__all__ = ["print_table"]


def print_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int = 1,
    to: TextIO | None = None,
) -> None:
    """Print rows under a header; the first `left` columns are words, the others numbers (to the right)."""
    stream = sys.stdout if to is None else to
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        _print_plain(title, header, rows, left, stream)
        return
    # A pipe has no width; numbers cut off or wrapped to fit 80 columns would be of no use in a file.
    console = Console(file=stream, width=None if stream.isatty() else 160, highlight=False, emoji=False)
    console.print(title, style="bold")
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for at, name in enumerate(header):
        table.add_column(name, justify="left" if at < left else "right", no_wrap=at < left)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _print_plain(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: int, stream: TextIO
) -> None:
    widths = [max(len(line[at]) for line in (header, *rows)) for at in range(len(header))]
    print(title, file=stream)
    for line in (header, ["-" * width for width in widths], *rows):
        cells = (
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip(), file=stream)
