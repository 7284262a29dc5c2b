"""SML: the readings of invented meters, and of real ones if their files are there."""

import random
from decimal import Decimal
from math import floor

import pytest

from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe.meter_agent.sources.sml.decoder import SmlDecoder
from gridhe.meter_agent.sources.sml.frames import START
from gridhe_testing.device_data import DeviceFile, device_files, needs_device_data
from gridhe_testing.sml_decoded import EXPORT, FNN_DELIVERING, FNN_TAKING, IMPORT, decoded, only, power, wh
from gridhe_testing.sml_meter import (
    EMPTY,
    SERVER,
    Entry,
    fields,
    signed,
    sml_frame,
    text,
    unsigned,
)

FILES = device_files("sml")


# The meters of the data folder


def of_file(file: DeviceFile, pieces: list[bytes]) -> list[DeviceReading]:
    decoder = SmlDecoder(missing_unit_is_wh=file.path.stem == "unit_and_scaler_missing")
    found = [reading for piece in pieces for reading in decoder.feed(piece)]
    return found + decoder.pause()


def floors(reading: DeviceReading) -> tuple[int | None, int | None, Decimal | None]:
    imported, exported = wh(reading)
    return (
        None if imported is None else floor(imported),
        None if exported is None else floor(exported),
        reading.power_w,
    )


def expected(file: DeviceFile) -> list[tuple[int | None, int | None, Decimal | None]]:
    return [
        (
            each["import_wh"],
            each["export_wh"],
            None if each["power_w"] is None else Decimal(str(each["power_w"])),
        )
        for each in file.readings
    ]


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_meters_file_gives_its_readings(file: DeviceFile) -> None:
    found = of_file(file, [file.data])
    assert [floors(reading) for reading in found] == expected(file)
    for reading, right in zip(found, file.readings, strict=True):
        for exact, registers in (("import", reading.imported), ("export", reading.exported)):
            if f"{exact}_wh_exact" in right:
                assert total_wh(registers) == Decimal(right[f"{exact}_wh_exact"])
        assert reading.device is not None
        assert reading.locked == (file.verdict == "ok-coarse" or right["import_wh"] == 2_043_000)


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_reads_the_same_in_pieces(file: DeviceFile) -> None:
    whole = of_file(file, [file.data])
    assert of_file(file, [bytes([byte]) for byte in file.data]) == whole
    for at in range(len(file.data) if len(file.data) < 700 else 0):
        assert of_file(file, [file.data[:at], file.data[at:]]) == whole


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_reads_the_same_behind_garbage_and_behind_a_part_of_itself(file: DeviceFile) -> None:
    whole = of_file(file, [file.data])
    rng = random.Random(file.path.stem)
    for _ in range(40):
        noise = rng.choice((b"\x1b", b"\x1b\x1b\x1b", START[:6], rng.randbytes(rng.randrange(300))))
        cut = file.data[: rng.randrange(min(len(file.data), 300))]  # within the first frame
        assert of_file(file, [noise + file.data])[-len(whole) :] == whole
        assert of_file(file, [cut + file.data])[-len(whole) :] == whole
        assert len(of_file(file, [noise + cut + file.data + file.data])) >= 2 * len(whole)


# Values


def test_repro_a_total_is_read_and_its_tariffs_are_not_added() -> None:
    tariffs = [Entry(code=f"1-0:1.8.{each}*255", value=unsigned(6_172_839, 4)) for each in (1, 2)]
    reading = only(*tariffs, IMPORT, EXPORT)
    assert {name: register.wh for name, register in reading.imported.items()} == {
        "1.8.0": Decimal("1234567.8")
    }
    assert wh(reading) == (Decimal("1234567.8"), Decimal("98765.4"))
    assert reading.device == SERVER.hex()
    assert reading.imported["1.8.0"].step_wh == Decimal("0.1")


def test_without_a_total_every_tariff_is_a_register() -> None:
    reading = only(
        Entry(code="1-0:1.8.1*255", value=unsigned(45_923, 2)),
        Entry(code="1-0:1.8.2*255", value=unsigned(168_202_642, 4)),
    )
    assert reading.imported.keys() == {"1.8.1", "1.8.2"}
    assert wh(reading) == (Decimal("16824856.5"), None)


