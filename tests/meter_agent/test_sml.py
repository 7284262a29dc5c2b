"""SML: frames, messages and lists of values, of invented meters and of real ones if their files are there."""

import random
import tracemalloc
from decimal import Decimal
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe.meter_agent.sources.sml.decoder import SmlDecoder
from gridhe.meter_agent.sources.sml.frames import FRAME_MAX, START
from gridhe_testing.device_data import DeviceFile, device_files, needs_device_data
from gridhe_testing.sml_meter import (
    EMPTY,
    SERVER,
    Entry,
    fields,
    frame,
    message,
    message_of,
    signed,
    sml_frame,
    text,
    unsigned,
    values,
)

IMPORT = Entry(code="1-0:1.8.0*255", value=unsigned(12_345_678, 4))
EXPORT = Entry(code="1-0:2.8.0*255", value=unsigned(987_654, 4))
FILES = device_files("sml")
FNN_TAKING, FNN_DELIVERING = unsigned(0x1C0104, 3), unsigned(0x1D4904, 3)


def power(value: bytes, code: str = "1-0:16.7.0*255", scaler: int = 0) -> Entry:
    return Entry(code=code, value=value, unit=unsigned(27), scaler=signed(scaler))


def decoded(data: bytes, *, missing_unit_is_wh: bool = False) -> tuple[list[DeviceReading], dict[str, int]]:
    decoder = SmlDecoder(missing_unit_is_wh=missing_unit_is_wh)
    found = decoder.feed(data) + decoder.pause()
    return found, dict(decoder.faults)


def only(*entries: Entry, server: bytes = SERVER) -> DeviceReading:
    (reading,), faults = decoded(sml_frame(*entries, server=server))
    assert faults == {}
    return reading


def wh(reading: DeviceReading) -> tuple[Decimal | None, Decimal | None]:
    return total_wh(reading.imported), total_wh(reading.exported)


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


# Fields


def test_times_of_any_form_binary_entries_and_empty_fields_are_read_over() -> None:
    """Field note 19: Holley leaves out the bytes that mark a time's kind."""
    bare = Entry(code=IMPORT.code, value=unsigned(5), time=unsigned(1_346_051, 4))
    whole = Entry(code=EXPORT.code, value=unsigned(7), time=fields(unsigned(1), unsigned(4_242, 4)))
    binary = Entry(code="129-129:199.130.5*255", value=text(bytes(range(200))), unit=EMPTY, scaler=EMPTY)
    truth = Entry(code="1-0:96.5.0*255", value=b"\x42\x01", unit=EMPTY, scaler=EMPTY)
    assert wh(only(bare, binary, whole, truth)) == (Decimal("0.5"), Decimal("0.7"))


def test_a_list_of_more_than_15_values_has_a_length_of_two_bytes() -> None:
    many = [power(unsigned(each), f"1-0:{each}.7.0*255") for each in range(20, 45)]
    assert wh(only(*many, IMPORT)) == (Decimal("1234567.8"), None)


def test_an_escape_sequence_in_a_value_is_read_back() -> None:
    for size in range(4, 9):
        value = int.from_bytes(b"\x1b" * size, "big")
        reading = only(Entry(code=IMPORT.code, value=unsigned(value, size), scaler=signed(-9)))
        assert wh(reading) == (Decimal(value).scaleb(-9), None)


def test_a_list_of_an_unknown_shape_is_counted() -> None:
    assert decoded(frame(message(1, 0x701, fields(EMPTY)))) == ([], {"no_list": 1})


@pytest.mark.parametrize(
    "inner",
    [
        b"\x76",
        b"\x75" + EMPTY * 5,
        b"\xf6\x80\x80\x06",
        b"\x8f" * 40,
        b"\x71" * 400,
        b"\x02",
        fields(EMPTY, EMPTY, EMPTY, fields(EMPTY, EMPTY), b"\x6b" + bytes(10)),
    ],
)
def test_a_frame_of_no_messages_is_counted(inner: bytes) -> None:
    assert decoded(frame(inner)) == ([], {"no_message": 1})


def test_a_message_without_a_kind_is_counted() -> None:
    for body in (EMPTY, fields(EMPTY), fields(EMPTY, EMPTY), fields(text(b"\7\1"), EMPTY)):
        assert decoded(frame(message_of(body))) == ([], {"no_message": 1})


# Checksums


def test_repro_a_frames_checksum_may_be_x25_or_kermit_and_is_never_ignored() -> None:
    """Field notes 19 and 26: the reason says which checksum failed, the frame's or a message's."""
    for kind in ("x25", "kermit"):
        good = sml_frame(IMPORT, crc_kind=kind)
        assert len(decoded(good)[0]) == 1
        for at in range(len(START), len(good)):
            for bit in range(8):
                spoilt = bytearray(good)
                spoilt[at] ^= 1 << bit
                assert decoded(bytes(spoilt))[0] == []
        assert decoded(good[:-1] + bytes([good[-1] ^ 1])) == ([], {"frame_crc": 1})


def test_repro_every_message_has_its_own_checksum_and_all_count() -> None:
    good, opened = values(IMPORT), message(1, 0x101, fields(EMPTY))
    for kind in ("x25", "kermit"):
        spoilt = bytearray(opened)
        spoilt[-2] ^= 1
        for messages in ((bytes(spoilt), good), (good, bytes(spoilt))):
            assert decoded(frame(*messages, crc_kind=kind)) == ([], {"message_crc": 1})
        spoilt = bytearray(values(IMPORT))
        at = spoilt.index((12_345_678).to_bytes(4, "big"))
        spoilt[at] ^= 1
        assert decoded(frame(opened, bytes(spoilt), crc_kind=kind)) == ([], {"message_crc": 1})


