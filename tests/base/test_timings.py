"""Steps take their own time only when somebody asks."""

import json
from pathlib import Path

import pytest

from gridhe.base.timings import timed, timings_to
from gridhe.errors import ConfigError


def work(value: int) -> int:
    if value < 0:
        raise ValueError("negative")
    return value + 1


def test_without_a_file_a_step_is_the_function_itself() -> None:
    with timings_to(None, "meter"):
        assert timed("seal", work) is work


def test_every_call_is_counted_also_one_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "timings.jsonl"
    with timings_to(path, "meter"):
        step = timed("seal", work)
        timed("never", work)
        assert [step(i) for i in range(5)] == [1, 2, 3, 4, 5]
        with pytest.raises(ValueError, match="negative"):
            step(-1)
    assert timed("seal", work) is work
    (line,) = path.read_text().splitlines()
    found = json.loads(line)
    assert (found["process"], found["step"], found["count"]) == ("meter", "seal", 6)
    assert len(found["seconds"]) == 6
    assert found["total_s"] == pytest.approx(sum(found["seconds"]))


def test_a_sample_of_many_calls_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "timings.jsonl"
    with timings_to(path, "meter"):
        step = timed("seal", work)
        for i in range(10_000):
            step(i)
    found = json.loads(path.read_text())
    assert (found["count"], len(found["seconds"])) == (10_000, 4_096)


def test_a_file_that_cannot_be_written_is_reported_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"), timings_to(tmp_path / "no" / "x", "meter"):
        raise AssertionError("not reached")
