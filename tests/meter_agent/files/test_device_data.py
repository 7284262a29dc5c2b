"""Every export of the device data against its truth: start, end, quantity, Wh and flag of each interval."""

import csv
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gridhe.errors import SourceError
from gridhe.meter_agent.sources.files.check import understood
from gridhe.meter_agent.sources.files.read import read_file
from gridhe_testing.device_data import DeviceFile, device_files, needs_device_data

FILES = device_files("csv")
# What a file does not say itself, and `auto` therefore asks for.
SAID = {
    "de_thousands_points_wh": {"thousands": "."},  # "1.234" may be 1234 or one and a bit
    "excel_serial_dates": {"zone": "Europe/Berlin"},  # local times under an English header
}
# The truth leaves out an export that is 0.00 in every hour; a zero that the file states is a reading.
ZERO_EXPORT = {"us_pge_green_button_csv_25h"}
# Instants of a register, without intervals of their own: the truth gives the difference of the whole span.
IRREGULAR = {"homeassistant_history_export"}
# Two rows contradict each other: the interval is missing, and the file not understood.
NOT_UNDERSTOOD = {"messy_conflicting_duplicates"}

Row = tuple[str, str, str, str, str]


def truth(file: DeviceFile) -> list[Row]:
    path = file.path.parent / "truth" / f"{file.path.stem}.truth.csv"
    with path.open(newline="", encoding="utf-8") as text:
        return sorted(
            # One of five files with a repeated row flags it. Here it is counted; its value is the same.
            (r["start_utc"], r["end_utc"], r["quantity"], r["wh"], r["flag"].replace("duplicate", ""))
            for r in csv.DictReader(text)
        )


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@needs_device_data
@pytest.mark.parametrize("file", [each for each in FILES if each.path.stem not in IRREGULAR], ids=str)
def test_an_export_is_read_as_its_truth(file: DeviceFile) -> None:
    name = file.path.stem
    table = read_file(file.path, options=SAID.get(name))
    found = sorted(
        (
            iso(each.start_s),
            iso(each.end_s),
            each.quantity,
            "" if each.wh is None else str(each.wh),
            each.flag,
        )
        for each in table.intervals()
    )
    if name in ZERO_EXPORT:
        assert {row[3] for row in found if row[2] == "export"} == {"0"}
        found = [row for row in found if row[2] != "export"]
    assert found == truth(file)
    assert understood(table) == (name not in NOT_UNDERSTOOD)


@needs_device_data
@pytest.mark.parametrize("name", sorted(SAID))
def test_what_a_file_does_not_say_is_asked_for(name: str) -> None:
    (file,) = [each for each in FILES if each.path.stem == name]
    with pytest.raises(SourceError, match=f"--with {next(iter(SAID[name]))}="):
        read_file(file.path)


@needs_device_data
def test_a_home_assistant_history_gives_its_registers_difference() -> None:
    (file,) = [each for each in FILES if each.path.stem in IRREGULAR]
    table = read_file(file.path)
    ((_, samples),) = table.samples.items()
    assert int(samples.wh[-1] - samples.wh[0]) == 110
    assert iso(int(samples.times_s[0])) == "2025-01-10T00:00:03Z"
    assert table.findings.counts == {"the register falls for a moment": 1}
    assert not samples.breaks[1:].any()


@needs_device_data
def test_every_file_of_the_folder_has_its_truth_and_is_tested() -> None:
    folder = FILES[0].path.parent
    assert {each.path for each in FILES} == {path for path in folder.iterdir() if path.is_file()}
    assert len(FILES) >= 38


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_packing_and_line_ends_make_no_difference(file: DeviceFile, tmp_path: Path) -> None:
    import gzip
    import zipfile

    options = SAID.get(file.path.stem)
    plain = list(read_file(file.path, options=options).intervals())
    packed = tmp_path / f"{file.path.name}.gz"
    packed.write_bytes(gzip.compress(file.data))
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr(file.path.name, file.data)
    for path in (packed, archive):
        assert list(read_file(path, options=options).intervals()) == plain
    if file.path.suffix == ".csv":
        text = tmp_path / "x.csv"
        text.write_bytes(file.data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
        assert list(read_file(text, options=options).intervals()) == plain
