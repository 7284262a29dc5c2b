"""Output of commands: text without terminal codes, on standard streams that are always open.

    echo(name)     every command prints with it, not with click.echo or print

- Control characters in names (of files, groups, CSV columns, and in errors that quote a peer) are printed as
  \\x1b and the like: a terminal would execute them.
- A character that the terminal's encoding lacks is printed as its number.
- A stream that is closed at the start becomes /dev/null. Otherwise the next opened file, for example a
  database, would get its number and all output.
- If standard output cannot be written, the command ends with one line and code 6. If its reader is gone
  (`| head -1`), the command ends without a message and with 141, as by SIGPIPE. If standard error cannot be
  written, the text is lost and the command continues.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TextIO, TypeVar, cast

import click

from gridhe.errors import GridHEError, StateError

__all__ = ["OutputClosed", "OutputError", "echo", "printable", "standard_streams"]

T = TypeVar("T")


class OutputError(StateError):
    """Standard output cannot be written: a full disk, for example."""


class OutputClosed(GridHEError):
    """The reader of standard output has closed it."""

    exit_code: ClassVar[int] = 141  # 128 + SIGPIPE


def printable(text: str, *, keep: str = "\n\t") -> str:
    """`text` with an escape for each unprintable character that is not in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode()
        for each in text
    )


def echo(
    text: object = "",
    *,
    err: bool = False,
    to: TextIO | None = None,
    nl: bool = True,
    colour: str | None = None,
    bold: bool | None = None,
) -> None:
    """Print `text` on standard output, standard error (`err`) or `to`. Raises OutputError, OutputClosed."""
    click.secho(printable(str(text)), file=to, err=err, nl=nl, fg=colour, bold=bold)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make the three standard streams usable, as described in this module's docstring; restore them after."""
    _open_closed_ones()
    before = sys.stdin, sys.stdout, sys.stderr
    # None: the stream was closed when Python started.
    sys.stdin = before[0] or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor
    sys.stdout, sys.stderr = _Stdout.over(before[1], 1), _Stderr.over(before[2], 2)
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def _open_closed_ones() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


class _Stream:
    """A text stream that accepts any character and has its own handling of write errors."""

    buffer = None  # else click would write to it directly if the encoding is ASCII

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @classmethod
    def over(cls, stream: TextIO | None, number: int) -> TextIO:
        """Wrap `stream`, or the descriptor `number` if it is None."""
        stream = stream or open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        return cast(TextIO, cls(stream))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Stdout(_Stream):
    _lost: GridHEError | None = None  # raised by every later call too: a caller may suppress the first

    def write(self, text: str) -> int:
        return self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable[[], T]) -> T:
        if self._lost is None:
            try:
                return call()
            except OSError as error:
                _discard(1)
                self._lost = (
                    OutputClosed("the reader of standard output has closed it")
                    if isinstance(error, BrokenPipeError)
                    else OutputError(f"cannot write to standard output: {error.strerror or error}")
                )
        raise self._lost


class _Stderr(_Stream):
    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            _discard(2)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _discard(2)


def _discard(number: int) -> None:
    """Discard further output: at its end Python writes the rest of its buffer, and would fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)
