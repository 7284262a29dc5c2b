"""Files that are no files of readings: one clear line, in bounded time and memory, whatever the bytes."""

import gzip
import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.sources.files.check import as_lines, as_record
from gridhe.meter_agent.sources.files.read import read_file
from gridhe_testing.csv_decoder import SEEDS

MIB = 1 << 20
ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">%s]><feed>&z;</feed>' % b"".join(
    b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(25)
)


def write(folder: Path, content: bytes, name: str = "r.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def zipped(*names: str, content: bytes = SEEDS[0], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(200), "binary file"),
        (b"%PDF-1.7\n\x93\x8c\x8b\x9e\x00", "binary file"),
        (SEEDS[0] + b"\x00", "binary file"),
        (b"\xff\xfea\x00b\x00c", "empty|not UTF-16"),
        (zipped("a.csv", "b.csv"), "a zip file of 2 files: unpack it"),
        (zipped("a.csv", method=zipfile.ZIP_BZIP2), "a password or a rare method"),
        (zipped("a.csv")[:-30], "zip file"),
        (gzip.compress(SEEDS[0])[:-9], "damaged gzip"),
        (b"<?xml version='1.0'?><html><body/></html>", "XML of an unknown kind .<html>"),
        (b"<feed><entry>", "no valid XML"),
        (b"<feed></feed>", "no readings of electricity"),
        (ENTITIES, "defines entities"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><feed/>', "defines entities or a document type"),
        (b"<a>" * 100, "nests its elements deeper"),
        (b"<feed>" + b"x" * (2 * MIB), "without an end"),
        (b"<feed " + b"x" * (2 * MIB), "without an end|no valid XML"),
        (b"time,a\n2024-03-01T00:00Z," + b"1" * (2 * MIB) + b"\n", "a line of more than 1 MiB"),
        (b"time,a\n" + b'2024-03-01T00:00Z,"1\n' + b"2024-03-01T00:00Z,1\n" * 200_000, "no CSV|a quote"),
        (b'time,a\n"2024-03-01T00:00Z,"' + b'",\n"' * 900_000, "no CSV|a quote"),
        (b"," * 100_000 + b"\n" + b"1," * 100_000 + b"\n", "cells|no column|header line|name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",  # an id of bytes would be of megabytes
)
def test_it_is_refused_with_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(SourceError, match=says) as caught:
        read_file(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize("pack", ["gz", "zip"])
def test_repro_a_bomb_ends_at_200_times_its_size(tmp_path: Path, pack: str) -> None:
    plain = b"2024-03-01T00:00Z,1\n" * (70 * MIB // 20)
    content = gzip.compress(plain, 6) if pack == "gz" else zipped("a.csv", content=plain)
    assert len(content) < MIB
    path = write(tmp_path, content)
    with pytest.raises(SourceError, match="unpacks to more than 200 times its size"):
        read_file(path)


def test_repro_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path, b"time,a\n" + b"1," * (32 * MIB))
    tracemalloc.start()
    with pytest.raises(SourceError, match="a line of more than 1 MiB"):
        read_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * MIB


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(SourceError, match="no file on a disk"):
        read_file(path)
    with pytest.raises(SourceError, match="no file on a disk"):
        read_file(Path("/dev/zero"))
    with pytest.raises(SourceError, match=r"cannot read .*directory"):
        read_file(tmp_path)
    with pytest.raises(SourceError, match=r"cannot read .*No such file"):
        read_file(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("nonsense", {}, "no file format 'nonsense'; there are auto, gridhe, de_lastgang"),
        ("auto", {"unti": "kWh"}, "unknown setting unti"),
        ("auto", {"unit": "J"}, "unit: "),
        ("auto", {"zone": "Europe/Nowhere"}, "no time zone 'Europe/Nowhere'"),
        ("auto", {"encoding": "klingon"}, "no encoding 'klingon'"),
        ("auto", {"import_column": "energy"}, "no column 'energy'"),
        ("uk_octopus", {}, "not have the columns of uk_octopus; its columns are Datum"),
        ("ch_sdat", {}, "no XML file"),
        ("au_nem12", {}, "no day of readings"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, name: str, options: dict[str, str], says: str) -> None:
    path = write(tmp_path, SEEDS[2])
    with pytest.raises((SourceError, ConfigError), match=says):
        read_file(path, format_name=name, options=options)


def test_repro_personal_data_of_a_preamble_is_in_no_message(tmp_path: Path) -> None:
    preamble = b'Name,JANE DOE\nAddress,"1 EXAMPLE ST, NOWHERE"\nAccount Number,="0000000042"\n\n'
    table = b"DATE,START TIME,USAGE (kWh)\n2024-11-04,00:00,0.40\n2024-11-04,01:00,oops\n"
    for content in (preamble, preamble + table, preamble * 30, preamble + b"x,y\n1,2\n"):
        path = write(tmp_path, content)
        for options in ({}, {"zone": "UTC", "import_column": "nothing"}, {"time_column": "nothing"}):
            try:
                found = read_file(path, options=options)
                said = "\n".join([*as_lines(found), str(as_record(found))])
            except (SourceError, ConfigError) as error:
                said = str(error)
            assert not {word for word in ("JANE", "DOE", "EXAMPLE", "NOWHERE", "42") if word in said}, said


def feed(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        table = read_file(path)
    except (SourceError, ConfigError):
        return
    as_record(table)
    for _ in as_lines(table):
        pass


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    feed(tmp_path / "r.csv", content)


_NUMBERS = ["", "1", "0,5", "1.234", "1'234", "-3", "n/a", "12", "1 kW", "45293,25", "1730000000"]
_TIMES = ["27.10.2024", "2024-10-27", "02:00", "24:00", "25:00", "2024-10-27T02:00", "2024-10-27 02:30+02:00"]
CELLS = st.sampled_from([*_NUMBERS, *_TIMES, "kWh", "W", "Summe", '"', "#"])
_NAMES = ["Datum", "Zeit", "von", "bis", "kWh", "Wert", "Einheit", "Bezug", "Einspeisung", "a", ""]
HEADER = st.sampled_from(_NAMES)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(HEADER, min_size=1, max_size=5),
    st.lists(st.lists(CELLS, min_size=1, max_size=6), max_size=30),
    st.sampled_from([";", ",", "\t"]),
)
def test_any_table_is_read_or_refused(
    tmp_path: Path, header: list[str], rows: list[list[str]], delimiter: str
) -> None:
    feed(tmp_path / "r.csv", "\n".join(delimiter.join(row) for row in [header, *rows]).encode())
