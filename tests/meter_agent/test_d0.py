"""IEC 62056-21: readouts of invented meters, and of real ones if their files are there."""

import random
import tracemalloc
from decimal import Decimal
from functools import reduce
from math import floor
from operator import xor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.meter_agent.sources.d0.decoder import D0Decoder
from gridhe.meter_agent.sources.d0.readouts import READOUT_MAX
from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe_testing.device_data import DeviceFile, device_files, needs_device_data

FILES = device_files("d0")
IDENT = b"/ELS5\\@V9.30 \r\n"
LINES = b"F.F(00)\r\nC.1(7755)\r\n1.8.0(000285.4*kWh)\r\n2.8.0(000120.1*kWh)\r\n"


def block(lines: bytes = LINES, ident: bytes = IDENT) -> bytes:
    """A readout with a checksum."""
    inner = lines + b"!\r\n\x03"
    return ident + b"\x02" + inner + bytes([reduce(xor, inner)])


def pushed(lines: bytes = LINES, ident: bytes = b"/ESY5Q3D\r\n") -> bytes:
    """A readout of mode D."""
    return ident + b"\r\n" + lines + b"!\r\n"


def even(data: bytes) -> bytes:
    """7E1 characters as a port of 8N1 reads them."""
    return bytes(byte | (byte.bit_count() % 2) << 7 for byte in data)


def decoded(data: bytes, unit: str | None = None) -> tuple[list[DeviceReading], dict[str, int]]:
    decoder = D0Decoder(missing_unit=unit)
    found = decoder.feed(data) + decoder.pause()
    return found, dict(decoder.faults)


def only(lines: bytes) -> DeviceReading:
    (reading,), faults = decoded(block(lines))
    assert faults == {}
    (same,), faults = decoded(pushed(lines))
    assert (same, faults) == (reading, {})
    return reading


def wh(reading: DeviceReading) -> tuple[Decimal | None, Decimal | None]:
    return total_wh(reading.imported), total_wh(reading.exported)


BOTH = (Decimal(285_400), Decimal(120_100))


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


# Framing


def test_repro_a_wrong_checksum_is_no_reading() -> None:
    good = block()
    for at in range(len(IDENT) + 1, len(good)):
        for bit in range(7):
            spoilt = bytearray(good)
            spoilt[at] ^= 1 << bit
            assert decoded(bytes(spoilt))[0] == [], (at, bit)
    assert decoded(good[:-1] + bytes([good[-1] ^ 1])) == ([], {"bcc": 1})


@pytest.mark.parametrize("make", [block, pushed])
def test_repro_parity_bits_are_cut_off_only_where_all_are_right(make: object) -> None:
    data = block() if make is block else pushed()
    (reading,), faults = decoded(even(data))
    assert (wh(reading), faults) == (BOTH, {})
    body = data.index(b"F.F")
    for at in range(body, len(data) - 4):
        spoilt = bytearray(even(data))
        spoilt[at] ^= 1 << at % 8
        assert decoded(bytes(spoilt))[0] == []
    one = bytearray(data)
    one[body + 20] |= 0x80
    assert decoded(bytes(one))[0] == []


def test_repro_a_lost_start_of_the_block_does_not_cost_its_checksum() -> None:
    for stx in (b"", b"B", b"\x00"):
        assert decoded(block().replace(b"\x02", stx)) == ([], {"no_block": 1})


def test_a_readout_without_stx_and_checksum_is_complete_at_a_pause() -> None:
    decoder = D0Decoder()
    assert decoder.feed(IDENT + LINES + b"!\r\n") == []
    (reading,) = decoder.pause()
    assert wh(reading) == BOTH


def test_the_heads_own_echo_is_no_identification() -> None:
    """Field note 58's heads hear what they send."""
    whole = b"/?!\r\n" + IDENT + b"\x06050\r\n" + block(ident=b"")
    for at in range(len(whole)):
        decoder = D0Decoder()
        found = decoder.feed(whole[:at]) + decoder.feed(whole[at:])
        assert [wh(reading) for reading in found] == [BOTH]
        assert not decoder.faults


@pytest.mark.parametrize("noise", [b"\0", b"\xff" * 9, b"\x80\x8d\xaf\xaf", b"\r\n\0", b"\x06050\r\n\xf8"])
def test_repro_noise_while_the_baud_rate_changes_costs_no_readout(noise: bytes) -> None:
    assert decoded(IDENT + noise + block(ident=b"")) == (decoded(block())[0], {})
    assert decoded(even(IDENT) + noise + even(block(ident=b""))) == (decoded(block())[0], {})


def test_repro_a_p1_telegram_is_not_read_without_its_checksum() -> None:
    assert decoded(pushed().replace(b"!\r\n", b"!7EF9\r\n")) == ([], {"p1_telegram": 1})
    decoder = D0Decoder()
    decoder.feed(pushed().replace(b"!\r\n", b"!7EF9\r\n"))
    assert "source p1" in str(decoder.waiting_for)