# Partial frames


def test_repro_a_partial_frame_never_takes_the_next_one_with_it() -> None:
    """Field note 27. Cut anywhere, also within an escape sequence, and with any of its bytes lost."""
    first, second = sml_frame(IMPORT, EXPORT), sml_frame(Entry(code=IMPORT.code, value=unsigned(5)))
    for at in range(len(first)):
        found, faults = decoded(first[:at] + second)
        assert [wh(reading) for reading in found] == [(Decimal("0.5"), None)], at
        if at < len(first) - 8:
            assert faults == ({"incomplete": 1} if at >= len(START) else {}), at
    for at in range(len(first)):
        for lost in (1, 4, 13):
            found, _ = decoded(first[:at] + first[at + lost :] + second)
            assert wh(found[-1]) == (Decimal("0.5"), None), (at, lost)


def test_a_frame_may_follow_ones_of_an_escape_byte() -> None:
    second = sml_frame(IMPORT)
    for ones in range(9):
        for before in (b"", START, START + b"\x76\x01", sml_frame(EXPORT)[:-3]):
            found, _ = decoded(before + b"\x1b" * ones + second)
            assert wh(found[-1]) == (Decimal("1234567.8"), None)


def test_a_stream_joined_within_a_frame_is_no_fault() -> None:
    whole = sml_frame(IMPORT)
    for at in range(1, len(whole)):
        found, faults = decoded(whole[at:] + whole)
        assert (len(found), faults) == (1, {})


def test_repro_a_frame_without_an_end_is_dropped_at_its_bound() -> None:
    decoder = SmlDecoder()
    tracemalloc.start()
    for _ in range(200):
        assert decoder.feed(START + bytes(FRAME_MAX * 2)) == []
    assert tracemalloc.get_traced_memory()[1] < 20 * FRAME_MAX
    tracemalloc.stop()
    assert decoder.faults == {"too_long": 200}
    assert len(decoder.feed(sml_frame(IMPORT))) == 1


def test_a_frame_that_is_not_finished_is_dropped_at_a_pause_and_at_a_new_connection() -> None:
    whole = sml_frame(IMPORT)
    decoder = SmlDecoder()
    decoder.feed(whole[:90])
    assert decoder.pause() == []
    assert decoder.faults == {"incomplete": 1}
    assert decoder.feed(whole[90:]) == []
    decoder.feed(whole[:90])
    decoder.reset()
    assert decoder.feed(whole[90:]) == []
    assert decoder.faults == {"incomplete": 1}
    assert len(decoder.feed(whole)) == 1


def test_the_decoder_says_for_what_it_waits() -> None:
    """Field note 29: text on the same port is IEC 62056-21."""
    decoder = SmlDecoder()
    assert decoder.waiting_for == "a start of an SML frame"
    decoder.feed(sml_frame(IMPORT)[:100])
    assert "a complete SML frame" in str(decoder.waiting_for)
    decoder.feed(sml_frame(IMPORT))
    assert decoder.waiting_for is None
    decoder.reset()
    decoder.feed(bytes(byte | 0x80 for byte in b"/LGZ5\\2ZMD120\r\n"))
    assert "source d0" in str(decoder.waiting_for)


# Many frames


def damaged(rng: random.Random, frame: bytes) -> bytes:
    """A frame as a weak infrared light or an overrun buffer leaves it."""
    data = bytearray(frame)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randint(1, 40)]
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 20))
            case _:
                del data[at:]
        if not data:
            break
    return bytes(data)


def test_ten_thousand_frames_with_seeded_faults_give_no_wrong_reading_and_every_whole_frame() -> None:
    rng = random.Random(20_261_125)
    decoder, whole, found, register = SmlDecoder(), [], [], 1 << 24
    for _ in range(10_000):
        register += rng.randrange(1, 40)
        frame = sml_frame(Entry(code=IMPORT.code, value=unsigned(register, 5)), power(signed(-5, 2)))
        sent = damaged(rng, frame) if rng.random() < 0.3 else frame
        if frame in sent:  # also where bytes came in before it only
            whole.append(Decimal(register) / 10)
        at = rng.randrange(len(sent) + 1)
        for piece in (sent[:at], sent[at:]):
            found += [total_wh(reading.imported) for reading in decoder.feed(piece)]
    assert found == whole
    assert sum(decoder.faults.values()) > 2_000


# Any bytes


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from([START, b"\x1b" * 4, b"\x1b" * 8, b"\x1b\x1b\x1b\x1b\x1a\0", b"\x76", b"\x77"]),
        st.just(sml_frame(IMPORT, EXPORT)),
        st.binary(max_size=60).map(lambda data: frame(data)),
        st.binary(max_size=60).map(lambda data: frame(message(1, 0x701, data))),
        st.lists(st.binary(max_size=12), max_size=9).map(
            lambda parts: frame(message(1, 0x701, fields(*parts)))
        ),
    ),
    max_size=30,
)


@given(pieces=PIECES, seed=st.integers(0, 1_000))
def test_any_bytes_in_any_pieces_read_the_same(pieces: list[bytes], seed: int) -> None:
    data = b"".join(pieces)
    whole, parts = SmlDecoder(), SmlDecoder()
    found = whole.feed(data) + whole.pause()
    rng, at, again = random.Random(seed), 0, []
    while at < len(data):
        size = rng.randrange(1, 40)
        again += parts.feed(data[at : at + size])
        at += size
    assert again + parts.pause() == found
    assert parts.faults == whole.faults
    good = sml_frame(IMPORT)
    assert wh(SmlDecoder().feed(data + good)[-1]) == (Decimal("1234567.8"), None)
