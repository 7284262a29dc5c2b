"""The second count of a database's transactions."""

from pathlib import Path

import pytest

from gridhe.base.commit_count import CommitCount
from gridhe.errors import StateError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "commits"


def _counted(path: Path, count: int) -> None:
    kept = CommitCount(path)
    kept.keep(count)
    kept.close()


def test_a_database_that_is_as_far_or_one_further_is_whole(path: Path) -> None:
    _counted(path, 7)
    kept = CommitCount(path)
    kept.check(7)
    kept.check(8)  # killed before the count was written
    kept.close()


def test_a_database_that_lacks_transactions_is_damaged(path: Path) -> None:
    _counted(path, 7)
    kept = CommitCount(path)
    with pytest.raises(StateError, match="has 6 transactions of 7"):
        kept.check(6)
    kept.close()


@pytest.mark.parametrize("bit", range(0, 128, 5))
def test_a_flipped_bit_of_the_count_itself_is_reported(path: Path, bit: int) -> None:
    _counted(path, 7)
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    kept = CommitCount(path)
    with pytest.raises(StateError, match="damaged or missing"):
        kept.check(7)
    kept.close()


def test_a_lost_count_is_reported_but_not_for_a_new_database(path: Path) -> None:
    kept = CommitCount(path)
    kept.check(0)
    kept.check(1)
    with pytest.raises(StateError, match="damaged or missing"):
        kept.check(2)
    kept.close()


def test_it_is_its_owners_alone(path: Path) -> None:
    _counted(path, 1)
    assert path.stat().st_mode & 0o777 == 0o600
