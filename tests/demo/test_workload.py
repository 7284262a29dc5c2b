"""Workloads: who is measured where, and what the meters read."""

import csv
import gzip
from pathlib import Path

import pytest

from gridhe.demo.workload import Workload, feeders, from_csv, from_sample, live
from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.data import house_weeks

DAY_S = 86_400
NOW_S = 20_000 * DAY_S + 12_345.0


def sample(**changes: int) -> Workload:
    asked = {"meters": 100, "windows": 7, "groups": 4, "minimum_meters": 5}
    asked |= {"window_s": DAY_S, "interval_s": 3600} | changes
    return from_sample(now_s=NOW_S, **asked)


def test_the_default_is_four_feeders_of_two_regions_on_the_last_complete_days() -> None:
    workload = sample()
    members = workload.members()
    assert {group: len(meters) for group, meters in members.items()} == {
        "north/f1": 25, "north/f2": 25, "south/f1": 25, "south/f2": 25, "north": 50, "south": 50, "grid": 100,
    }  # fmt: skip
    assert workload.end_s == 20_000 * DAY_S
    assert workload.first_window == 20_000 - 7
    assert workload.origin == "100 house-weeks of 17 homes"
    assert [[int(cell) for cell in row] for row in workload.cells] == house_weeks(100, 7).tolist()


@pytest.mark.parametrize(("meters", "count"), [(537, 6), (101, 4), (35, 7), (10, 1)])
def test_feeders_are_about_the_same_size_and_every_meter_is_in_one(meters: int, count: int) -> None:
    groups = feeders(meters, count, 5)
    sizes = [groups.count(name) for name in dict.fromkeys(groups)]
    assert len(groups) == meters
    assert len(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    assert {name.split("/")[0] for name in groups} == ({"north", "south"} if count > 1 else {"north"})


def test_feeders_too_small_to_be_released_are_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match=r"100 meters in 25 feeders.*at most 20 feeders"):
        feeders(100, 25, 5)
    with pytest.raises(ConfigError, match="0 feeders"):
        feeders(100, 0, 5)


def test_a_shorter_stretch_of_the_sample_is_named_for_what_it_is() -> None:
    assert sample(windows=2, meters=20).origin == "20 stretches of 48 hours of 17 homes"
    with pytest.raises(ConfigError, match="hourly"):
        sample(interval_s=900)


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def read(path: Path, **changes: int | None) -> Workload:
    asked: dict[str, int | None] = {"meters": None, "windows": 2, "groups": 1, "minimum_meters": 2}
    asked |= {"window_s": 7200, "interval_s": 3600} | changes
    return from_csv(path, now_s=NOW_S, **asked)  # type: ignore[arg-type]


def test_labelled_rows_follow_each_other_from_the_first_window_on(tmp_path: Path) -> None:
    rows = [["slot", "a", "b"], *([f"w1_{at}", str(at), str(-at)] for at in range(5))]
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress("\n".join(",".join(row) for row in rows).encode()))
    workload = read(path)
    assert workload.meters == ("a", "b")
    assert workload.times_s == tuple(
        workload.start_s + 3600 * at for at in range(4)
    )  # the fifth is not needed
    assert list(workload.cells) == [["0", "0"], ["1", "-1"], ["2", "-2"], ["3", "-3"]]


def test_stamped_rows_keep_their_place_in_the_window_and_gaps_stay_gaps(tmp_path: Path) -> None:
    stamps = ["2024-01-01T01:00Z", "2024-01-01T02:00Z", "2024-01-01T03:00Z"]
    workload = read(write_csv(tmp_path / "x.csv", [["time", "a", "b"], *([s, "1", "2"] for s in stamps)]))
    assert [time_s - workload.start_s for time_s in workload.times_s] == [3600, 7200, 10800]


def test_columns_that_no_topic_can_carry_are_renamed(tmp_path: Path) -> None:
    rows = [["t", "House A", "House B"], *(["x", "1", "2"] for _ in range(4))]
    assert read(write_csv(tmp_path / "x.csv", rows)).meters == ("m001", "m002")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,a,b\nx,1,2\nx,1,2\n", "has 1 complete windows"),
        ("t,a,b,a\nx,1,2,3\nx,1,2,3\n", "the column 'a' occurs twice"),
        ("t,a,b\nx,1," + "2" * 200_000, "not a CSV file"),
        ("t,a,b\nx,1\n", "row 2: 2 cells, expected 3"),
        ("t\n1\n", "no readings"),
        ("", "no readings"),
    ],
)
def test_a_file_that_does_not_hold_what_is_asked_for_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=message):
        read(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        read(tmp_path / "none.csv")
    (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"t,a\n" * 999)[:-9])
    with pytest.raises(SourceError, match="cannot read"):
        read(tmp_path / "broken.csv.gz")
    with pytest.raises(SourceError, match="2 columns of readings, 3 meters"):
        read(write_csv(tmp_path / "x.csv", [["t", "a", "b"], ["x", "1", "2"]]), meters=3)


def test_what_the_fleet_replays_is_what_the_workload_holds(tmp_path: Path) -> None:
    workload = sample(meters=20, windows=1)
    workload.write_csv(tmp_path / "readings.csv")
    workload.write_meters(tmp_path / "meters.csv")
    with (tmp_path / "readings.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["time", *workload.meters]
    assert [row[1:] for row in rows] == list(workload.cells)
    assert rows[0][0].endswith("T00:00:00+00:00")
    assert (tmp_path / "meters.csv").read_text().splitlines()[:2] == ["meter,group", "m001,north/f1"]


def test_a_live_workload_has_no_readings_of_its_own() -> None:
    workload = live(
        meters=10, windows=3, groups=2, minimum_meters=5, window_s=5, interval_s=1, first=400_000_000
    )
    assert workload.cells == ()
    assert workload.batches == 30
