"""Linky's customer port: frames of invented meters, and of real ones if their files are there."""

import random
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe.meter_agent.sources.tic import FRAME_MAX, TicDecoder
from gridhe_testing.device_data import DeviceFile, device_files, needs_device_data
from gridhe_testing.tic_meter import historique, standard

FILES = device_files("tic")
HC = historique(("ADCO", "000000000007"), ("HCHC", "019571184"), ("HCHP", "024310022"), ("PAPP", "01900"))
EAST = standard(
    ("ADSC", "000000000008"),
    ("DATE", "E240717120010", ""),
    ("EAST", "054321000"),
    ("EASF01", "020000000"),
    ("EASF02", "034321000"),
    ("EAIT", "001234567"),
    ("SINSTS", "00921"),
)


def even(data: bytes) -> bytes:
    """7E1 characters as a port of 8N1 reads them."""
    return bytes(byte | (byte.bit_count() % 2) << 7 for byte in data)


def decoded(data: bytes) -> tuple[list[DeviceReading], dict[str, int]]:
    decoder = TicDecoder()
    found = decoder.feed(data) + decoder.pause()
    return found, dict(decoder.faults)


def wh(reading: DeviceReading) -> tuple[Decimal | None, Decimal | None]:
    return total_wh(reading.imported), total_wh(reading.exported)


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_meters_file_gives_its_readings(file: DeviceFile) -> None:
    found, faults = decoded(file.data)
    times = [None if each.at_s is None else datetime.fromtimestamp(each.at_s, UTC) for each in found]
    assert [
        (*wh(each), each.power_w, time and f"{time:%Y-%m-%dT%H:%M:%SZ}")
        for each, time in zip(found, times, strict=True)
    ] == [(each["import_wh"], each["export_wh"], each["power_w"], each["ts_utc"]) for each in file.readings]
    assert ("checksum" in faults) == (file.verdict == "reject-line")


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_reads_the_same_in_pieces_behind_garbage_and_behind_a_part_of_itself(file: DeviceFile) -> None:
    data = file.data
    whole, faults = decoded(data)
    assert decoded(even(data)) == (whole, faults)
    rng = random.Random(file.path.stem)
    for at in range(len(data)):
        decoder = TicDecoder()
        assert decoder.feed(data[:at]) + decoder.feed(data[at:]) == whole
        assert dict(decoder.faults) == faults
        noise = bytes(rng.choices(range(4, 256), k=rng.randrange(100)))
        assert decoded(noise + data[:at] + data + data)[0] == whole * 2


def test_the_registers_of_a_contract_are_the_import_and_apparent_power_is_no_power() -> None:
    (reading,), faults = decoded(HC)
    assert {name: each.wh for name, each in reading.imported.items()} == {
        "HCHC": 19_571_184,
        "HCHP": 24_310_022,
    }
    assert reading.imported["HCHC"].modulus_wh == 10**9
    assert (wh(reading), reading.power_w, reading.device, reading.at_s, faults) == (
        (Decimal(43_881_206), None),
        None,
        "000000000007",
        None,
        {},
    )


@pytest.mark.parametrize(
    "labels",
    [
        ("BASE",),
        ("EJPHN", "EJPHPM"),
        ("BBRHCJB", "BBRHPJB", "BBRHCJW", "BBRHPJW", "BBRHCJR", "BBRHPJR"),
    ],
)
def test_repro_a_contract_counts_only_with_all_of_its_registers(labels: tuple[str, ...]) -> None:
    groups = [(label, f"{7 + number:09}") for number, label in enumerate(labels)]
    (reading,), _ = decoded(historique(("ADCO", "1"), *groups))
    assert wh(reading) == (Decimal(sum(7 + number for number in range(len(labels)))), None)
    for missing in groups:
        rest = [group for group in groups if group != missing]
        assert decoded(historique(("ADCO", "1"), *rest)) == ([], {"no_energy": 1})


