"""Atomic writes, and private files: readable by their owner only."""

import os
import pwd
import secrets
import stat
from pathlib import Path

from gridhe.errors import CredentialError, StateError

__all__ = ["check_private", "make_private_dir", "read_private", "stranger", "write_private"]


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to `path` as 0600: completely or not at all, and durable when this returns.

    A new file beside it is written, flushed and renamed over the old one, so a crash leaves the
    old content or the new, never a part. Raises StateError if the write fails.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror or error}") from error


def make_private_dir(path: Path) -> None:
    """Make `path` and its parents; new folders are 0700. Raises StateError."""
    try:
        # mkdir(parents=True) would give the mode only to the last folder.
        for folder in reversed((path, *path.parents)):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise StateError(f"cannot make the folder {path}: {error.strerror or error}") from error


def check_private(path: Path) -> None:
    """Raise CredentialError unless `path` is a file of ours or of root's that only its owner can read.

    Another user controls the content of its own files, so root refuses them too. A user who may write to the
    folders above can remove the file, but cannot replace it by a file that belongs to us or to root.

    A systemd service credential may be 0440: since version 254 it belongs to root, with an access list for
    the service's user, and the mask of that list appears as the group's bits.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise CredentialError(f"cannot read {path}: {error.strerror or error}") from error
    _check_private(path, status)


def read_private(path: Path, *, maximum_bytes: int = 1 << 30) -> bytes:
    """The content of a file that passes `check_private`. The check uses the open file, so there is no race.

    Raises CredentialError, also for a file that is larger than `maximum_bytes`.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # open() of a FIFO would block
        try:
            _check_private(path, os.fstat(handle))
            with os.fdopen(handle, "rb", closefd=False) as file:
                data = file.read(maximum_bytes + 1)
        finally:
            os.close(handle)
    except OSError as error:
        raise CredentialError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > maximum_bytes:
        raise CredentialError(f"{path} is larger than {maximum_bytes} bytes")
    return data


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CredentialError(f"{path} is not a file")
    owner = stranger(status)
    if owner is not None:
        raise CredentialError(
            f"{path} belongs to {owner}; run this as that user, or run: chown {os.geteuid()} {path}"
        )
    others = status.st_mode & 0o077
    if others and not (others == 0o040 and _is_service_credential(path)):
        raise CredentialError(
            f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o}); run: chmod 600 {path}"
        )


def stranger(status: os.stat_result) -> str | None:
    """The owner of a file or folder, for a message; None if it is root or our own user."""
    if status.st_uid in (0, os.geteuid()):
        return None
    try:
        return f"user {pwd.getpwuid(status.st_uid).pw_name}"
    except KeyError:
        return f"user {status.st_uid}"


def _is_service_credential(path: Path) -> bool:
    """Whether `path` is root's or ours, below a $CREDENTIALS_DIRECTORY that others cannot enter or change."""
    named = os.environ.get("CREDENTIALS_DIRECTORY")
    if not named:
        return False
    try:
        folder, file = Path(named).resolve(strict=True), path.resolve(strict=True)
        of_folder, of_file = folder.stat(), file.stat()
    except OSError:
        return False
    owners = {0, os.geteuid()}
    return (
        file.is_relative_to(folder)
        and stat.S_ISDIR(of_folder.st_mode)
        and not of_folder.st_mode & 0o027
        and of_folder.st_uid in owners
        and of_file.st_uid in owners
    )