@pytest.mark.parametrize("first", [block(), pushed()])
@pytest.mark.parametrize("second", [block(b"1.8.0(5*kWh)\r\n"), pushed(b"1.8.0(5*kWh)\r\n")])
def test_repro_a_partial_readout_never_takes_the_next_one_with_it(first: bytes, second: bytes) -> None:
    whole = decoded(first)[0]
    for at in range(len(first)):
        found, _ = decoded(first[:at] + second)
        if at < first.index(b"!"):
            assert [wh(reading) for reading in found] == [(Decimal(5_000), None)], at
        assert wh(found[-1]) == (Decimal(5_000), None)
        for lost in (1, 3, 20):
            found, _ = decoded(first[:at] + first[at + lost :] + second * 3)
            assert wh(found[-1]) == (Decimal(5_000), None)
    assert decoded(first + second)[0] == whole + decoded(second)[0]


def test_repro_a_stray_stx_or_a_lost_etx_holds_no_later_readout_back() -> None:
    for first in (
        pushed().replace(b"F.F", b"F\x02F"),
        block()[:-2],
        IDENT,
        pushed()[:11],
        IDENT + b"F.F(00)\r\n",
    ):
        for second in (pushed(), block()):
            decoder = D0Decoder()
            assert decoder.feed(first) == []
            assert [wh(reading) for reading in decoder.feed(second)] == [BOTH]


def test_repro_short_readouts_may_follow_each_other_at_once() -> None:
    short = b"/GHE5\r\n\r\n1.8.0(5*kWh)\r\n!\r\n"
    for glued in (short * 3, short.replace(b"!\r\n", b"!") * 3):
        assert [wh(reading) for reading in decoded(glued)[0]] == [(Decimal(5_000), None)] * 3


def test_a_gateways_lines_behind_the_end_are_ignored() -> None:
    data = pushed() + b"  25800001\r\n" + b"\xff" * 32 + b"\r\n"
    found, faults = decoded(data * 3)
    assert ([wh(reading) for reading in found], faults) == ([BOTH] * 3, {})


def test_repro_a_readout_without_an_end_is_dropped_at_its_bound() -> None:
    for start in (IDENT + b"\x02", b"/ESY5\r\n\r\n"):
        decoder = D0Decoder()
        tracemalloc.start()
        for _ in range(20):
            assert decoder.feed(start + b"1" * READOUT_MAX * 2) == []
        assert tracemalloc.get_traced_memory()[1] < 40 * READOUT_MAX
        tracemalloc.stop()
        assert decoder.faults == {"too_long": 20}
        assert len(decoder.feed(block())) == 1


def test_an_unfinished_readout_is_dropped_at_a_pause_and_at_a_new_connection() -> None:
    decoder = D0Decoder()
    decoder.feed(block()[:40])
    assert decoder.identification == b"ELS5\\@V9.30 "
    assert decoder.pause() == []
    assert decoder.faults == {"incomplete": 1}
    decoder.feed(block()[:40])
    decoder.reset()
    assert decoder.feed(block()[40:]) == []
    assert decoder.faults == {"incomplete": 1}
    assert len(decoder.feed(block())) == 1
    assert decoder.identification is None


def test_the_decoder_says_for_what_it_waits() -> None:
    decoder = D0Decoder()
    assert "identification" in str(decoder.waiting_for)
    decoder.feed(block()[:40])
    assert "a complete readout" in str(decoder.waiting_for)
    decoder.feed(block())
    assert decoder.waiting_for is None
    decoder.reset()
    decoder.feed(b"\x1b\x1b\x1b\x1b\1\1\1\1")
    assert "source sml" in str(decoder.waiting_for)


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [b"/", IDENT, b"\r\n", b"\x02", b"!\r\n\x03", b"1.8.0(", b"*kWh)", b"\x06050\r\n", b"!"]
        ),
        st.sampled_from([block(), pushed(), even(block()), even(pushed())]),
        st.binary(max_size=40).map(lambda data: block(data)),
        st.text("0123456789.()*kWh-:&\r\n", max_size=40).map(lambda text: block(text.encode())),
    ),
    max_size=20,
)


@given(pieces=PIECES, seed=st.integers(0, 1_000))
def test_any_bytes_in_any_pieces_read_the_same(pieces: list[bytes], seed: int) -> None:
    data = b"".join(pieces)
    whole, parts = D0Decoder(), D0Decoder()
    found = whole.feed(data) + whole.pause()
    rng, at, again = random.Random(seed), 0, []
    while at < len(data):
        size = rng.randrange(1, 40)
        again += parts.feed(data[at : at + size])
        at += size
    assert again + parts.pause() == found
    assert parts.faults == whole.faults
    whole.feed(data)
    whole.pause()
    assert [wh(reading) for reading in whole.feed(block())] == [BOTH]