def test_repro_a_tariff_without_a_value_leaves_no_total_of_the_others() -> None:
    (reading,), faults = decoded(
        sml_frame(
            Entry(code="1-0:1.8.1*255", value=unsigned(45_923, 2)),
            Entry(code="1-0:1.8.2*255", value=EMPTY),
            EXPORT,
        )
    )
    assert wh(reading) == (None, Decimal("98765.4"))
    assert faults == {"empty_register": 1}


def test_repro_an_empty_total_is_not_replaced_by_its_tariffs() -> None:
    found, faults = decoded(
        sml_frame(
            Entry(code="1-0:1.8.0*255", value=EMPTY), Entry(code="1-0:1.8.1*255", value=unsigned(45_923, 2))
        )
    )
    assert found == []
    assert faults == {"empty_register": 1, "no_energy": 1}


def test_repro_only_values_of_now_are_registers() -> None:
    past = [
        Entry(code=f"1-0:{c}.8.0*{period}", value=unsigned(1_727_110, 3))
        for period in range(96, 101)
        for c in (1, 2)
    ]
    assert wh(only(IMPORT, EXPORT, *past)) == wh(only(*past, IMPORT, EXPORT)) == wh(only(IMPORT, EXPORT))


def test_repro_a_register_of_another_channel_or_medium_is_none_of_the_meter() -> None:
    others = [Entry(code=code, value=unsigned(5, 1)) for code in ("1-1:1.8.1*255", "6-0:1.8.0*255")]
    assert wh(only(*others, IMPORT)) == (Decimal("1234567.8"), None)


@pytest.mark.parametrize("size", range(1, 9))
def test_repro_signed_numbers_of_any_size_keep_their_sign(size: int) -> None:
    assert only(IMPORT, power(signed(-101, size), scaler=-2)).power_w == Decimal("-1.01")
    assert only(IMPORT, power(signed(127, size))).power_w == Decimal(127)


@pytest.mark.parametrize("size", range(1, 9))
def test_repro_unsigned_numbers_of_any_size_have_no_sign(size: int) -> None:
    highest = (1 << 8 * size - 1) + 3
    reading = only(Entry(code="1-0:2.8.0*255", value=unsigned(highest, size), scaler=signed(-9)))
    assert wh(reading) == (None, Decimal(highest).scaleb(-9))


@pytest.mark.parametrize(("scaler", "right"), [(-4, "1234.5678"), (-1, "1234567.8"), (0, "12345678")])
def test_repro_the_scaler_is_exact_and_gives_the_step(scaler: int, right: str) -> None:
    register = only(
        Entry(code="1-0:1.8.0*255", value=unsigned(12_345_678, 8), scaler=signed(scaler))
    ).imported["1.8.0"]
    assert register.wh == Decimal(right)
    assert register.step_wh == Decimal(10) ** scaler


def test_repro_a_locked_meter_counts_whole_kwh_and_says_so() -> None:
    """Field notes 17 and 18."""
    reading = only(Entry(code="1-0:1.8.0*255", value=unsigned(2_043, 2), scaler=signed(3)))
    assert wh(reading) == (Decimal(2_043_000), None)
    assert reading.imported["1.8.0"].step_wh == 1_000
    assert reading.locked
    assert "PIN" in reading.remarks[0]
    unlocked = only(IMPORT)
    assert not unlocked.locked
    assert unlocked.remarks == ()


def test_repro_a_register_without_a_unit_is_refused_unless_the_settings_give_it() -> None:
    data = sml_frame(Entry(code="1-0:1.8.0*255", value=unsigned(500, 2), unit=EMPTY, scaler=EMPTY), EXPORT)
    (refused,), faults = decoded(data)
    assert wh(refused) == (None, Decimal("98765.4"))
    assert faults == {"no_unit": 1}
    (taken,), faults = decoded(data, missing_unit_is_wh=True)
    assert wh(taken) == (Decimal(500), Decimal("98765.4"))
    assert faults == {}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Entry(code="1-0:1.8.0*255", value=unsigned(5), unit=unsigned(32)), "unit"),  # varh
        (Entry(code="1-0:1.8.0*255", value=signed(-5)), "out_of_range"),
        (Entry(code="1-0:1.8.0*255", value=unsigned(5), scaler=signed(100)), "out_of_range"),
        (Entry(code="1-0:1.8.0*255", value=unsigned(1 << 60, 8)), "out_of_range"),
        (Entry(code="1-0:1.8.0*255", value=text(b"1234567")), "empty_register"),
    ],
)
def test_repro_a_value_that_is_no_energy_register_gives_no_reading(entry: Entry, reason: str) -> None:
    found, faults = decoded(sml_frame(entry))
    assert found == []
    assert faults == {reason: 1, "no_energy": 1}


