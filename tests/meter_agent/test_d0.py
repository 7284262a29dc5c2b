"""IEC 62056-21: registers of invented meters, and of real ones if their files are there."""

import random
from decimal import Decimal
from functools import reduce
from math import floor
from operator import xor

import pytest

from gridhe.meter_agent.sources.d0.decoder import D0Decoder
from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe_testing.d0_decoded import BOTH, IDENT, LINES, block, decoded, only, pushed, wh
from gridhe_testing.device_data import DeviceFile, device_files, needs_device_data

FILES = device_files("d0")


# The meters of the data folder


def of_file(file: DeviceFile, pieces: list[bytes]) -> list[DeviceReading]:
    decoder = D0Decoder(missing_unit="kWh" if file.verdict == "policy" else None)
    found = [reading for piece in pieces for reading in decoder.feed(piece)]
    return found + decoder.pause()


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_meters_file_gives_its_readings(file: DeviceFile) -> None:
    found = of_file(file, [file.data])
    assert [
        (*(None if each is None else floor(each) for each in wh(reading)), reading.power_w)
        for reading in found
    ] == [
        (
            each["import_wh"],
            each["export_wh"],
            None if each["power_w"] is None else Decimal(str(each["power_w"])),
        )
        for each in file.readings
    ]
    for reading, right in zip(found, file.readings, strict=True):
        for exact, registers in (("import", reading.imported), ("export", reading.exported)):
            if f"{exact}_wh_exact" in right:
                assert total_wh(registers) == Decimal(right[f"{exact}_wh_exact"])
        assert bool(reading.remarks) == (file.verdict == "ok-flagged")
    if file.verdict == "policy":
        assert decoded(file.data)[0] == []


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_reads_the_same_in_pieces(file: DeviceFile) -> None:
    whole = of_file(file, [file.data])
    assert of_file(file, [bytes([byte]) for byte in file.data]) == whole
    for at in range(len(file.data)):
        assert of_file(file, [file.data[:at], file.data[at:]]) == whole


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_reads_the_same_behind_garbage_and_behind_a_part_of_itself(file: DeviceFile) -> None:
    whole = of_file(file, [file.data])
    rng = random.Random(file.path.stem)
    for at in range(len(file.data) - 5):
        noise = rng.choice(
            (b"/", b"/?!\r\n", b"/AB", b"!\r\n", b"\x02\x03", rng.randbytes(rng.randrange(300)))
        )
        assert of_file(file, [noise + file.data])[-len(whole) or 99 :] == whole
        assert of_file(file, [file.data[:at] + file.data])[-len(whole) or 99 :] == whole
        assert len(of_file(file, [noise + file.data[:at] + file.data + file.data])) >= 2 * len(whole)


# Registers


def test_values_are_exact_with_their_step_and_width() -> None:
    reading = only(b"1-0:1.8.0*255(00052185.7825309*kWh)\r\n1-0:2.8.0*255(0000120100*Wh)\r\n")
    (imported,), (exported,) = reading.imported.values(), reading.exported.values()
    assert imported.wh == Decimal("52185782.5309")
    assert imported.step_wh == Decimal("0.0001")
    assert imported.modulus_wh == 10**11
    assert (exported.wh, exported.step_wh, exported.modulus_wh) == (120_100, 1, 10**10)
    assert only(b"1.8.0(12.345678*MWh)\r\n").imported["1.8.0"].wh == 12_345_678


def test_repro_a_value_without_leading_zeros_has_no_known_width() -> None:
    assert only(b"1.8.0(9.9*kWh)\r\n").imported["1.8.0"].modulus_wh is None
    assert only(b"1.8.0(0.9*kWh)\r\n").imported["1.8.0"].modulus_wh is None


@pytest.mark.parametrize("unit", ["kWh", "KWH", "Wh", "MWh", "GWh"])
def test_a_unit_may_be_of_any_size(unit: str) -> None:
    factor = {"W": 1, "k": 1_000, "K": 1_000, "M": 10**6, "G": 10**9}[unit[0]]
    assert wh(only(b"1.8.0(0.5*" + unit.encode() + b")\r\n"))[0] == Decimal("0.5") * factor


@pytest.mark.parametrize("unit", ["kvarh", "m3", "mWh", "kW", "xWh", "GJ", "kVAh"])
def test_repro_another_unit_is_no_energy(unit: str) -> None:
    assert decoded(block(b"1.8.0(5*" + unit.encode() + b")\r\n")) == ([], {"unit": 1, "no_energy": 1})


