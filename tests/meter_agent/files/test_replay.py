"""A file's readings in the windows of a plan: added exactly, and never before they are there."""

import dataclasses
import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridhe.config.settings import MeterSettings
from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, PolicyCounts, ReadingPolicy
from gridhe.meter_agent.sources.files.read import read_file
from gridhe.meter_agent.sources.files.recorded import RecordedFile
from gridhe.meter_agent.sources.files.registers import clean_register
from gridhe.meter_agent.sources.files.replay import ReplaySource
from gridhe.meter_agent.sources.files.table import Findings

DAY_S = 86_400
FIRST = 19_783  # the window of 2024-03-01
START = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)


def write(folder: Path, step_s: int, cells: list[str], header: str = "timestamp;kWh") -> Path:
    path = folder / "r.csv"
    stamps = (START + dt.timedelta(seconds=step_s * at) for at in range(len(cells)))
    path.write_text(
        "\n".join([header, *(f"{s.isoformat()};{c}" for s, c in zip(stamps, cells, strict=True)), ""])
    )
    return path


def window(path: Path, plan: Any, **options: str) -> list[int]:
    source = ReplaySource(read_file(path, options=options), plan, start_s=None)
    assert source.windows == (FIRST, FIRST + 1)
    return source.window("meter", FIRST)["import_wh"].tolist()


@pytest.mark.parametrize("step_s", [60, 300, 900, 1800, 3600])
def test_finer_intervals_are_added_if_all_parts_are_there(
    tmp_path: Path, authority: Any, step_s: int
) -> None:
    parts = 3600 // step_s
    cells = [f"0.{100 + at % 700:03}" for at in range(24 * parts)]
    sums = [sum(int(c[2:]) for c in cells[h * parts : (h + 1) * parts]) for h in range(24)]
    assert window(write(tmp_path, step_s, cells), authority.plan) == sums


def test_repro_an_hour_with_a_quarter_missing_is_missing(tmp_path: Path, authority: Any) -> None:
    cells = ["0.1"] * 96
    cells[5], cells[9] = "", "n/a"
    expected = [400, ABSENT, ABSENT] + [400] * 21
    assert window(write(tmp_path, 900, cells), authority.plan) == expected
    text = write(tmp_path, 900, cells).read_text().splitlines()
    (tmp_path / "r.csv").write_text("\n".join(text[:6] + text[7:10] + text[11:]) + "\n")
    assert window(tmp_path / "r.csv", authority.plan) == expected


def test_fractions_are_added_before_they_are_rounded(tmp_path: Path, authority: Any) -> None:
    # 20 W over a minute is a third of a Wh: 60 of them are 20 Wh, and not 60 times 0.
    path = write(tmp_path, 60, ["0.020"] * 1440, "timestamp;power kW")
    assert [each.wh for each in read_file(path).intervals()] == [0] * 1440
    assert window(path, authority.plan) == [20] * 24
    # Halves go to the even neighbour: 0.5 Wh is 0, 1.5 Wh is 2.
    half = write(tmp_path, 3600, ["0.0005", "0.0015"] * 12)
    assert window(half, authority.plan) == [0, 2] * 12


def test_import_and_export_go_to_their_quantities(tmp_path: Path, authority: Any) -> None:
    first = authority.plan.quantities[0]
    both = dataclasses.replace(
        authority.plan, quantities=(first, dataclasses.replace(first, name="export_wh"))
    )
    path = write(tmp_path, 3600, ["0.1;0.9"] * 24, "timestamp;import (kWh);export (kWh)")
    source = ReplaySource(read_file(path), both, start_s=None)
    found = {name: raw.tolist() for name, raw in source.window("meter", FIRST).items()}
    assert found == {"import_wh": [100] * 24, "export_wh": [900] * 24}
    assert list(ReplaySource(read_file(path), authority.plan, start_s=None).window("meter", FIRST)) == [
        "import_wh"
    ]
    only = write(tmp_path, 3600, ["0.9"] * 24, "timestamp;export (kWh)")
    with pytest.raises(SourceError, match="holds export only; --quantity NAME"):
        ReplaySource(read_file(only), authority.plan, start_s=None)


def test_repro_a_general_total_is_not_added_to_its_tariffs(tmp_path: Path, authority: Any) -> None:
    path = write(tmp_path, 3600, ["0.1;0.2;0.3"] * 24, "timestamp;Bezug HT (kWh);Bezug NT (kWh);Bezug (kWh)")
    assert window(path, authority.plan) == [300] * 24
    tariffs = write(tmp_path, 3600, ["0.1;", "0.1;0.2"] * 12, "timestamp;Bezug HT (kWh);Bezug NT (kWh)")
    assert window(tariffs, authority.plan) == [ABSENT, 300] * 12


