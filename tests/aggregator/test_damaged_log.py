"""A kill leaves a write-ahead log; SQLite takes its first damaged frame for its end."""

import shutil
from pathlib import Path

import pytest

from gridhe.aggregator.state.database import Database
from gridhe.errors import StateError
from gridhe_testing.grid import Grid


@pytest.fixture
def killed(grid: Grid, tmp_path: Path) -> Path:
    """The state that a kill after two commits leaves."""
    for meter in grid.meters[:2]:
        grid.send(meter)
        grid.engine.commit(grid.now)
    left = tmp_path / "left"
    left.mkdir()
    for name in ("aggregator.db", "aggregator.db-wal", "commits"):
        shutil.copy(grid.directory / name, left / name)
    return left


def _open(grid: Grid, folder: Path) -> Database:
    return Database(folder, authority=grid.credential.authority, aggregator=grid.credential.aggregator)


def test_an_undamaged_log_is_taken_up(grid: Grid, killed: Path) -> None:
    database = _open(grid, killed)
    assert database.query("SELECT SUM(meters) FROM totals") == [(2,)]
    database.close()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_repro_a_flipped_byte_in_the_log_silently_took_back_receipted_commits(
    grid: Grid, killed: Path, share: float
) -> None:
    log = killed / "aggregator.db-wal"
    data = bytearray(log.read_bytes())
    data[int(len(data) * share)] ^= 1
    log.write_bytes(data)
    with pytest.raises(StateError, match="is damaged"):
        _open(grid, killed)


def test_a_deleted_log_is_reported(grid: Grid, killed: Path) -> None:
    (killed / "aggregator.db-wal").unlink()
    with pytest.raises(StateError, match="damaged"):
        _open(grid, killed)


def test_a_database_restored_from_before_is_reported(grid: Grid, killed: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    shutil.copytree(killed, earlier)
    grid.send(grid.meters[2])
    grid.engine.commit(grid.now)
    shutil.copy(grid.directory / "commits", earlier / "commits")
    with pytest.raises(StateError, match="transactions of"):
        _open(grid, earlier)