def test_repro_a_missing_unit_is_refused_unless_the_settings_give_it() -> None:
    data = block(b"1.8.0*00(0285.40)\r\n")
    assert decoded(data) == ([], {"no_unit": 1, "no_energy": 1})
    (reading,), _ = decoded(data, "kWh")
    assert wh(reading) == (Decimal(285_400), None)


def test_repro_a_total_and_its_tariffs_are_not_added() -> None:
    tariffs = b"1.8.1(000200.0*kWh)\r\n1.8.2(000085.4*kWh)\r\n"
    assert wh(only(LINES + tariffs)) == wh(only(tariffs + LINES)) == BOTH
    reading = only(tariffs)
    assert reading.imported.keys() == {"1.8.1", "1.8.2"}
    assert wh(reading) == (Decimal(285_400), None)


@pytest.mark.parametrize("value", [b"()", b"( )", b"(-------)", b"(1,5*kWh)", b"(12 34*kWh)", b"(-3*kWh)"])
def test_repro_a_tariff_without_a_value_leaves_no_total_of_the_others(value: bytes) -> None:
    lines = b"1.8.1(000200.0*kWh)\r\n1.8.2" + value + b"\r\n2.8.0(000120.1*kWh)\r\n"
    for data in (block(lines), pushed(lines)):
        (reading,), faults = decoded(data)
        assert wh(reading) == (None, Decimal(120_100))
        assert sum(faults.values()) == 1


def test_repro_an_empty_total_is_not_replaced_by_its_tariffs() -> None:
    assert decoded(block(b"1.8.0()\r\n1.8.1(000200.0*kWh)\r\n")) == (
        [],
        {"empty_register": 1, "no_energy": 1},
    )


def test_repro_a_tariff_that_may_be_a_sum_is_not_added() -> None:
    lines = b"1.8.1(1*kWh)\r\n1.8.63(3*kWh)\r\n"
    assert decoded(block(lines)) == ([], {"tariff": 1, "no_energy": 1})


def test_repro_stored_values_are_no_registers() -> None:
    """*NN and &NN are values of past periods; *00 too where the meter also gives one without."""
    past = b"".join(b"1.8.0%b(000999.9*kWh)(23-11-01 00:00)\r\n" % each for each in (b"*10", b"*00", b"&01"))
    assert wh(only(LINES + past)) == wh(only(past + LINES)) == BOTH
    assert decoded(block(b"1.8.0*09(000999.9*kWh)\r\n")) == ([], {"no_energy": 1})
    assert wh(only(b"1.8.0*00(000285.4*kWh)\r\n1.8.0*01(000999.9*kWh)\r\n")) == (Decimal(285_400), None)


def test_repro_other_media_channels_and_codes_are_no_registers() -> None:
    others = b"6-0:1.8.0(9*kWh)\r\n1-2:1.8.0(9*kWh)\r\n21.8.0(9*kWh)\r\n1.8.0.1(9*kWh)\r\n1.6.0(9*kWh)\r\n"
    assert decoded(block(others)) == ([], {"no_energy": 1})
    assert wh(only(others + LINES)) == BOTH


def test_repro_a_register_that_stands_twice_with_two_values_is_none() -> None:
    (reading,), faults = decoded(block(LINES + b"1.8.0(000285.5*kWh)\r\n"))
    assert wh(reading) == (None, Decimal(120_100))
    assert faults == {"twice": 1}
    assert wh(only(LINES + b"1.8.0(000285.4*kWh)\r\n")) == BOTH


def test_repro_a_checksum_of_seven_bits_that_is_right_by_chance_is_not_enough() -> None:
    for part in (
        IDENT + b"\x02",
        b"/?!\r\n",
        b"1.8.0(000285.4*kWh\r\n",
        b"1.8.0)(\r\n",
        b"1.8.0(1*kWh)x\r\n",
        b"\0",
    ):
        for at in (0, LINES.index(b"2.8.0")):
            assert decoded(block(LINES[:at] + part + LINES[at:]))[0] == [], part