def test_repro_the_total_is_not_its_tariffs_on_top_and_not_made_of_them() -> None:
    (reading,), _ = decoded(EAST)
    assert wh(reading) == (Decimal(54_321_000), Decimal(1_234_567))
    assert (reading.device, reading.power_w) == ("000000000008", None)
    assert decoded(EAST.replace(b"054321000", b"054321001")) == ([], {"checksum": 1, "no_energy": 1})


def test_a_bad_line_costs_only_itself() -> None:
    for label in (b"PAPP 01", b"ADCO 00"):
        (reading,), faults = decoded(HC.replace(label, label[:-1] + b"7"))
        assert (wh(reading), faults) == ((Decimal(43_881_206), None), {"checksum": 1})
    (reading,), _ = decoded(EAST.replace(b"001234567", b"001234568"))
    assert wh(reading) == (Decimal(54_321_000), None)


@pytest.mark.parametrize("frame", [HC, EAST])
def test_repro_every_changed_bit_of_a_register_costs_its_line(frame: bytes) -> None:
    """Both checksum rules; six bits of sum miss bit 6 and 7, which the form of a register shows."""
    right = wh(decoded(frame)[0][0])
    for name in (b"HCHC ", b"HCHP ", b"EAST\t"):
        if name not in frame:
            continue
        start = frame.index(name)
        for at in range(start, start + len(name) + 11):
            for bit in range(8):
                spoilt = bytearray(frame)
                spoilt[at] ^= 1 << bit
                assert all(wh(reading) != right for reading in decoded(bytes(spoilt))[0])
                assert decoded(bytes(spoilt))[0] == []


def test_repro_the_two_modes_have_two_checksum_rules() -> None:
    base = historique(("BASE", "012345678"))
    assert len(decoded(base)[0]) == 1
    with_separator = (sum(b"BASE 012345678 ") % 64 + 0x20).to_bytes(1, "big")
    assert decoded(base[:-3] + with_separator + b"\r\x03")[0] == []
    east = standard(("EAST", "012345678"))
    without = (sum(b"EAST\t012345678") % 64 + 0x20).to_bytes(1, "big")
    assert decoded(east[:-3] + without + b"\r\x03")[0] == []


def test_repro_two_groups_that_are_glued_are_both_dropped() -> None:
    for lost in (b"\r\n", b"\r", b"\n"):
        found, faults = decoded(
            HC.replace(b"*\r\nHCHP", b"*\r\nHCHP".replace(b"\r\n", b"\r\n".replace(lost, b"")))
        )
        assert found == []
        assert faults["no_energy"] == 1


def test_repro_parity_bits_are_cut_off_only_where_all_of_a_line_are_right() -> None:
    (reading,), faults = decoded(even(HC))
    assert (wh(reading), faults) == ((Decimal(43_881_206), None), {})
    start = HC.index(b"HCHC")
    for at in range(start, start + 16):
        spoilt = bytearray(even(HC))
        spoilt[at] ^= 0x80
        assert decoded(bytes(spoilt)) == ([], {"parity": 1, "no_energy": 1})


def test_repro_a_label_that_stands_twice_with_two_values_is_none() -> None:
    assert decoded(standard(("EAST", "000000001"), ("EAST", "000000002")))[0] == []
    assert len(decoded(standard(("EAST", "000000001"), ("EAST", "000000001")))[0]) == 1
    assert decoded(historique(("BASE", "000000001"), ("HCHC", "000000001"), ("HCHP", "000000002")))[0] == []


@pytest.mark.parametrize("value", ["", "12345678", "-12345678", "0123456789", "01234567x"])
def test_a_register_of_another_form_is_none(value: str) -> None:
    assert decoded(standard(("EAST", value), ("EAIT", "001234567"))) == ([], {"no_energy": 1})


def at(stamp: str, zone: str | None = None) -> DeviceReading:
    decoder = TicDecoder(zone=ZoneInfo(zone) if zone else None)
    (reading,) = decoder.feed(standard(("DATE", stamp, ""), ("EAST", "054321000")))
    return reading


