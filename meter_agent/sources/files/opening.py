"""Opens a file of any origin: gzip, zip, UTF-8, UTF-16, Windows code pages. Bounded, whatever the bytes.

A line, and a row of several lines, has at most 1 MiB; a file at most 16 GiB once unpacked. A packed file may
grow to 200 times its size (64 MiB are always allowed): readings pack 5 to 30 times, a bomb a thousand times.
"""

import gzip
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from gridhe.errors import SourceError

__all__ = ["Bounded", "TextLines", "encoding_of", "opened"]

LINE_MAX = 1 << 20
_FILE_MAX = 16 << 30
_ALWAYS = 64 << 20
_RATIO_MAX = 200
_HEAD = 1 << 16
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Bounded(io.RawIOBase):
    """A stream that ends with SourceError after `limit` bytes."""

    def __init__(self, path: Path, inner: _Readable, limit: int, what: str) -> None:
        self._path, self._inner, self._left, self._what = path, inner, limit, what

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]  # a narrower type
        """Read what there is."""
        data = self._inner.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise SourceError(f"{self._path} {self._what}")
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, unpacked. Raises SourceError, also while it is read."""
    try:
        state = path.stat()
        if stat.S_ISFIFO(state.st_mode) or stat.S_ISCHR(state.st_mode) or stat.S_ISSOCK(state.st_mode):
            raise SourceError(f"{path} is no file on a disk, and it is read twice: save it first")
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            limit = max(_ALWAYS, _RATIO_MAX * state.st_size)
            grows = f"unpacks to more than {_RATIO_MAX} times its size: no readings do; unpack it yourself"
            if magic[:2] == b"\x1f\x8b":
                with gzip.open(file, "rb") as unzipped:
                    yield io.BufferedReader(Bounded(path, unzipped, min(limit, _FILE_MAX), grows), 1 << 16)
            elif magic == b"PK\x03\x04":
                with zipfile.ZipFile(file) as archive:
                    names = [info for info in archive.infolist() if not info.filename.endswith("/")]
                    if len(names) != 1:
                        raise SourceError(
                            f"{path} is a zip file of {len(names)} files: unpack it, give one of them"
                        )
                    if names[0].filename.lower().endswith((".xml.rels", "[content_types].xml")):
                        raise SourceError(f"{path} is a workbook: save the sheet as CSV")
                    if names[0].flag_bits & 1 or names[0].compress_type not in _METHODS:
                        raise SourceError(f"{path} is a zip file with a password or a rare method: unpack it")
                    with archive.open(names[0]) as member:
                        yield io.BufferedReader(Bounded(path, member, min(limit, _FILE_MAX), grows), 1 << 16)
            else:
                large = f"has more than {_FILE_MAX >> 30} GiB: cut it into pieces"
                yield io.BufferedReader(Bounded(path, file, _FILE_MAX, large), 1 << 16)
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise SourceError(f"{path} is a damaged or unusual zip file: {error}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path} is a damaged gzip file: {error}") from None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from None


def encoding_of(path: Path, given: str | None = None) -> str:
    """The name of the file's encoding, from all of its bytes. Raises SourceError for a binary file.

    UTF-8 if all of it is, else the Windows code page of western Europe, which has ISO 8859-1's letters.
    """
    with opened(path) as file:
        head = file.peek(_HEAD)[:_HEAD]
        wide = _wide(head)
        if wide is not None:
            return wide
        utf8 = True
        tail = b""
        ascii_so_far = True
        while chunk := file.read(1 << 20):
            if _CONTROL.search(chunk):
                raise SourceError(f"{path} is a binary file, not text: export it as CSV or XML")
            if utf8 and not (ascii_so_far and chunk.isascii()):
                ascii_so_far = False
                tail, utf8 = _continues(tail + chunk)
        if given is not None:
            return given
        return "utf-8-sig" if utf8 and not tail else "cp1252"


def _wide(head: bytes) -> str | None:
    """utf-16 by its mark, or by every second byte being zero."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and len(head) >= 4 and b"\x00" in head:
        return "utf-16"
    pairs = head[: len(head) // 2 * 2]
    if len(pairs) >= 8:
        if not pairs[::2].strip(b"\x00") and 0 not in pairs[1::2]:
            return "utf-16-be"
        if not pairs[1::2].strip(b"\x00") and 0 not in pairs[::2]:
            return "utf-16-le"
    return None


def _continues(data: bytes) -> tuple[bytes, bool]:
    """The bytes of a character that is cut off at the end, and whether the rest is UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and len(data) - error.start <= 3:
            return data[error.start :], True
        return b"", False
    return b"", True


class TextLines:
    """The file's lines with their ends, for a csv.reader. Raises SourceError while it is read.

    Call `row_done` after each row: a quote that is never closed would make one row of a whole file.
    """

    def __init__(self, path: Path, encoding: str, *, whole_lines: bool = False) -> None:
        """`whole_lines`: leave out a last line without an end, which may still be being written."""
        self._path, self._encoding, self._whole_lines = path, encoding, whole_lines
        self._row = 0

    def row_done(self) -> None:
        """All lines so far belong to rows that are complete."""
        self._row = 0

    def __iter__(self) -> Iterator[str]:
        path, encoding = self._path, self._encoding
        try:
            with opened(path) as file, io.TextIOWrapper(file, encoding, newline="") as text:
                while line := text.readline(LINE_MAX):
                    self._row += len(line)
                    if self._row > LINE_MAX or (len(line) == LINE_MAX and not line.endswith("\n")):
                        raise SourceError(
                            f"{path} has a line of more than {LINE_MAX >> 20} MiB, or a quote without its end"
                        )
                    if self._whole_lines and not line.endswith(("\n", "\r")):
                        return
                    yield line
        except UnicodeError:
            name = encoding.upper().removesuffix("-SIG")
            raise SourceError(f"{path} is not {name} text; give --with encoding=...") from None
        except LookupError:
            raise SourceError(
                f"there is no encoding {encoding!r}; common ones: utf-8, cp1252, cp1250"
            ) from None
