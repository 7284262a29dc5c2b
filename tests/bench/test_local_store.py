"""The local store: a file for each run, which pandas reads, and whose faults are told."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gridhe.bench.local_store import LocalStore, default_folder
from gridhe.bench.record import Record
from gridhe.errors import StoreError

RUN, OTHER = "20260131t120000-1a2b", "20260201t120000-ffff"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    opened = LocalStore(tmp_path / "runs")
    yield opened
    opened.close()


def test_runs_come_back_newest_first(store: LocalStore, make_record: Callable[..., Record]) -> None:
    records = [make_record(), make_record(run=OTHER, suite="scale"), make_record(suite="service")]
    for record in records:
        store.write(record)
    store.flush()
    assert store.read(RUN) == [records[0], records[2]]
    found = store.runs()
    assert [(one.run, one.records, one.suites) for one in found] == [
        (OTHER, 1, ("scale",)),
        (RUN, 2, ("micro", "service")),
    ]


def test_every_record_is_on_disk_before_the_run_ends(
    store: LocalStore, make_record: Callable[..., Record]
) -> None:
    store.write(make_record())
    assert LocalStore(store.folder).read(RUN) == store.read(RUN) != []


def test_each_line_is_flat_json(store: LocalStore, make_record: Callable[..., Record]) -> None:
    store.write(make_record((1.0, 3.0)))
    (line,) = store.path(RUN).read_text().splitlines()
    fields = json.loads(line)
    assert (fields["median"], fields["suite"], fields["format"]) == (2.0, "micro", 1)
    assert not any(isinstance(value, dict | list) for value in fields.values())


def test_a_corrupt_file_is_reported_with_its_line_and_hides_no_other_run(
    store: LocalStore, make_record: Callable[..., Record]
) -> None:
    store.write(make_record())
    store.write(make_record(run=OTHER))
    store.close()
    with store.path(RUN).open("a") as file:
        file.write('{"format": 1, "run"\n')
    with pytest.raises(StoreError, match=r"jsonl, line 2: not a record"):
        store.read(RUN)
    newest, corrupt = store.runs()
    assert newest.records == 1
    assert "unreadable" in corrupt.suites[0]


@pytest.mark.parametrize("cut", [1, 2, 60])
def test_a_last_line_that_a_crash_cut_off_is_left_out_with_a_warning(
    cut: int, store: LocalStore, make_record: Callable[..., Record], caplog: pytest.LogCaptureFixture
) -> None:
    records = [make_record(), make_record()]
    for record in records:
        store.write(record)
    store.close()
    store.path(RUN).write_bytes(store.path(RUN).read_bytes()[:-cut])
    # Without its line feed alone a record is whole.
    assert store.read(RUN) == (records if cut == 1 else records[:1])
    told = [] if cut == 1 else [f"{store.path(RUN)}, line 2: ignored, because the run ended while writing it"]
    assert [record.getMessage() for record in caplog.records] == told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe\x00", "not UTF-8 text at byte 0"),
        (b"", "is empty"),
        (b"\x00" * 100, "has no complete record"),
        (b'{"format": 1', "has no complete record"),
    ],
)
def test_a_file_without_a_run_is_reported_with_the_way_out(
    content: bytes, told: str, store: LocalStore
) -> None:
    store.folder.mkdir()
    store.path(RUN).write_bytes(content)
    with pytest.raises(StoreError, match=f"{told}.*; remove it, and run the bench again$") as refused:
        store.read(RUN)
    assert str(store.path(RUN)) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("run", ["../../etc/passwd", "", "20260131T120000-1a2b", '" or true'])
def test_a_name_that_is_no_runs_is_refused(store: LocalStore, run: str) -> None:
    with pytest.raises(StoreError, match="is not a run's name"):
        store.read(run)


def test_an_unknown_run_is_an_error(store: LocalStore) -> None:
    with pytest.raises(StoreError, match="there is no run"):
        store.read(RUN)
    assert store.runs() == []


def test_a_folder_that_cannot_be_written_is_reported(
    tmp_path: Path, make_record: Callable[..., Record]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to"):
        LocalStore(tmp_path / "file").write(make_record())


def test_the_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "gridhe" / "bench"
    monkeypatch.setenv("GRIDHE_BENCH_HOME", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own"