def test_repro_the_season_letter_makes_the_time_certain() -> None:
    def utc(*moment: int) -> float:
        return datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[arg-type]  # mypy counts no stars

    assert at("E240717120010").at_s == utc(2024, 7, 17, 10, 0, 10)
    assert at("H240117120010").at_s == utc(2024, 1, 17, 11, 0, 10)
    assert at("E241027023000").at_s == utc(2024, 10, 27, 0, 30)
    assert at("H241027023000").at_s == utc(2024, 10, 27, 1, 30)
    assert at("E241027023000", "Europe/Paris").at_s == utc(2024, 10, 27, 0, 30)
    assert at("H241027023000", "Europe/Paris").at_s == utc(2024, 10, 27, 1, 30)
    assert at("H240717120010", "Indian/Reunion").at_s == utc(2024, 7, 17, 8, 0, 10)


def test_repro_a_clock_that_is_not_set_gives_no_time() -> None:
    for letter in "eh":
        reading = at(f"{letter}240717120010")
        assert reading.at_s is None
        assert "clock" in reading.remarks[0]
        assert wh(reading) == (Decimal(54_321_000), None)
    assert at("E240717120010").remarks == ()
    for stamp in (" 240717120010", "E241301000000", "E24071712001", ""):
        assert at(stamp).at_s is None


@pytest.mark.parametrize("first", [HC, EAST])
def test_repro_a_partial_frame_never_takes_the_next_one_with_it(first: bytes) -> None:
    second = standard(("EAST", "000000005"))
    for size in range(1, len(first)):
        assert [wh(each) for each in decoded(first[:size] + second)[0]] == [(Decimal(5), None)]
        found, _ = decoded(first[:size] + b"\x04" + first[size:] + second)  # EOT: the meter broke off
        assert [wh(each) for each in found] == [(Decimal(5), None)]
    for at_ in range(len(first)):
        found, _ = decoded(first[:at_] + first[at_ + 5 :] + second)
        assert wh(found[-1]) == (Decimal(5), None)


def test_repro_a_frame_without_an_end_is_dropped_at_its_bound() -> None:
    for size in (1, 100, 3 * FRAME_MAX):
        decoder = TicDecoder()
        stream = b"\x02" + b"\n1" * (3 * FRAME_MAX)
        tracemalloc.start()
        for start in range(0, len(stream), size):
            assert decoder.feed(stream[start : start + size]) == []
        assert tracemalloc.get_traced_memory()[1] < 20 * FRAME_MAX
        tracemalloc.stop()
        assert decoder.faults == {"too_long": 1}
        assert len(decoder.feed(HC)) == 1


def test_the_decoder_says_for_what_it_waits() -> None:
    decoder = TicDecoder()
    assert decoder.waiting_for == "a TIC frame"
    decoder.feed(HC[:40])
    assert decoder.waiting_for == "a complete TIC frame with right checksums"
    decoder.reset()
    assert decoder.feed(HC[40:]) == []
    assert not decoder.faults
    decoder.feed(HC)
    assert decoder.waiting_for is None


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"\x02", b"\x03", b"\r\n", b"\nEAST\t", b"\nBASE ", HC, EAST, even(HC)]),
        st.text("0123456789 \tAES\r\n", max_size=40).map(lambda text: b"\x02" + text.encode() + b"\x03"),
        st.lists(
            st.tuples(st.sampled_from(["EAST", "DATE", "BASE"]), st.text("0123456789EHeh", max_size=14))
        ).map(lambda groups: standard(*groups)),
    ),
    max_size=20,
)


@given(pieces=PIECES, seed=st.integers(0, 1_000))
def test_any_bytes_in_any_pieces_read_the_same(pieces: list[bytes], seed: int) -> None:
    data = b"".join(pieces)
    whole, parts = TicDecoder(), TicDecoder()
    found = whole.feed(data) + whole.pause()
    rng, start, again = random.Random(seed), 0, []
    while start < len(data):
        size = rng.randrange(1, 40)
        again += parts.feed(data[start : start + size])
        start += size
    assert again + parts.pause() == found
    assert parts.faults == whole.faults
    whole.feed(data)
    assert [wh(reading) for reading in whole.feed(HC)] == [(Decimal(43_881_206), None)]
