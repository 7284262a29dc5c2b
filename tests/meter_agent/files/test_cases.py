"""Files as operators have brought them, in small: the right reading stands beside each."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, TEXT
from gridhe.meter_agent.sources.files.check import understood
from gridhe.meter_agent.sources.files.read import read_file
from gridhe.meter_agent.sources.files.table import Table, round_wh

START = dt.datetime(2024, 3, 4, tzinfo=dt.UTC)
HOUSES = ("haus-ahorn", "haus-birke", "haus-linde")
WH = [
    (355, 1245, 209), (602, 321, 1047), (1414, 857, 1079), (138, 1791, 1641), (1651, 84, 1557),
    (1722, 548, 142), (125, 132, 1884), (860, 1485, 139), (1160, 534, 1212), (557, 787, 1638),
    (1021, 673, 1219), (1468, 953, 1371),
]  # fmt: skip


def stamp(hours: float) -> str:
    return (START + dt.timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S")


def write(
    folder: Path, rows: list[list[str]], delimiter: str = ",", header: tuple[str, ...] = ("time", *HOUSES)
) -> Path:
    path = folder / "r.csv"
    path.write_text("".join(delimiter.join(row) + "\n" for row in [list(header), *rows]))
    return path


def file(folder: Path, cell: Any = str, *, delimiter: str = ",", times: Any = stamp) -> Path:
    return write(folder, [[times(at), *map(cell, row)] for at, row in enumerate(WH)], delimiter)


def whole(table: Table) -> list[tuple[int, ...]]:
    return [tuple(row) for row in round_wh(table.raw, table.per_wh).tolist()]


def test_plain_integers(tmp_path: Path) -> None:
    table = read_file(file(tmp_path))
    assert whole(table) == WH
    assert table.times_s is not None
    assert table.times_s.tolist() == [int(START.timestamp()) + 3600 * at for at in range(len(WH))]
    assert understood(table)


def test_fractions_of_kwh_need_the_unit_and_are_exact(tmp_path: Path) -> None:
    path = file(tmp_path, lambda wh: f"{wh / 1000:.3f}")
    with pytest.raises(SourceError, match=r"does not say the unit .* --with unit=kWh"):
        read_file(path)
    assert whole(read_file(path, options={"unit": "kWh"})) == WH


def test_a_decimal_comma_behind_semicolons(tmp_path: Path) -> None:
    path = file(tmp_path, lambda wh: f"{wh / 1000:.3f}".replace(".", ","), delimiter=";")
    assert whole(read_file(path, options={"unit": "kWh"})) == WH


def test_quoted_thousands_are_asked_for(tmp_path: Path) -> None:
    path = file(tmp_path, lambda wh: f'"{wh:,}"')
    with pytest.raises(SourceError, match="--with thousands=, "):
        read_file(path)
    assert whole(read_file(path, options={"thousands": ","})) == WH


def test_repro_a_quoted_comma_does_not_become_two_readings(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(
        'time,a,b,c,d,e\n2024-03-04T00:00,100,"1,5",100,100,100\n2024-03-04T01:00,100,100,100,100,100\n'
    )
    table = read_file(path)
    assert table.raw.tolist() == [[100, TEXT, 100, 100, 100], [100] * 5]
    assert [str(each) for each in table.findings.kept] == ["line 2, column 'b': is no whole number"]
    assert not understood(table)


@pytest.mark.parametrize(
    "label", ["Summe", "Total", "TOTAL:", "Gesamt", "Somme", "Razem", "Yhteensä", "Ø Mittelwert"]
)
def test_repro_a_sum_row_is_no_reading(tmp_path: Path, label: str) -> None:
    rows = [[stamp(at), *map(str, row)] for at, row in enumerate(WH)]
    sums = [str(sum(column)) for column in zip(*WH, strict=True)]
    table = read_file(write(tmp_path, [*rows, [label, *sums]]))
    assert whole(table) == WH
    assert table.times_s is not None
    assert table.findings.counts == {"a sum, no reading": 1}
    assert understood(table)


def test_repro_a_sum_without_its_word_below_labelled_rows_is_no_reading(tmp_path: Path) -> None:
    rows = [[f"w{at}", *map(str, row)] for at, row in enumerate(WH)]
    sums = [str(sum(column)) for column in zip(*WH, strict=True)]
    table = read_file(write(tmp_path, [*rows, ["", *sums]]))
    assert whole(table) == WH


def test_a_column_of_sums_is_no_meter(tmp_path: Path) -> None:
    rows = [[stamp(at), *map(str, row), str(sum(row))] for at, row in enumerate(WH)]
    table = read_file(write(tmp_path, rows, header=("time", *HOUSES, "Summe")))
    assert table.columns == HOUSES
    assert whole(table) == WH


def test_a_gap_stays_a_gap(tmp_path: Path) -> None:
    rows = [[stamp(at), *map(str, row)] for at, row in enumerate(WH) if at not in (4, 5)]
    table = read_file(write(tmp_path, rows))
    assert [each.wh for each in table.intervals() if each.meter == HOUSES[0]] == [
        None if at in (4, 5) else row[0] for at, row in enumerate(WH)
    ]


def test_registers_become_differences(tmp_path: Path) -> None:
    registers = [[41_230_355, 8_124_645, 1_000_815]]
    for row in WH:
        registers.append([a + b for a, b in zip(registers[-1], row, strict=True)])
    rows = [[stamp(at), *map(str, row)] for at, row in enumerate(registers)]
    assert whole(read_file(write(tmp_path, rows))) == WH


def test_repro_registers_with_an_empty_cell_are_registers_still(tmp_path: Path) -> None:
    registers = [[41_230_355, 8_124_645, 1_000_815]]
    for row in WH * 2:
        registers.append([a + b for a, b in zip(registers[-1], row, strict=True)])
    rows = [[stamp(at), *map(str, row)] for at, row in enumerate(registers)]
    rows[5][1] = ""
    table = read_file(write(tmp_path, rows))
    expected = [list(row) for row in WH * 2]
    expected[4][0] = expected[5][0] = ABSENT
    assert round_wh(table.raw, table.per_wh).tolist() == expected


def test_a_register_of_few_kwh_is_not_guessed(tmp_path: Path) -> None:
    registers = [[100, 7, 0]]
    for row in WH * 2:
        registers.append([a + b % 50 for a, b in zip(registers[-1], row, strict=True)])
    rows = [[stamp(at), *map(str, row)] for at, row in enumerate(registers)]
    path = write(tmp_path, rows)
    with pytest.raises(SourceError, match=r"--with kind=register .* --with kind=interval"):
        read_file(path)
    assert whole(read_file(path, options={"kind": "register"}))[0] == tuple(wh % 50 for wh in WH[0])
    assert whole(read_file(path, options={"kind": "interval"}))[0] == (100, 7, 0)


def test_stamps_that_a_spreadsheet_cut_off_are_refused(tmp_path: Path) -> None:
    path = file(tmp_path, times=lambda at: "1.71E+09")
    with pytest.raises(SourceError, match=r"same time in every row.* --with stamp=rows"):
        read_file(path)
    table = read_file(path, options={"stamp": "rows"})
    assert table.times_s is None
    assert whole(table) == WH


def test_epoch_seconds(tmp_path: Path) -> None:
    table = read_file(file(tmp_path, times=lambda at: str(int(START.timestamp()) + 3600 * at)))
    assert table.times_s is not None
    assert table.times_s[0] == START.timestamp()
    assert whole(table) == WH


def autumn(step: int = 15) -> tuple[list[str], list[int]]:
    """The local stamps of 2024-10-27 in central Europe, and their instants."""
    first = dt.datetime(2024, 10, 26, 22, tzinfo=dt.UTC)
    instants = [first + dt.timedelta(minutes=step * at) for at in range(25 * 60 // step)]
    change = dt.datetime(2024, 10, 27, 1, tzinfo=dt.UTC)
    local = [each + dt.timedelta(hours=2 if each < change else 1) for each in instants]
    return [each.strftime("%Y-%m-%dT%H:%M") for each in local], [int(each.timestamp()) for each in instants]


def test_local_times_with_an_hour_twice_need_their_zone(tmp_path: Path) -> None:
    stamps, instants = autumn()
    rows = [[text, *(str(100 + at * k % 997) for k in (3, 5, 7))] for at, text in enumerate(stamps)]
    path = write(tmp_path, rows)
    with pytest.raises(SourceError, match=r"has an hour twice.* --with zone="):
        read_file(path)
    table = read_file(path, options={"zone": "Europe/Zurich"})
    assert table.times_s is not None
    assert table.times_s.tolist() == instants
    assert [[str(wh) for wh in row] for row in whole(table)] == [row[1:] for row in rows]


def test_local_times_that_lack_the_hour_of_spring_need_their_zone(tmp_path: Path) -> None:
    rows = [[f"2024-03-31T{hour:02}:00", "5", "6", "7"] for hour in range(24) if hour != 2]
    path = write(tmp_path, rows)
    with pytest.raises(SourceError, match=r"clocks skip in spring.* --with zone=UTC"):
        read_file(path)
    assert len(list(read_file(path, options={"zone": "Europe/Rome"}).intervals())) == 3 * 23
    assert len(list(read_file(path, options={"zone": "UTC"}).intervals())) == 3 * 24


def test_two_rows_for_one_time(tmp_path: Path) -> None:
    rows = [[stamp(at), *map(str, row)] for at, row in enumerate(WH)]
    table = read_file(write(tmp_path, [*rows[:3], rows[2], *rows[3:], [stamp(5), "1722", "549", "142"]]))
    expected = [list(row) for row in WH]
    expected[5][1] = ABSENT
    assert table.raw.tolist() == expected
    assert table.findings.counts == {"repeats a row": 1, "two rows have different values for one time": 1}
    assert table.findings.open_counts == {"two rows have different values for one time": 1}


def test_rows_in_any_order_are_put_in_order(tmp_path: Path) -> None:
    rows = [[stamp(at), *map(str, row)] for at, row in enumerate(WH)]
    assert whole(read_file(write(tmp_path, rows[::-1]))) == WH
    assert whole(read_file(write(tmp_path, [*rows[6:], *rows[:6]]))) == WH
