"""A disk that fails on request, under the SQLite that Python uses: a VFS shim through ctypes.

Installed as the default VFS of this process, it counts writes, syncs and truncations of all database files
and, at the chosen operation, returns an error or cuts the power:

    "full"   SQLITE_FULL for every write from this operation on, until `mend` is called
    "error"  SQLITE_IOERR_WRITE, _FSYNC or _TRUNCATE, once
    "power"  every operation fails from here on; `aftermath` then undoes a random share of unsynced writes

Layouts: sqlite3.h, struct sqlite3_vfs (version 3) and sqlite3_io_methods (version 3).
"""

import ctypes
import errno
import os
import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

__all__ = ["BadDisk", "BadOs", "Mode", "installed"]

Mode = Literal["full", "error", "power"]

_OK, _FULL, _IOERR = 0, 13, 10
_IOERR_WRITE, _IOERR_FSYNC, _IOERR_TRUNCATE = _IOERR | 3 << 8, _IOERR | 4 << 8, _IOERR | 6 << 8
_p, _i, _q = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_WRITE = ctypes.CFUNCTYPE(_i, _p, _p, _i, _q)
_SYNC = ctypes.CFUNCTYPE(_i, _p, _i)
_TRUNCATE = ctypes.CFUNCTYPE(_i, _p, _q)
# The name is passed on as a pointer: SQLite stores it, and reads beyond its end.
_OPEN = ctypes.CFUNCTYPE(_i, _p, _p, _p, _i, _p)


class _Methods(ctypes.Structure):
    _fields_: ClassVar[Any] = [("version", _i)] + [
        (name, _p)
        for name in (
            "close", "read", "write", "truncate", "sync", "file_size", "lock", "unlock",
            "check_reserved_lock", "file_control", "sector_size", "device_characteristics",
            "shm_map", "shm_lock", "shm_barrier",
            "shm_unmap", "fetch", "unfetch",
        )
    ]  # fmt: skip


class _File(ctypes.Structure):
    _fields_: ClassVar[Any] = [("methods", ctypes.POINTER(_Methods))]


class _Vfs(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        ("version", _i), ("size_file", _i), ("max_pathname", _i), ("next", _p), ("name", ctypes.c_char_p),
        ("app_data", _p), ("open", _p),
    ] + [
        (name, _p)
        for name in (
            "delete", "access", "full_pathname", "dl_open", "dl_error", "dl_sym", "dl_close", "randomness",
            "sleep", "current_time", "get_last_error", "current_time64", "set_system_call", "get_system_call",
            "next_system_call",
        )
    ]  # fmt: skip


def _library() -> ctypes.CDLL:
    """The libsqlite3 that Python's sqlite3 has loaded."""
    sqlite3.connect(":memory:").close()
    found = re.findall(r"(/\S*libsqlite3\S*)", Path("/proc/self/maps").read_text())
    return ctypes.CDLL(found[0] if found else None)


@dataclass(slots=True)
class _Undo:
    """The bytes that an unsynced write replaced."""

    path: str
    offset: int
    before: bytes
    size: int


@dataclass(slots=True)
class BadDisk:
    """Counts operations, and fails at `at` (1 is the first); 0: never."""

    mode: Mode = "error"
    at: int = 0
    operations: int = 0
    failed: int = 0
    _dead: bool = False
    _unsynced: list[_Undo] = field(default_factory=list)

    def arm(self, mode: Mode, at: int) -> None:
        """Fail at the `at`th operation from now."""
        self.mode, self.at, self.operations, self.failed = mode, at, 0, 0
        self._dead = False
        self._unsynced.clear()

    def repair(self) -> None:
        """End the failure."""
        self.at, self._dead = 0, False

    def fails(self) -> bool:
        """Count an operation; return whether it fails."""
        self.operations += 1
        hit = self._dead or self.operations == self.at
        if hit:
            self.failed += 1
            self._dead = self._dead or self.mode in ("full", "power")
        return hit

    def note(self, path: str, offset: int, length: int) -> None:
        """Store the bytes that a write is about to change, until the file is synced."""
        if self.mode != "power" or not self.at:
            return
        handle = os.open(path, os.O_RDONLY)  # never closed before `aftermath`: that would drop SQLite's locks
        size = os.fstat(handle).st_size
        self._unsynced.append(_Undo(path, offset, os.pread(handle, length, offset), size))
        _kept_open.append(handle)

    def synced(self, path: str) -> None:
        """Make the writes to this file permanent."""
        self._unsynced = [undo for undo in self._unsynced if undo.path != path]

    def aftermath(self, rng: random.Random) -> int:
        """After a power cut, with everything closed: undo some unsynced writes, newest first; how many."""
        undone = 0
        for undo in reversed(self._unsynced):
            if rng.random() < 0.5:
                continue
            if not Path(undo.path).exists():  # a journal, deleted since
                continue
            undone += 1
            with Path(undo.path).open("r+b") as file:
                file.seek(undo.offset)
                file.write(undo.before)
                file.truncate(max(undo.size, undo.offset + len(undo.before)))
        for path in {undo.path for undo in self._unsynced}:
            Path(path.removesuffix("-wal") + "-shm").unlink(missing_ok=True)  # memory, really
        self._unsynced.clear()
        while _kept_open:
            os.close(_kept_open.pop())
        self.repair()
        return undone


