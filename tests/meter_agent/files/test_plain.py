"""Reading gridhe's own shape of CSV: quick, bounded, and never silently wrong."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, TEXT
from gridhe.meter_agent.sources.files.moments import parse_time
from gridhe.meter_agent.sources.files.plain import cell_value, plain_integers
from gridhe.meter_agent.sources.files.read import read_file


def write(folder: Path, text: str | bytes, name: str = "r.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_cells_are_integers_missing_or_text(tmp_path: Path) -> None:
    cells = [
        "12",
        "-3",
        "+7",
        "12.0",
        "1e3",
        "",
        " ",
        " 4 ",
        "12.5",
        "n/a",
        "1_000",
        "nan",
        "inf",
        "٣",
        "--1",
        "-",
        *["8"] * 8,
    ]
    text = "label," + ",".join(f"m{i}" for i in range(len(cells))) + "\nx," + ",".join(cells) + "\n"
    table = read_file(write(tmp_path, text))
    assert table.raw[0].tolist() == [12, -3, 7, 12, 1000, ABSENT, ABSENT, 4] + [TEXT] * 8 + [8] * 8
    assert table.times_s is None


def test_integers_beyond_64_bits_are_text_and_not_wrapped(tmp_path: Path) -> None:
    table = read_file(write(tmp_path, f"l,a,b,c,d,e,f,g,h\nx,{2**63},{2**64},{10**18 - 1},1,2,3,4,5\n"))
    assert table.raw[0].tolist() == [TEXT, TEXT, 10**18 - 1, 1, 2, 3, 4, 5]


@given(
    st.lists(
        st.text("0123456789-+.e ,x", max_size=8).map(lambda s: s.replace(",", "")), min_size=1, max_size=6
    )
)
def test_the_fast_decoder_reads_the_same_as_the_strict_decoder(cells: list[str]) -> None:
    assert np.frombuffer(plain_integers(cells), np.int64).tolist() == [cell_value(cell) for cell in cells]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_gzip_semicolons_and_a_byte_order_mark_make_no_difference(
    tmp_path: Path, newline: str, delimiter: str
) -> None:
    text = newline.join(["\ufefflabel,a,b", "r0,1,2", "", "r1,,4", ""]).replace(",", delimiter)
    plain = read_file(write(tmp_path, text))
    zipped = read_file(write(tmp_path, gzip.compress(text.encode()), "r.csv.gz"))
    for table in (plain, zipped):
        assert table.columns == ("a", "b")
        assert table.raw.tolist() == [[1, 2], [ABSENT, 4]]
        assert table.where(1, 1).endswith("line 4, column 'b'")


def test_chosen_columns_come_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "l,a,b,c\nx,1,2,3\n")
    assert read_file(path, choose=lambda names: ["c", "a"]).raw.tolist() == [[3, 1]]


def test_time_stamps_are_read_when_all_are(tmp_path: Path) -> None:
    table = read_file(write(tmp_path, "t,a\n2024-03-01,1\n2024-03-01T01:00Z,2\n2024-03-01 02:00+00:00,3\n"))
    assert table.times_s is not None
    assert (table.times_s - 1_709_251_200).tolist() == [0, 3600, 7200]


def test_repro_one_bad_cell_does_not_turn_a_column_of_times_into_row_numbers(tmp_path: Path) -> None:
    rows = "".join(f"2024-03-01T{hour:02}:00Z,{hour}\n" for hour in range(5))
    table = read_file(write(tmp_path, f"t,a\n{rows}later,7\n"))
    assert table.times_s is not None
    assert len(table.times_s) == 5
    assert [str(each) for each in table.findings.kept] == ["line 7, column 't': has no time"]
    with pytest.raises(SourceError, match="times in 1 of 3 rows only, first in line 2"):
        read_file(write(tmp_path, "t,a\n2024-03-01,1\nlater,2\nafter,3\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1709251200", 1_709_251_200),
        ("17", None),
        ("w44_000", None),
        ("2024-03-01T01:00+01:00", 1_709_251_200),
    ],
)
def test_a_small_number_is_a_label_and_no_time(text: str, expected: float | None) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no columns of readings"),
        (b"label\n1\n", "no column of times"),
        (b"label,a\n", "no readings"),
        (b"label,a,a\nx,1,2\n", "more than one column named a: give"),
        (b"label,a,\nx,1,2\n", "an empty name"),
        (b"label,a,b\nx,1,2\ny,1\n", "line 3 has 2 cells, not 3"),
        (b"label,a\nw,1\nx,1,2\n", "line 3 has 3 cells, not 2"),
        (b"label,a\nx,\0\n", "is a binary file"),
        (gzip.compress(b"label,a\nx,1\n", mtime=0)[:-9], "damaged gzip"),
        (b"\x1f\x8bjunk", "damaged gzip"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        read_file(write(tmp_path, content))


def test_a_missing_file_and_a_missing_column_are_clear(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot read .*No such file"):
        read_file(tmp_path / "none.csv")
