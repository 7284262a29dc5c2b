"""`gridhe-meter check`: what would be read, what is set aside and where; code 0 only if all is understood."""

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gridhe.errors import GridHEError
from gridhe.meter_agent.cli import cli

QUARTERS = "Datum;Uhrzeit;Wert (kWh);Status\n"
LINES = [
    f"10.01.2024;{h:02}:{m:02};0,{100 + 7 * h % 24};{'E' if h == 3 else 'W'}\n"
    for h in range(24)
    for m in (0, 15, 30, 45)
]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["check", *map(str, arguments)])


def write(folder: Path, text: str) -> Path:
    path = folder / "r.csv"
    path.write_text(text)
    return path


def test_a_good_file_is_described(tmp_path: Path) -> None:
    path = write(tmp_path, QUARTERS + "".join(LINES[:40] + LINES[44:]) + LINES[-1] + "Summe;;11,5;\n")
    result = run(path)
    assert result.exit_code == 0, result.output
    for said in (
        "format    de_portal: German portals",
        "times of Europe/Berlin",
        "kWh (energy)",
        "decimal ,",
        "step      900 s",
        "meters    1",
        "import: 2024-01-09T23:00:00Z to 2024-01-10T23:00:00Z, 92 readings, 4 missing, 4 estimated, 10216 Wh",
        "gaps      1",
        "2024-01-10T09:00:00Z to 2024-01-10T10:00:00Z",
        "repeated  1 rows",
        "set aside 0: all is understood",
        "1 times: a sum, no reading (understood)",
    ):
        assert said in result.output, (said, result.output)


def test_json_says_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, QUARTERS + "".join(LINES[:40] + LINES[44:]))
    result = run(path, "--json")
    record = json.loads(result.output)
    assert result.exit_code == 0
    assert record["understood"] is True
    assert record["format"] == "de_portal"
    assert record["step_s"] == 900
    assert record["mean_w"] == pytest.approx(444.2, abs=0.1)
    assert record["findings"] == []
    assert record["series"] == [
        {
            "meter": "meter", "quantity": "import",
            "first": "2024-01-09T23:00:00Z", "end": "2024-01-10T23:00:00Z",
            "intervals": 92, "missing": 4, "estimated": 4, "total_wh": 10216,
            "gaps": [["2024-01-10T09:00:00Z", "2024-01-10T10:00:00Z"]],
        }
    ]  # fmt: skip


def test_repro_a_cell_that_is_not_understood_is_shown_with_its_place_and_fails(tmp_path: Path) -> None:
    path = write(tmp_path, QUARTERS + "".join(LINES[:8]) + "10.01.2024;02:00;zwei;W\nnever;02:15;0,1;W\n")
    for extra in ((), ("--json",)):
        result = run(path, *extra)
        assert isinstance(result.exception, GridHEError)
        assert result.exception.exit_code == 9
        assert "2 cells or rows are set aside" in str(result.exception)
    assert "line 10, column 'Wert (kWh)': is no number" in run(path).output
    assert "line 11, column 'Datum': has no time" in run(path).output
    assert json.loads(run(path, "--json").output)["findings"][0] == {
        "line": 10, "column": "Wert (kWh)", "reason": "is no number", "settled": False,
    }  # fmt: skip


def test_repro_a_column_mostly_set_aside_is_said(tmp_path: Path) -> None:
    rows = "".join(f"2024-03-01T{h:02}:00Z,{h},{'x' if h > 2 else h}\n" for h in range(10))
    result = run(write(tmp_path, f"time,m1,m2\n{rows}"))
    assert isinstance(result.exception, GridHEError)
    assert "7 times: is no number" in result.output
    assert "column 'm2'" in result.output


def test_a_refused_file_is_refused_with_the_setting_that_settles_it(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Datum;Zeit;Verbrauch Wh\n" + "".join(f"10.01.2024;{h:02}:00;{h + 1}.234\n" for h in range(5)),
    )
    result = run(path, "--json")
    assert isinstance(result.exception, GridHEError)
    assert "--with thousands=." in json.loads(result.output)["error"]
    settled = run(path, "--json", "--with", "thousands=.")
    assert json.loads(settled.output)["series"][0]["total_wh"] == sum((h + 1) * 1000 + 234 for h in range(5))
    assert json.loads(run(path, "--json", "--with", "decimal=.").output)["series"][0]["total_wh"] == 15


def test_every_interval_as_csv(tmp_path: Path) -> None:
    path = write(tmp_path, QUARTERS + "".join(LINES[:2] + LINES[3:5]))
    rows = list(csv.DictReader(io.StringIO(run(path, "--readings").output)))
    assert [(row["start_utc"], row["wh"], row["flag"]) for row in rows] == [
        ("2024-01-09T23:00:00Z", "100", ""),
        ("2024-01-09T23:15:00Z", "100", ""),
        ("2024-01-09T23:30:00Z", "", "missing"),
        ("2024-01-09T23:45:00Z", "100", ""),
        ("2024-01-10T00:00:00Z", "107", ""),
    ]


def test_wrong_use_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, QUARTERS + "".join(LINES))
    for arguments, says in (
        (["--format", "de_portl"], "no file format"),
        (["--with", "zone"], "expected key=value"),
        (["--with", "zone=Mars"], "no time zone"),
    ):
        result = run(path, *arguments)
        assert isinstance(result.exception, GridHEError)
        assert says in str(result.exception)
        assert "\n" not in str(result.exception)
