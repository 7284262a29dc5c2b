"""Profiles, tables, files and the picture."""

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridhe.config.settings import MeterSettings
from gridhe.demo.picture import draw
from gridhe.demo.proof import compare
from gridhe.demo.releases import profile_of
from gridhe.demo.report import DemoOutcome, as_record, print_report, write_profile_csv, write_record
from gridhe.errors import ConfigError


def profiles_of(run: Any) -> dict[str, Any]:
    return {g: profile_of(run.workload, run.plan, g, run.releases) for g in run.workload.members()}


def outcome_of(run: Any, **changes: Any) -> DemoOutcome:
    proof = compare(run.oracle, run.plan, run.releases, minimum_meters=2)
    return replace(
        DemoOutcome(
            workload=run.workload, plan=run.plan, broker="mosquitto", profiles=profiles_of(run), proof=proof,
            policy_counts={"good": 576, "absent": 0, "negative": 2}, policies=MeterSettings(),
            batches_sent=24, batches_folded=24,
            duplicates=1, rejected=0, refused=0, bytes_per_batch=98_500.0,
            seal_ms_per_batch=2.5, total_ms_per_batch=None, seconds=12.3456,
        ),
        **changes,
    )  # fmt: skip


def test_a_profile_says_what_numpy_says_of_the_plaintext(small_run: Any) -> None:
    grid, readings = profiles_of(small_run)["grid"], small_run.plain.readings
    load_wh = readings.sum(axis=1)
    assert grid.energy_kwh == pytest.approx(load_wh.sum() / 1000)
    when, peak_kw = grid.peak
    assert peak_kw == load_wh.max() / 1000
    assert when.timestamp() == small_run.workload.start_s + 3600 * load_wh.argmax()
    assert grid.mean == pytest.approx(readings.mean())
    assert grid.spread == pytest.approx(readings.std())
    assert np.allclose(grid.mean_per_interval, readings.mean(axis=1))
    assert np.allclose(grid.spread_per_interval, readings.std(axis=1))
    low, high = grid.extremes()
    assert np.all(low <= readings.min(axis=1))
    assert np.all(readings.max(axis=1) <= high)
    assert np.all(readings.max(axis=1) - high > -500)  # bins are 500 Wh wide
    assert grid.lowest_bin[0] <= readings.min() <= grid.lowest_bin[1]
    assert grid.highest_bin[0] <= readings.max() <= grid.highest_bin[1]


def test_a_profile_of_squares_without_their_low_bits_is_near(shifted_run: Any) -> None:
    grid = profiles_of(shifted_run)["grid"]
    assert grid.spread == pytest.approx(shifted_run.plain.readings.std(), rel=0.01)
    assert grid.extremes() is None
    assert grid.lowest_bin is None


def test_a_profile_of_nothing_has_no_mean_and_does_not_fail(small_run: Any) -> None:
    nothing = profile_of(small_run.workload, small_run.plan, "grid", [])
    assert nothing.windows == 0
    assert np.isnan(nothing.mean)
    assert nothing.spread is None
    assert np.isnan(nothing.mean_per_interval).all()
    assert nothing.highest_bin is None


def test_the_record_has_what_programs_are_promised(small_run: Any, tmp_path: Path) -> None:
    write_record(tmp_path / "report.json", outcome_of(small_run))
    record = json.loads((tmp_path / "report.json").read_text())
    promised = (
        "batches_sent batches_folded duplicates rejected totals_released refused mismatches exact seconds"
    )
    assert set(promised.split()) <= set(record)
    assert record["exact"] is True
    assert record["mismatches"] == 0
    assert record["totals_released"] == record["totals_expected"] == 14
    assert [group["group"] for group in record["groups"]][-1] == "grid"


def test_a_run_that_is_not_exact_says_so_and_why(small_run: Any) -> None:
    proof = compare(small_run.oracle, small_run.plan, small_run.releases[1:], minimum_meters=2)
    outcome = outcome_of(small_run, proof=proof)
    text = io.StringIO()
    print_report(outcome, [], text)
    assert "exact: FALSE" in text.getvalue()
    assert "north/f1 window 19998: 0 of 3 meters released" in text.getvalue()
    assert as_record(outcome)["exact"] is False
    assert as_record(outcome)["missing"] == 1


def test_the_report_shows_every_group_and_the_proof(small_run: Any) -> None:
    text = io.StringIO()
    print_report(outcome_of(small_run), [Path("out/load_profile.png")], text)
    shown = text.getvalue()
    for group in small_run.workload.members():
        assert group in shown
    assert "14 of 14" in shown
    assert "readings negative (missing)" in shown
    assert "98,500 bytes" in shown
    assert "2.50 ms" in shown
    assert "wrote out/load_profile.png" in shown
    assert "exact: true" in shown


def test_the_csv_has_a_row_per_group_and_interval_with_the_released_sums(
    small_run: Any, tmp_path: Path
) -> None:
    profiles = profiles_of(small_run)
    write_profile_csv(tmp_path / "p.csv", list(profiles.values()))
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 * 48
    grid = [int(row["sum_Wh"]) for row in rows if row["group"] == "grid"]
    assert grid == small_run.plain.readings.sum(axis=1).tolist()


@pytest.mark.parametrize("feeders", [4, 20])
def test_the_picture_is_a_png_of_some_size(small_run: Any, tmp_path: Path, feeders: int) -> None:
    profiles = profiles_of(small_run)
    leaves = [profiles["north/f1"]] * feeders
    draw(tmp_path / "p.png", profiles["grid"], leaves, title="title", note="note")
    data = (tmp_path / "p.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(data) > 20_000


def test_without_matplotlib_the_picture_says_what_to_install(
    small_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'gridhe\[demo\]'"):
        draw(tmp_path / "p.png", profiles_of(small_run)["grid"], [], title="", note="")