_kept_open: list[int] = []


class _Shim:
    """The VFS itself. Its structs and callbacks must live as long as the process may use SQLite."""

    def __init__(self, disk: BadDisk) -> None:
        self.disk = disk
        self._lib = _library()
        self._lib.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        self._lib.sqlite3_vfs_register.argtypes = [_p, _i]
        self._original = self._lib.sqlite3_vfs_find(None)
        self._vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self._vfs), self._original, ctypes.sizeof(_Vfs))
        self._vfs.name, self._vfs.next = b"bad-disk", None
        self._open_original = _OPEN(self._original.contents.open)
        self._open = _OPEN(self._on_open)
        self._vfs.open = ctypes.cast(self._open, _p)
        self._methods: dict[int, tuple[Any, ...]] = {}
        self._paths: dict[int, str] = {}

    def register(self) -> None:
        self._lib.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)

    def unregister(self) -> None:
        self._lib.sqlite3_vfs_register(self._original, 1)

    def _on_open(self, _vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        code = int(self._open_original(ctypes.addressof(self._vfs), name, file, flags, out))
        opened = ctypes.cast(file, ctypes.POINTER(_File)).contents
        if code == _OK and opened.methods and name is not None:
            self._paths[file] = ctypes.string_at(name).decode()
            opened.methods = ctypes.pointer(self._wrapped(opened.methods))
        return code

    def _wrapped(self, methods: Any) -> _Methods:
        """A copy of a file's methods in which writing, syncing and truncating can fail."""
        address = ctypes.addressof(methods.contents)
        if address not in self._methods:
            copy = _Methods()
            ctypes.memmove(ctypes.byref(copy), methods, ctypes.sizeof(_Methods))
            write = _WRITE(self._writes(_WRITE(copy.write)))
            sync = _SYNC(self._syncs(_SYNC(copy.sync)))
            truncate = _TRUNCATE(self._truncates(_TRUNCATE(copy.truncate)))
            copy.write = ctypes.cast(write, _p)
            copy.sync = ctypes.cast(sync, _p)
            copy.truncate = ctypes.cast(truncate, _p)
            self._methods[address] = (copy, write, sync, truncate)
        found: _Methods = self._methods[address][0]
        return found

    def _writes(self, original: Callable[..., int]) -> Callable[..., int]:
        def write(file: int, data: int, length: int, offset: int) -> int:
            if self.disk.fails():
                return _FULL if self.disk.mode == "full" else _IOERR_WRITE
            self.disk.note(self._paths[file], offset, length)
            return int(original(file, data, length, offset))

        return write

    def _syncs(self, original: Callable[..., int]) -> Callable[..., int]:
        def sync(file: int, flags: int) -> int:
            if self.disk.fails() and self.disk.mode != "full":
                return _IOERR_FSYNC
            self.disk.synced(self._paths[file])
            return int(original(file, flags))

        return sync

    def _truncates(self, original: Callable[..., int]) -> Callable[..., int]:
        def truncate(file: int, size: int) -> int:
            if self.disk.fails():
                return _IOERR_TRUNCATE
            return int(original(file, size))

        return truncate


_shim: _Shim | None = None


class BadOs:
    """The `os` of a module that writes files itself: write, fsync and ftruncate go through the disk too."""

    def __init__(self, disk: BadDisk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _path(self, handle: int) -> str:
        return str(Path(f"/proc/self/fd/{handle}").readlink())

    def _refuse(self) -> OSError:
        code = errno.ENOSPC if self._disk.mode == "full" else errno.EIO
        return OSError(code, os.strerror(code))

    def write(self, handle: int, data: bytes) -> int:
        """Half of it is written before it fails."""
        self._disk.note(self._path(handle), os.fstat(handle).st_size, len(data))
        if self._disk.fails():
            os.write(handle, data[: len(data) // 2])
            raise self._refuse()
        return os.write(handle, data)

    def fsync(self, handle: int) -> None:
        """Make the writes permanent, if this succeeds."""
        if self._disk.fails() and self._disk.mode != "full":
            raise self._refuse()
        self._disk.synced(self._path(handle))

    def ftruncate(self, handle: int, size: int) -> None:
        """It fails like the others, but a full disk still allows truncation."""
        if self._disk.fails() and self._disk.mode != "full":
            raise self._refuse()
        os.ftruncate(handle, size)


@contextmanager
def installed() -> Iterator[BadDisk]:
    """Databases opened inside use a disk that can fail on request; close all of them before the end."""
    global _shim
    if _shim is None:
        _shim = _Shim(BadDisk())
    _shim.register()
    try:
        yield _shim.disk
    finally:
        _shim.disk.repair()
        _shim.unregister()
