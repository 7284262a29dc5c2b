"""The authority's inbox: what was receipted is there, or its absence is told."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gridhe.errors import StateError
from gridhe.keyring.release.inbox import Inbox
from gridhe.wire.total import open_total


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inbox.db"


def _store(inbox: Inbox, authority: Any, window: int) -> bytes:
    payload: bytes = authority.total("north/f1", window=window)
    inbox.store([(open_total(payload, len(payload)).header, payload)], "2026-01-01T00:00:00Z")
    return payload


def test_a_damaged_log_is_reported_though_sqlite_takes_its_first_bad_frame_for_the_end(
    small_authority: Any, path: Path, tmp_path: Path
) -> None:
    inbox = Inbox(path)
    for window in (100, 101, 102):
        _store(inbox, small_authority, window)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("inbox.db", "inbox.db-wal", "inbox.commits"):
        shutil.copy(tmp_path / name, copy / name)
    inbox.close()
    log = bytearray((copy / "inbox.db-wal").read_bytes())
    log[len(log) - 100] ^= 1
    (copy / "inbox.db-wal").write_bytes(log)
    with pytest.raises(StateError, match="transactions of"):
        Inbox(copy / "inbox.db")


def test_an_inbox_from_before_transactions_were_counted_goes_on(small_authority: Any, path: Path) -> None:
    inbox = Inbox(path)
    _store(inbox, small_authority, 100)
    inbox.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DROP TABLE commits")
    path.with_suffix(".commits").unlink()
    inbox = Inbox(path)
    _store(inbox, small_authority, 101)
    assert [stored.window for stored in inbox.totals()] == [100, 101]
    inbox.close()
    Inbox(path).close()


def test_it_can_be_read_while_another_process_stores(small_authority: Any, path: Path) -> None:
    writer = Inbox(path)
    for window in (100, 101):
        _store(writer, small_authority, window)
        reader = Inbox(path)
        assert len(reader.totals()) == window - 99
        reader.close()
    writer.close()


def test_its_files_are_the_owners_alone(small_authority: Any, path: Path) -> None:
    inbox = Inbox(path)
    _store(inbox, small_authority, 100)
    assert {file.stat().st_mode & 0o777 for file in path.parent.glob("inbox*")} == {0o600}
    inbox.close()