def test_repro_a_block_has_nothing_behind_its_end_but_the_checksum() -> None:
    """Else the checksum of the next readout, if it is right by chance (one in 128), would cover this one."""
    for behind in (b"/ELS5\r\n\x021.8.0(1*kWh)\r\n!\r\n", b"\x02", b"1.8.0(1*kWh)\r\n"):
        inner = LINES + b"!\r\n" + behind + b"\x03"
        assert decoded(IDENT + b"\x02" + inner + bytes([reduce(xor, inner)]))[0] == []


def test_more_values_of_an_address_may_stand_in_lines_of_their_own() -> None:
    profile = b"P.01(2311051500)(00)(15)(2)(1.5)(kW)\r\n(0.1)(0.2)\r\n(0.3)(0.4)\r\n"
    assert wh(only(profile + LINES)) == BOTH


def test_several_values_in_a_line_are_read_one_by_one() -> None:
    heat = b"6.8(0029.055*MWh)6.26(01589.28*m3)9.21(00010001)6.26*01(01563.92*m3)6.8*01(0028.086*MWh)F(0)\r\n"
    assert decoded(block(heat)) == ([], {"no_energy": 1})
    assert wh(only(b"F.F(00)1.8.0(000285.4*kWh)(a)(b)2.8.0(000120.1*kWh)\r\n")) == BOTH


def test_a_line_without_a_value_is_left_out_only_where_a_checksum_covers_it() -> None:
    lines = LINES + b"1-0:1.8.1*255\r\n"
    (reading,), _ = decoded(block(lines))
    assert wh(reading) == BOTH
    assert decoded(pushed(lines)) == ([], {"bad_line": 1})


def test_repro_a_readout_without_a_checksum_has_the_form_of_the_last_one() -> None:
    """A lost digit or line of mode D looks like a good readout."""
    good = pushed(LINES + b"1.8.1(000200.0*kWh)\r\n1.8.2(000085.4*kWh)\r\n")
    for lost in (
        b"1.8.0(000285.4*kWh)\r\n",
        b"2.8.0(000120.1*kWh)\r\n",
        b"1.8.2(000085.4*kWh)\r\n",
        b"28",
        b"0.1*kWh",
    ):
        assert lost in good
        found, faults = decoded(good + good.replace(lost, b"", 1) + good * 2)
        assert ([wh(reading) for reading in found], faults) == ([BOTH] * 3, {"form": 1}), lost
    grown = pushed(b"1.8.0(10.0*kWh)\r\n")  # a meter that prints no leading zeros
    found, faults = decoded(pushed(b"1.8.0(9.9*kWh)\r\n") + grown * 3)
    assert ([wh(reading)[0] for reading in found], faults) == ([9_900, 10_000, 10_000], {"form": 1})
    other = pushed(LINES.replace(b"7755", b"7756").replace(b"000285.4", b"0.4"))
    assert len(decoded(good + other)[0]) == 2
    assert len(decoded(block() + block(b"1.8.0(5*kWh)\r\n"))[0]) == 2


def test_the_meters_own_error_is_a_remark() -> None:
    assert only(LINES).remarks == ()
    for line in (b"F.F(80)", b"F.F.0(01)", b"0-0:97.97.0*255(00000020)"):
        lines = LINES.replace(b"F.F(00)", line)
        assert "error" in only(lines).remarks[0]
        assert wh(only(lines)) == BOTH


def test_the_serial_number_is_the_device() -> None:
    assert only(LINES).device == "7755"
    assert only(b"0.0.0(1)\r\n0-0:96.1.255*255(1ESY)\r\n" + LINES).device == "1ESY"
    assert only(LINES.replace(b"C.1(7755)", b"C.1()")).device is None


def test_power_is_import_minus_export() -> None:
    assert only(LINES).power_w is None
    assert only(LINES + b"1-0:1.7.0*255(-001203.45*W)\r\n").power_w == Decimal("-1203.45")
    assert only(LINES + b"1.7.0(000.170*kW)\r\n2.7.0(000.270*kW)\r\n").power_w == -100
    assert only(LINES + b"16.7(000.873*kW)\r\n1.7.0(5*W)\r\n").power_w == 873
    assert only(LINES + b"15.7.0(00050*W)\r\n").power_w is None
    assert only(LINES + b"15.7.0(00050*W)\r\n96.5.5(82)\r\n").power_w == 50
    assert only(LINES + b"15.7.0(00050*W)\r\n1-0:96.5.5*255(A2)\r\n").power_w == -50