def test_negative_net_values_go_by_the_policy(tmp_path: Path, authority: Any) -> None:
    path = write(tmp_path, 3600, ["-0.2", "0.3"] * 12, "timestamp;net (kWh)")
    table = read_file(path)
    assert list(table.values) == ["net"]
    raw = ReplaySource(table, authority.plan, start_s=None).window("meter", FIRST)["import_wh"]
    for choice, expected in (("missing", -1), ("clip", 0)):
        policy = ReadingPolicy(MeterSettings.model_validate({"on_negative": choice}))
        assert policy.apply(raw, 10_000, str, PolicyCounts()).tolist() == [expected, 300] * 12
    exported = read_file(path, options={"sign": "export"})
    raw = ReplaySource(exported, authority.plan, start_s=None).window("meter", FIRST)["import_wh"]
    assert raw.tolist() == [200, -300] * 12


def test_a_coarser_file_is_refused_with_the_way_out(tmp_path: Path, authority: Any) -> None:
    quarters = dataclasses.replace(authority.plan, interval_s=900)
    with pytest.raises(SourceError, match=r"every 3600 s, the plan .* every 900 s.* make a plan with"):
        ReplaySource(read_file(write(tmp_path, 3600, ["0.1"] * 24)), quarters, start_s=None)


@pytest.mark.parametrize(("fall", "counts_on", "missing"), [(150, True, True), (30_000, False, False)])
def test_repro_a_register_that_fell_back_and_counts_on_is_no_dip(
    fall: int, counts_on: bool, missing: bool
) -> None:
    """Read every minute at 50 Wh a minute: what was used since the older value is not known."""
    minutes = np.arange(120)
    wh = 500_000 + 50 * minutes
    wh[40 : 120 if counts_on else 42] -= fall
    samples, kept = clean_register(
        60 * minutes,
        1_000 * wh,
        minutes,
        unit_wh=1,
        largest_w=17_250,
        column="m",
        findings=Findings(),
    )
    assert samples.breaks[1:].any() == missing
    assert set(np.diff(samples.wh[~samples.breaks])) <= {50, 150}
    assert len(kept) == (120 if counts_on else 118)


def test_an_irregular_register_is_interpolated_between_near_samples_only(
    tmp_path: Path, authority: Any
) -> None:
    lines = ["entity_id,state,last_changed"]
    for minute in range(0, 24 * 60 + 30, 13):
        at = START + dt.timedelta(minutes=minute)
        if not 8 * 60 < minute < 11 * 60:  # three hours without the sensor
            lines.append(f"sensor.a,{1000 + minute / 1000:.3f},{at.isoformat()}")
    path = tmp_path / "h.csv"
    path.write_text("\n".join(lines) + "\n")
    table = read_file(path)
    source = ReplaySource(table, authority.plan, start_s=None)
    assert source.windows == (FIRST, FIRST + 1)
    found = source.window("sensor.a", FIRST)["import_wh"].tolist()
    assert found == [60] * 7 + [ABSENT] * 5 + [60] * 12  # unknown at 08:00 and at 11:00


# -- a file that grows -----------------------------------------------------------------------------


def test_repro_a_files_end_is_not_the_end_of_its_last_window(tmp_path: Path, authority: Any) -> None:
    table = read_file(write(tmp_path, 3600, ["0.1"] * 36))
    source = ReplaySource(table, authority.plan, start_s=None)
    assert source.windows == (FIRST, FIRST + 1)
    assert ReplaySource(table, authority.plan, start_s=None, partial=True).windows == (FIRST, FIRST + 2)
    # Cells that stand there empty are not there yet either.
    waiting = read_file(write(tmp_path, 3600, ["0.1"] * 36 + [""] * 12))
    assert ReplaySource(waiting, authority.plan, start_s=None).windows == (FIRST, FIRST + 1)
    assert ReplaySource(
        read_file(write(tmp_path, 3600, ["0.1"] * 12)), authority.plan, start_s=None
    ).windows == (
        FIRST,
        FIRST,
    )


def test_a_file_that_grows_is_read_again_and_a_half_written_line_waits(tmp_path: Path) -> None:
    path = write(tmp_path, 3600, ["0.1", "0.2", "0.3"])
    clock = [0.0]
    file = RecordedFile(
        path, format_name="auto", options={}, choose=None, follow=True, monotonic=lambda: clock[0]
    )
    assert len(file.table.raw) == 3
    with path.open("a") as more:
        more.write("2024-03-01T03:00:00+00:00;0.4\n2024-03-01T04:00:00+00:00;0.5")
    assert not file.changed()  # looked at just now
    clock[0] += 10
    assert file.changed()
    assert len(file.table.raw) == 4
    clock[0] += 10
    assert not file.changed()
    with path.open("a") as more:
        more.write("5\n")
    clock[0] += 10
    assert file.changed()
    assert [each.wh for each in file.table.intervals()][-1] == 550
    path.write_text("nothing of use")
    clock[0] += 10
    assert not file.changed()  # warned; the readings are kept
    path.unlink()
    clock[0] += 10
    assert not file.changed()
    assert len(file.table.raw) == 5
