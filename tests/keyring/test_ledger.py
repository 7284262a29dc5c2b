"""The ledger notices whatever was changed, and survives a crash in the middle of a line."""

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from gridhe.errors import StateError
from gridhe.keyring.release.ledger import START, Head, Ledger, LedgerRecord, verify_ledger


def clock() -> Callable[[], str]:
    ticks = itertools.count()
    return lambda: f"2026-01-01T00:00:{next(ticks):02d}Z"


def written(path: Path, count: int = 4) -> Head:
    with Ledger(path, now=clock()) as ledger:
        for i in range(count):
            ledger.append("decided", group="north/f1", window=i)
        return ledger.head


def test_records_come_back_in_order_with_their_fields(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    head = written(path)
    seen: list[LedgerRecord] = []
    with Ledger(path, now=clock(), on_record=seen.append) as ledger:
        assert ledger.head == head
    assert [(record["n"], record["window"]) for record in seen] == [(1, 0), (2, 1), (3, 2), (4, 3)]
    assert path.stat().st_mode & 0o777 == 0o600
    assert verify_ledger(path, on_record=seen.append) == head


def test_each_record_holds_the_hash_of_the_one_before(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "ledger.jsonl"
    written(path)
    lines = path.read_bytes().splitlines()
    assert json.loads(lines[0])["prev"] == "0" * 64
    for before, line in itertools.pairwise(lines):
        assert json.loads(line)["prev"] == hashlib.sha256(before).hexdigest()


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_changed_line_is_named(tmp_path: Path, line: int) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(b"north/f1", b"north/f9")
    path.write_bytes(b"".join(lines))
    with pytest.raises(StateError, match=f"line {line + 1} does not follow line {line}"):
        Ledger(path, now=clock())


def test_a_removed_line_and_a_swapped_line_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(StateError, match="line 2 does not follow line 1"):
        verify_ledger(path, on_record=lambda record: None)
    path.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(StateError, match="line 1 does not follow"):
        verify_ledger(path, on_record=lambda record: None)


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path, 2)
    with path.open("ab") as file:
        file.write(b"[]\n")
    with pytest.raises(StateError, match="line 3 is not a ledger record"):
        Ledger(path, now=clock())


def test_lines_cut_off_at_the_end_are_noticed_by_the_head_that_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    head = written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    verify_ledger(path, on_record=lambda record: None)  # a whole chain by itself
    with pytest.raises(StateError, match="had 4 records then, now 3"):
        Ledger(path, now=clock(), heads={"answers.db": head})
    path.unlink()
    with pytest.raises(StateError, match="missing"):
        verify_ledger(path, on_record=lambda record: None, heads={"answers.db": head})


def test_a_changed_last_line_is_noticed_by_the_head_that_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    head = written(path)
    path.write_bytes(path.read_bytes().replace(b'"window":3', b'"window":7'))
    with pytest.raises(StateError, match="line 4"):
        Ledger(path, now=clock(), heads={"answers.db": head})


def test_a_ledger_longer_than_the_head_that_was_kept_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    head = written(path, 2)
    with Ledger(path, now=clock(), heads={"answers.db": head}) as ledger:
        ledger.append("decided")
    assert verify_ledger(path, on_record=lambda record: None, heads={"answers.db": head}).count == 3
    assert verify_ledger(path, on_record=lambda record: None, heads={"answers.db": START}).count == 3


def test_a_line_torn_by_a_crash_at_any_byte_is_cut_off_and_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path, 3)
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for end in range(start + 1, len(whole)):
        path.write_bytes(whole[:end])
        caplog.clear()
        seen: list[LedgerRecord] = []
        with caplog.at_level(logging.WARNING), Ledger(path, now=clock(), on_record=seen.append) as ledger:
            ledger.append("decided", window=9)
        assert "cut off" in caplog.text
        assert [record["kind"] for record in seen] == ["decided", "decided", "recovered"]
        assert seen[-1]["bytes_cut"] == end - start
        assert verify_ledger(path, on_record=lambda record: None).count == 4


def test_looking_at_a_torn_ledger_does_not_change_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path, 3)
    torn = path.read_bytes()[:-5]
    path.write_bytes(torn)
    assert verify_ledger(path, on_record=lambda record: None).count == 2
    assert path.read_bytes() == torn


def test_a_ledger_is_open_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, now=clock()), pytest.raises(StateError, match="in use"):
        Ledger(path, now=clock())
    Ledger(path, now=clock()).close()


def test_a_ledger_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    path.chmod(0o644)
    with pytest.raises(StateError, match="chmod 600"):
        Ledger(path, now=clock())


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    path = tmp_path / "ledger.jsonl"
    head = written(path, 2)
    before = path.read_bytes()
    with Ledger(path, now=clock()) as ledger:
        real = os.write

        def full(handle: int, data: memoryview) -> int:
            if len(data) > 20:
                return real(handle, data[:20])  # a part gets onto the disk
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(
            os, "write", lambda handle, data: full(handle, data) if len(data) > 60 else full(handle, b"")
        )
        with pytest.raises(StateError, match="No space left"):
            ledger.append("decided", window=2)
        monkeypatch.setattr(os, "write", real)
        assert path.read_bytes() == before
        assert ledger.head == head
        ledger.append("decided", window=2)
    assert verify_ledger(path, on_record=lambda record: None).count == 3
