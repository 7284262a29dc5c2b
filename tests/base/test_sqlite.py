"""The one wrapper under every database: durable, private, and each fault one clear error."""

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gridhe.base.lock import DirectoryLock
from gridhe.base.sqlite import DatabaseFull, SqliteDatabase
from gridhe.errors import StateError

SCHEMA = "CREATE TABLE things (name TEXT PRIMARY KEY, value BLOB);"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "things.db"


def opened(path: Path, **options: Any) -> SqliteDatabase:
    options = {"version": 1, "owner": {"authority": "a1"}, "commits": path.with_suffix(".commits")} | options
    return SqliteDatabase(path, SCHEMA, **options)


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    class Stop(Exception):
        pass

    def stopped(db: SqliteDatabase) -> None:
        with db.transaction():
            assert db.write_many("INSERT INTO things VALUES (?, ?)", [("b", b""), ("c", b"")]) == 2
            raise Stop

    with closing(opened(path)) as db:
        with db.transaction():
            assert db.write("INSERT INTO things VALUES ('a', x'01')") == 1
        with pytest.raises(Stop):
            stopped(db)
    with closing(opened(path)) as db:
        assert db.query("SELECT name, value FROM things") == [("a", b"\x01")]
        assert list(db.stream("SELECT name FROM things WHERE name >= ?", "a")) == [("a",)]


def test_repro_a_rollback_that_failed_hid_the_full_disk_before_it(path: Path) -> None:
    """SQLite rolls back by itself when the disk is full; a second ROLLBACK has nothing to roll back."""
    with closing(opened(path)) as db:
        [(pages,)] = db.query("PRAGMA page_count")
        db.write(f"PRAGMA max_page_count = {pages + 1}")  # SQLite's own way to a SQLITE_FULL
        with pytest.raises(DatabaseFull, match="full") as caught, db.transaction():
            db.write("INSERT INTO things VALUES ('large', ?)", os.urandom(100_000))
        assert "cannot rollback" not in str(caught.value)
        db.write("PRAGMA max_page_count = 100000")
        with db.transaction():
            db.write("INSERT INTO things VALUES ('large', ?)", os.urandom(100_000))


def test_repro_a_rollback_that_fails_does_not_hide_the_error_of_the_body(path: Path) -> None:
    def failing(db: SqliteDatabase) -> None:
        with db.transaction():
            db.write("ROLLBACK")
            raise KeyError("the body's")

    with closing(opened(path)) as db, pytest.raises(KeyError, match="the body's"):
        failing(db)


def test_a_file_belongs_to_one_owner_and_one_version(path: Path) -> None:
    opened(path).close()
    with pytest.raises(StateError, match="is the state of authority 'a1', not 'a2'"):
        opened(path, owner={"authority": "a2"})
    with pytest.raises(StateError, match="is of version 1, this gridhe reads 2; restore it from a backup"):
        opened(path, version=2)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE meta SET value = x'00' WHERE key = 'authority'")
    with pytest.raises(StateError, match="authority fails its checksum"):
        opened(path)


def test_a_kill_before_the_first_tables_leaves_a_file_that_opens(path: Path) -> None:
    path.touch()
    path.with_suffix(".commits").touch()
    opened(path).close()
    opened(path).close()


def test_a_file_restored_from_before_is_reported(path: Path) -> None:
    opened(path).close()
    before = path.read_bytes()
    with closing(opened(path)) as db, db.transaction():
        db.write("INSERT INTO things VALUES ('a', x'01')")
    path.write_bytes(before)
    with pytest.raises(StateError, match="has 1 transactions of 2"):
        opened(path)


@pytest.mark.parametrize("checked", [True, False])
def test_a_damaged_page_is_reported_with_the_way_out(path: Path, checked: bool) -> None:
    with closing(opened(path)) as db, db.transaction():
        rows = [(f"{i}", os.urandom(900)) for i in range(200)]
        db.write_many("INSERT INTO things VALUES (?, ?)", rows)
    data = bytearray(path.read_bytes())
    for page in range(len(data) // 2 // 4096, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)

    def read() -> None:
        with closing(opened(path, check_max_bytes=1 << 20 if checked else 0, if_damaged="do this")) as db:
            assert not checked, "the check at the start saw nothing"
            db.query("SELECT * FROM things ORDER BY name")

    with pytest.raises(StateError, match=r"is damaged \(.*\); do this"):
        read()


def test_its_files_are_the_owners_alone_whatever_was_there(path: Path) -> None:
    path.touch(mode=0o644)
    path.chmod(0o644)
    with closing(opened(path)) as db, db.transaction():
        db.write("INSERT INTO things VALUES ('a', x'01')")
        assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.glob("things*")} == {0o600}


@pytest.mark.parametrize("kind", ["link", "folder", "away"])
def test_what_is_no_file_is_refused(path: Path, kind: str) -> None:
    if kind == "link":
        path.symlink_to(path.parent / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    else:
        path = path.parent / "away" / "things.db"
    with pytest.raises(StateError, match=r"is not a file|cannot open"):
        opened(path)
    assert not (path.parent / "elsewhere").exists()


def test_a_second_connection_of_a_process_leaves_the_first_its_locks(path: Path) -> None:
    with closing(opened(path)) as first, first.transaction():
        with pytest.raises(StateError, match="locked"):
            opened(path, pragmas=("busy_timeout = 0",))
        probe = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run([sys.executable, "-c", probe, path], capture_output=True, text=True, timeout=60)
        assert "locked" in done.stderr


def test_a_closed_database_says_so(path: Path) -> None:
    db = opened(path)
    db.close()
    db.close()
    with pytest.raises(StateError, match="closed"):
        db.query("SELECT 1")


def test_a_directory_has_one_holder_and_the_error_names_it(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(StateError, match=f"in use by process {os.getpid()}: stop that process"):
        DirectoryLock(tmp_path)
    lock.release()
    lock.release()
    DirectoryLock(tmp_path).release()
