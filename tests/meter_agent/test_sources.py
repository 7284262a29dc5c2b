"""Synthetic and replayed windows: the same on every call, on the right intervals, never made up."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridhe.config.settings import MeterSettings
from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, ReadingPolicy
from gridhe.meter_agent.readings import columns_of
from gridhe.meter_agent.sources.files.read import read_file
from gridhe.meter_agent.sources.files.replay import ReplaySource
from gridhe.meter_agent.sources.files.table import Table
from gridhe.meter_agent.sources.protocol import WindowDevice
from gridhe.meter_agent.sources.synthetic import SyntheticSource

DAY_S = 86_400


def table(folder: Path, labels: list[str], cells: list[str]) -> Table:
    path = folder / "t.csv"
    path.write_text(
        "t,m1\n" + "".join(f"{label},{cell}\n" for label, cell in zip(labels, cells, strict=True))
    )
    return read_file(path)


# -- synthetic -------------------------------------------------------------------------------------


def test_synthetic_readings_depend_on_seed_meter_and_interval_alone(authority: Any) -> None:
    one, again = SyntheticSource(authority.plan, seed=1), SyntheticSource(authority.plan, seed=1)
    later = one.window("m1", 20_000)["import_wh"]
    assert again.window("m1", 20_001)["import_wh"].tolist() != later.tolist()
    assert again.window("m1", 20_000)["import_wh"].tolist() == later.tolist()
    assert (
        SyntheticSource(authority.plan, seed=2).window("m1", 20_000)["import_wh"].tolist() != later.tolist()
    )
    assert one.window("m2", 20_000)["import_wh"].tolist() != later.tolist()
    # Longer windows of the same intervals hold the same readings.
    longer = dataclasses.replace(authority.plan, window_s=2 * DAY_S)
    both = SyntheticSource(longer, seed=1).window("m1", 10_000)["import_wh"]
    assert both[:24].tolist() == later.tolist()


def test_synthetic_households_have_their_base_load_a_daily_wave_and_noise(authority: Any) -> None:
    source = SyntheticSource(authority.plan)
    days = np.array(
        [[source.window(f"m{m}", d)["import_wh"] for d in range(30)] for m in range(60)]
    )  # [meter][day][hour]
    bases = days.mean(axis=(1, 2))
    assert 1_950 < bases.min() < 2_200
    assert 2_800 < bases.max() < 3_050
    profile = days.mean(axis=(0, 1))
    assert (int(profile.argmin()), int(profile.argmax())) in {(5, 17), (5, 18), (6, 17), (6, 18)}
    assert 1_000 < profile.max() - profile.min() < 1_300
    spread = (days - days.mean(axis=1, keepdims=True)).std()
    assert 100 < spread < 140


def test_synthetic_power_is_in_watts_and_energy_in_wh(authority: Any) -> None:
    quantity = authority.plan.quantities[0]
    minutes = dataclasses.replace(authority.plan, interval_s=900, quantities=(quantity,))
    watts = dataclasses.replace(minutes, quantities=(dataclasses.replace(quantity, unit="W"),))
    energy = SyntheticSource(minutes).window("m1", 3)["import_wh"]
    power = SyntheticSource(watts).window("m1", 3)["import_wh"]
    assert abs(power - 4 * energy).max() <= 2


# -- replay ----------------------------------------------------------------------------------------


def test_rows_follow_on_from_the_start(tmp_path: Path, authority: Any) -> None:
    rows = [str(i) for i in range(30)]
    source = ReplaySource(
        table(tmp_path, [f"r{i}" for i in range(30)], rows), authority.plan, start_s=5 * DAY_S
    )
    assert source.windows == (5, 6)  # the file may grow: its last window is not over
    assert source.window("m1", 5)["import_wh"].tolist() == list(range(24))
    assert source.window("m1", 6)["import_wh"].tolist() == [24, 25, 26, 27, 28, 29, *[ABSENT] * 18]
    assert source.where("m1", 6, 2).endswith("line 28, column 'm1'")


def test_time_stamps_leave_gaps_missing_and_equal_rows_count_once(tmp_path: Path, authority: Any) -> None:
    labels = [
        "2024-03-01T00:00",
        "2024-03-01T01:00",
        "2024-03-01T01:00",
        "2024-03-01T04:00",
        "2024-03-01T05:00",
    ]
    made = ReplaySource(
        table(tmp_path, labels, ["1", "2", "2", "5", ""]), authority.plan, start_s=None, partial=True
    )
    assert made.windows == (19_783, 19_784)
    assert made.window("m1", 19_783)["import_wh"].tolist() == [1, 2, ABSENT, ABSENT, 5, *[ABSENT] * 19]
    assert made._table.findings.counts == {"repeats a row": 1}
    moved = ReplaySource(made._table, authority.plan, start_s=7 * DAY_S)
    assert moved.window("m1", 7)["import_wh"].tolist() == [1, 2, ABSENT, ABSENT, 5, *[ABSENT] * 19]


def test_a_loop_starts_over_without_a_seam(tmp_path: Path, authority: Any) -> None:
    rows = [str(i) for i in range(10)]
    source = ReplaySource(
        table(tmp_path, [f"r{i}" for i in range(10)], rows), authority.plan, start_s=5 * DAY_S, loop=True
    )
    assert source.windows == (5, None)
    both = [v for w in (5, 6) for v in source.window("m1", w)["import_wh"].tolist()]
    assert both == [i % 10 for i in range(48)]


@pytest.mark.parametrize(
    ("labels", "start_s", "says"),
    [
        (["a", "b"], None, "give the start"),
        (["a", "b"], DAY_S + 1, "not the start of a 86400 s window; use 86400"),
        (["2024-03-01T00:10", "2024-03-01T01:10"], None, "begin 600 s after a whole 3600 s"),
        (
            ["2024-03-01T00:00", "2024-03-01T02:00"],
            None,
            "every 7200 s, the plan an interval every 3600",
        ),
    ],
)
def test_a_file_that_does_not_fit_the_plan_is_refused(
    tmp_path: Path, authority: Any, labels: list[str], start_s: int | None, says: str
) -> None:
    with pytest.raises(SourceError, match=says):
        ReplaySource(table(tmp_path, labels, ["1", "2"]), authority.plan, start_s=start_s)


def test_readings_to_be_refused_are_found_before_anything_is_sealed(tmp_path: Path, authority: Any) -> None:
    source = ReplaySource(table(tmp_path, ["a", "b"], ["1", "-2"]), authority.plan, start_s=0)
    source.check(ReadingPolicy(MeterSettings()), ["m1"])
    with pytest.raises(SourceError, match="line 3, column 'm1': the reading -2 is negative"):
        source.check(ReadingPolicy(MeterSettings(on_negative="refuse")), ["m1"])
    with pytest.raises(SourceError, match="no column 'm2' for meter 'm2'"):
        source.check(ReadingPolicy(MeterSettings()), ["m2"])


def test_a_source_played_as_a_device_gives_each_interval_once_it_is_over(
    tmp_path: Path, authority: Any
) -> None:
    source = ReplaySource(
        table(tmp_path, ["a", "b", "c"], ["1", "", "3"]), authority.plan, start_s=DAY_S, partial=True
    )
    device = WindowDevice(source, "m1", window_s=DAY_S, interval_s=3600)
    first = list(device.read(DAY_S - 1, DAY_S + 2 * 3600 + 5))
    assert [(s.at_s, dict(s.values)) for s in first] == [(DAY_S, {"import_wh": 1}), (DAY_S + 3600, {})]
    rest = list(device.read(first[-1].at_s, 9 * DAY_S))
    assert [s.at_s for s in rest] == [DAY_S + i * 3600 for i in range(2, 24)]
    assert device.ended(rest[-1].at_s)
    assert not device.ended(first[-1].at_s)


# -- whose column is whose -------------------------------------------------------------------------


def test_columns_go_by_name_or_else_by_order() -> None:
    assert columns_of(["b", "a"], ["a", "b", "c"]) == {"b": "b", "a": "a"}
    assert columns_of(["m1", "m2"], ["a", "b", "c"]) == {"m1": "a", "m2": "b"}
    assert columns_of(["m1", "m2"], ["a", "b", "c"], skip=1) == {"m1": "b", "m2": "c"}
    assert columns_of(["m1"], ["a", "b"], column="b") == {"m1": "b"}
    with pytest.raises(SourceError, match="columns for 1 of 2 meters, but none for m1"):
        columns_of(["m1", "a"], ["a", "b"])
    with pytest.raises(SourceError, match="3 meters need as many columns; the file has 2"):
        columns_of(["m1", "m2", "m3"], ["a", "b"])