def test_repro_a_register_that_stands_twice_with_two_values_is_none() -> None:
    other = Entry(code=IMPORT.code, value=unsigned(99, 4))
    (reading,), faults = decoded(sml_frame(IMPORT, other, EXPORT))
    assert wh(reading) == (None, Decimal("98765.4"))
    assert faults == {"twice": 1}
    assert wh(only(IMPORT, IMPORT)) == (Decimal("1234567.8"), None)


def test_a_list_without_energy_gives_no_reading() -> None:
    assert decoded(sml_frame(power(unsigned(5)))) == ([], {"no_energy": 1})


# Power and its direction


def test_repro_power_without_a_sign_has_the_direction_of_the_status_word() -> None:
    """Field note 25: EMH has it in bit 5, newer meters (status ending in 04) in bit 11."""
    for status, sign in (
        (unsigned(0x182, 2), 1),
        (unsigned(0x1B0, 2), -1),
        (FNN_TAKING, 1),
        (FNN_DELIVERING, -1),
        (unsigned(0x1C0924, 3), -1),
        (unsigned(0x1C0904, 4), -1),
        (unsigned(0x1C2104, 4), 1),
    ):
        register = Entry(code="1-0:1.8.0*255", value=unsigned(5), status=status)
        for code in ("1-0:15.7.0*255", "1-0:1.7.0*255"):
            assert only(register, power(signed(1266, 4), code, -1)).power_w == sign * Decimal("126.6")


def test_the_direction_is_that_of_the_only_register_of_an_export_meter() -> None:
    export = Entry(code="1-0:2.8.1*255", value=unsigned(5), status=unsigned(0xA2))
    reading = only(export, power(unsigned(70), "1-0:1.7.1*255"))
    assert wh(reading) == (None, Decimal("0.5"))
    assert reading.power_w == -70


def test_repro_power_of_both_directions_is_the_difference() -> None:
    reading = only(IMPORT, power(unsigned(170), "1-0:1.7.0*255"), power(unsigned(270, 2), "1-0:2.7.0*255"))
    assert reading.power_w == -100


def test_repro_old_meters_of_dzg_mark_an_unsigned_power_as_signed_and_new_ones_do_not() -> None:
    """Field notes 21 and 22: only the status word says which."""
    dzg = bytes.fromhex("0a01445a470002820001")
    taking = Entry(code="1-0:1.8.0*255", value=unsigned(5), status=FNN_TAKING)
    giving = Entry(code="1-0:1.8.0*255", value=unsigned(5), status=FNN_DELIVERING)
    two = power(signed(-29_912, 2), scaler=-2)
    assert only(taking, two, server=dzg).power_w == Decimal("356.24")
    assert only(giving, two, server=dzg).power_w == Decimal("-299.12")
    assert only(taking, power(signed(-29_912, 3), scaler=-2), server=dzg).power_w == Decimal("-299.12")
    assert only(taking, two).power_w == Decimal("-299.12")  # another make


def test_repro_phase_powers_are_not_the_power_and_no_time_is_taken_from_the_meter() -> None:
    """Field notes 20 and 23: Holley's time jumps; DZG flips the sign of phase powers at random."""
    phases = [power(signed(-900, 2), f"1-0:{c}.7.0*255") for c in (36, 56, 76, 21, 41, 61)]
    time = fields(unsigned(2), unsigned(1_700_000_000, 4))  # a time stamp, not a seconds counter
    stamped = Entry(code=IMPORT.code, value=IMPORT.value, time=time)
    assert only(*phases, stamped).power_w is None
    assert only(*phases, stamped, power(signed(195, 2)), *phases).power_w == 195
    assert only(*phases, stamped).at_s is None


def test_an_absent_power_is_no_zero() -> None:
    assert only(IMPORT, power(EMPTY)).power_w is None
    assert only(IMPORT).power_w is None
