"""HAN pushes of real meters, if their files are there, and the framing of invented ones."""

import random
import time
import tracemalloc
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from math import floor
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe.meter_agent.sources.han.axdr import Reader, read_data
from gridhe.meter_agent.sources.han.decoder import HanDecoder
from gridhe.meter_agent.sources.han.energy import Agreements
from gridhe.meter_agent.sources.han.joining import APDU_MAX
from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe_testing.device_data import DeviceFile, device_files, needs_device_data
from gridhe_testing.dlms_meter import (
    NULL,
    array,
    blocks,
    clock,
    code,
    enum,
    escaped,
    hdlc,
    i8,
    i32,
    mbus,
    mbus_segments,
    notification,
    scaler,
    segments,
    structure,
    text,
    u16,
    u32,
    x25,
)

FILES = device_files("han-dlms")
OSLO = Agreements(zone=ZoneInfo("Europe/Oslo"))


def decoder(**kinds: Any) -> HanDecoder:
    return HanDecoder(agreements=kinds.pop("agreements", OSLO), **kinds)


def read(pieces: Iterable[bytes], **kinds: Any) -> list[DeviceReading]:
    reader = decoder(**kinds)
    found = [reading for piece in pieces for reading in reader.feed(piece)]
    return found + reader.pause()


def faults(data: bytes, **kinds: Any) -> dict[str, int]:
    reader = decoder(**kinds)
    assert reader.feed(data) + reader.pause() == []
    return dict(reader.faults)


def wh(reading: DeviceReading) -> tuple[Decimal | None, Decimal | None]:
    return total_wh(reading.imported), total_wh(reading.exported)


# The meters of the data folder


def floors(reading: DeviceReading) -> tuple[int | None, int | None, Decimal | None]:
    imported, exported = wh(reading)
    return (
        None if imported is None else floor(imported),
        None if exported is None else floor(exported),
        reading.power_w,
    )


def check(file: DeviceFile, found: list[DeviceReading]) -> None:
    """As expected.json says; a stamp that is not certain there may have a date here, or none."""
    right = [(each["import_wh"], each["export_wh"], each["power_w"]) for each in file.readings]
    assert [floors(reading) for reading in found] == right
    for reading, each in zip(found, file.readings, strict=True):
        if each["ts_utc"] is not None:
            assert reading.at_s == datetime.fromisoformat(each["ts_utc"]).timestamp()
        elif each.get("ts_raw") is None:
            assert reading.at_s is None


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_meters_file_gives_its_readings(file: DeviceFile) -> None:
    check(file, read([file.data]))


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_stamp_without_a_certain_zone_has_no_date(file: DeviceFile) -> None:
    # Without a zone, only stamps that state their offset to UTC have a date; Aidon's 0 is none.
    for reading, right in zip(read([file.data], agreements=Agreements()), file.readings, strict=True):
        if "ts_basis" in right or right["ts_utc"] is None:
            assert reading.at_s is None
        else:
            assert reading.at_s == datetime.fromisoformat(right["ts_utc"]).timestamp()


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_reads_the_same_in_pieces(file: DeviceFile) -> None:
    whole = read([file.data])
    assert read(bytes([byte]) for byte in file.data) == whole
    for at in range(len(file.data)):
        assert read([file.data[:at], file.data[at:]]) == whole


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_reads_the_same_behind_garbage_and_behind_a_part_of_itself(file: DeviceFile) -> None:
    whole = read([file.data])
    raw = file.path.suffix == ".dlms"
    second = file.data.find(b"\x7e", 20)  # perhaps data; no frame of these ends before it
    rng = random.Random(file.path.stem)
    for _ in range(60):
        noise = rng.choice((b"\x7e", b"\x7e\xa1", b"\x68\x30\x30\x68", rng.randbytes(rng.randrange(300))))
        # Without its last 7e a frame is whole: the next one's first 7e ends it.
        cut = file.data[: rng.randrange(1, len(file.data) if raw or second < 0 else second)]
        assert read([noise + file.data]) == whole
        assert read([cut + file.data]) == whole
        between = file.data if raw else file.data + noise  # a bare push has no end mark but the pause
        assert read([noise + cut + between + file.data]) == whole + whole


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_that_is_cut_off_anywhere_gives_no_other_reading(file: DeviceFile) -> None:
    whole = read([file.data])
    for at in range(len(file.data)):
        assert read([file.data[:at]]) == whole[: len(read([file.data[:at]]))]
        tail = read([file.data[at:]])
        assert tail == whole[len(whole) - len(tail) :]


@needs_device_data
@pytest.mark.parametrize("file", [file for file in FILES if file.path.suffix == ".hdlc"], ids=str)
def test_a_damaged_bit_never_changes_a_reading(file: DeviceFile) -> None:
    whole = read([file.data])
    for at in range(len(file.data)):
        damaged = bytearray(file.data)
        damaged[at] ^= 1 << at % 8
        for reading in read([bytes(damaged)]):
            assert reading in whole


# Framing

PUSH = structure(
    text("AIDON_V0001"),
    structure(code("0-0:96.1.0"), text("7350000000000001")),
    structure(code("1-0:1.8.0"), u32(0x7E7D_0101), scaler(0)),  # both marks of HDLC in the data
    structure(code("1-0:2.8.0"), u32(68), scaler(1)),
    structure(code("1-0:1.7.0"), u32(500), scaler(0, 27)),
    structure(code("1-0:2.7.0"), u32(1720), scaler(0, 27)),
    structure(code("0-0:1.0.0"), b"\x09\x0c" + clock("2026-01-20 16:00:00", deviation=0)),
)
APDU = notification(PUSH)
READING = DeviceReading(
    imported=read([hdlc(APDU)])[0].imported,
    exported=read([hdlc(APDU)])[0].exported,
    power_w=Decimal(-1220),
    device="7350000000000001",
    at_s=datetime.fromisoformat("2026-01-20T15:00:00Z").timestamp(),
)
FRAMINGS: dict[str, bytes] = {
    "hdlc": hdlc(APDU),
    "long addresses": hdlc(APDU, addresses=b"\x02\x04\x06\x03\x20\x23"),
    "escaped": escaped(hdlc(APDU)),
    "segmented": b"".join(segments(APDU, 40)),
    "segmented, escaped": b"".join(map(escaped, segments(APDU, 40))),
    "block transfer": b"".join(blocks(APDU, 50)),
    "block transfer, segmented blocks": b"".join(blocks(APDU, 100)),
    "mbus": mbus(APDU, number=0),
    "mbus segments": b"".join(mbus_segments(APDU, 60)),
    "mbus, length of more than a byte": b"".join(mbus_segments(notification(structure(*[PUSH] * 3)), 252)),
    "bare": APDU,
}


def test_a_push_is_read_exactly() -> None:
    assert wh(READING) == (Decimal(0x7E7D_0101), Decimal(680))
    assert [each.step_wh for each in READING.exported.values()] == [Decimal(10)]
    assert read([hdlc(APDU)]) == [READING]


@pytest.mark.parametrize("kind", FRAMINGS)
def test_a_push_is_read_in_every_framing_and_in_pieces(kind: str) -> None:
    data = FRAMINGS[kind]
    assert read([data]) == [READING]
    assert read(bytes([byte]) for byte in data) == [READING]
    if kind != "bare":
        assert read([data + data + b"\x55\x7e" + data]) == [READING] * 3
        assert read([data[: len(data) // 2], data]) == [READING]
        assert read([data + data], framing="mbus" if "mbus" in kind else "hdlc") == [READING] * 2
        assert read([data], framing="hdlc" if "mbus" in kind else "mbus") == []
        assert read([data], framing="raw") == []


def test_bare_pushes_are_told_apart_by_pauses_and_by_their_structure() -> None:
    reader = decoder()
    for _ in range(3):
        assert reader.feed(APDU[:50]) + reader.feed(APDU[50:]) == []
        assert reader.pause() == [READING]
    assert reader.feed(APDU + APDU) + reader.pause() == [READING, READING]
    assert reader.feed(APDU[:-1]) + reader.pause() == []
    assert reader.feed(APDU) + reader.pause() == [READING]
    assert reader.faults == {"unframed": 1}


def test_repro_a_bare_push_that_lost_its_end_takes_none_of_the_next_ones_bytes() -> None:
    # The structure would be complete with the next push's first byte: 2.8.0 would end in 0f.
    push = notification(structure(code("1-0:1.8.0"), u32(5), code("1-0:2.8.0"), u32(0x1234)))
    lost_end = push[:-1]
    assert [wh(each) for each in read([lost_end + push], agreements=Agreements(register_wh=Decimal(1)))] == [
        (Decimal(5), Decimal(0x1234))
    ]


def test_repro_bare_bytes_are_not_read_after_a_frame_with_a_checksum() -> None:
    reader = decoder()
    assert reader.feed(hdlc(APDU)) == [READING]
    assert reader.feed(APDU) + reader.pause() == []
    reader.reset()
    assert reader.feed(APDU) + reader.pause() == [READING]


@pytest.mark.parametrize(("place", "check"), [(-3, "FCS"), (7, "HCS"), (20, "text"), (-20, "value")])
def test_repro_a_frame_with_a_wrong_check_is_refused(place: int, check: str) -> None:
    damaged = bytearray(hdlc(APDU))
    damaged[place] ^= 0x10
    assert faults(bytes(damaged)) == {"crc": 1}, check


def test_repro_a_wrong_header_check_is_refused_even_if_the_whole_is_right() -> None:
    frame = bytearray(hdlc(APDU))
    frame[6] ^= 1  # HCS
    frame[-3:-1] = x25(bytes(frame[1:-3]))
    assert faults(bytes(frame)) == {"crc": 1}


def test_repro_a_row_of_start_bytes_is_no_mbus_frame() -> None:
    # Found by fuzzing: one of many candidates has the right 8-bit sum at a 16 of the telegram behind it.
    for row in range(4, 200):
        noise = b"\x68" * row
        assert read([noise + hdlc(APDU)]) == [READING]
        assert read([noise + b"\x00\xff" * 20 + hdlc(APDU)]) == [READING]
    for wrong in (b"\x68\xff\x10", b"\x53\xff\x50"):  # C and CI that carry no DLMS
        body = wrong + mbus(APDU)[7:-2]
        size = bytes((len(body),))
        frame = b"\x68" + size + size + b"\x68" + body + bytes((sum(body) & 0xFF, 0x16))
        assert decoder(framing="mbus").feed(frame) == []


def test_repro_a_frame_without_its_end_mark_is_refused() -> None:
    assert faults(hdlc(APDU)[:-1] + b"\x00") == {"crc": 1}
    assert faults(mbus(APDU)[:-1] + b"\x00") == {"checksum": 1}


def test_repro_of_a_frame_in_a_frame_the_one_that_ends_first_is_read_in_any_pieces() -> None:
    outer = hdlc(bytes(8) + hdlc(APDU) + bytes(8))
    inner = hdlc(notification(structure(code("1-0:1.8.0"), u32(5), scaler(0))))
    for data in (outer, outer + inner, inner[:9] + outer):
        whole, parts = decoder(), decoder()
        found = whole.feed(data)
        assert found[:1] == [READING]
        assert [reading for byte in data for reading in parts.feed(bytes([byte]))] == found
        assert parts.faults == whole.faults
        if data == outer:
            assert whole.faults == {"incomplete": 1}
            assert len(found) == 1


def test_repro_a_push_with_something_behind_it_or_an_odd_time_is_refused() -> None:
    assert faults(hdlc(APDU + NULL)) == {"structure": 1}
    assert faults(hdlc(notification(PUSH, b"\x07\xea\x01\x14\x05"))) == {"structure": 1}


@pytest.mark.parametrize("start", [0, 1, 4, 5, 8])  # 8: the LLC header
def test_repro_a_frame_that_lost_its_check_is_not_read_as_a_bare_push(start: int) -> None:
    assert read([hdlc(APDU)[start:-3]]) == []
    assert read([mbus(APDU)[:-2]]) == []


def test_repro_a_bare_push_of_untagged_descriptors_that_is_cut_off_is_no_reading() -> None:
    pairs = [b"\x02\x02\x00\x03" + bytes((1, 0, each, 8, 0, 255)) + b"\x02" + u32(9) for each in (1, 2)]
    push = notification(structure(enum(1), array(*pairs)))
    assert [wh(reading) for reading in read([push])] == [(Decimal(9), Decimal(9))]
    for end in range(len(push)):
        assert read([push[:end]]) == []


def test_repro_an_mbus_frame_with_a_wrong_checksum_is_refused() -> None:
    damaged = bytearray(mbus(APDU))
    damaged[-20] ^= 0x10
    assert faults(bytes(damaged)) == {"checksum": 1}


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("split", [segments, blocks, mbus_segments])
def test_repro_a_push_without_one_of_its_parts_is_no_reading(
    split: Callable[[bytes, int], list[bytes]], lost: int
) -> None:
    parts = split(APDU, 70)
    assert len(parts) >= 3
    reader = decoder()
    assert reader.feed(b"".join(parts)) == [READING]
    assert reader.feed(b"".join(parts[:lost] + parts[lost + 1 :])) == []
    assert reader.feed(b"".join(parts)) == [READING]
    # HDLC segments have no number: without a middle one the content does not fit.
    unnoticed = split is segments and lost == 1
    assert set(reader.faults) <= ({"structure", "list"} if unnoticed else {"segment"})
    assert reader.faults.total() >= 1


def test_repro_a_last_segment_does_not_end_another_push() -> None:
    # Segments have no numbers: a lost end and a lost start look like one push.
    parts = segments(APDU, 70)
    assert read([parts[0] + parts[1] + parts[0] + parts[-1]]) == []
    other = segments(APDU, 70, addresses=b"\x43\x03")
    assert read([b"".join(parts[:-1]) + other[-1]]) == []


def test_repro_a_frame_that_was_cut_off_does_not_hide_the_next_one() -> None:
    long = hdlc(notification(structure(*[PUSH] * 8)))
    reader = decoder()
    assert reader.feed(long[:-400] + hdlc(APDU)) == [READING]
    assert reader.faults == {"incomplete": 1}


# Any bytes


@given(st.binary(max_size=600), st.integers(1, 600), st.sampled_from(["auto", "hdlc", "mbus", "raw"]))
def test_any_bytes_are_taken(data: bytes, piece: int, framing: Any) -> None:
    reader = decoder(framing=framing)
    for at in range(0, len(data), piece):
        reader.feed(data[at : at + piece])
        assert reader.waiting_for is None or reader.waiting_for
    reader.pause()


@given(st.binary(max_size=500))
@settings(max_examples=300)
def test_any_apdu_is_taken(data: bytes) -> None:
    for apdu in (data, notification(data), notification(structure(*[data] * 3))):
        for reading in read([hdlc(apdu)]):
            assert all(register.wh >= 0 for register in reading.imported.values())


@pytest.mark.parametrize(
    "body",
    [
        b"\x02\x01" * 600 + NULL,  # deep
        b"\x01\x84\xff\xff\xff\xff" + NULL * 500,  # more elements than bytes
        b"\x09\x84\xff\xff\xff\xff",  # a string of 4 GB
        b"\x13" + b"\x01\xff\xff" * 15 + b"\x00\x01\x00",  # a compact array of 65,535^15 nulls
        b"\x13" + b"\x01\xff\xff" * 10 + b"\x02\x00\x01\x00",  # of empty structures
        b"\x13\x00\x7f" + NULL * 127,  # of elements without content
        b"\x13" + b"\x01\x00\x01" * 1500 + b"\x11\x01\x05",  # of deep elements
        b"\x04\x84\xff\xff\xff\xff",  # 4 gigabits
        b"\x02\x82\x13\x88" + NULL * 5000,  # 5,000 elements
    ],
    ids=lambda body: body[:8].hex(),
)
def test_repro_deep_huge_and_empty_structures_take_no_time_and_no_memory(body: bytes) -> None:
    apdu = notification(body)
    tracemalloc.start()
    began = time.process_time()
    reader = decoder()
    for part in segments(apdu, 1000):
        assert reader.feed(part) == []
    took_s = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.faults == {"structure": 1}
    assert took_s < 2.0
    assert peak < 4_000_000


def test_repro_endless_segments_blocks_noise_and_bursts_are_bounded() -> None:
    part = hdlc(bytes(1500), more=True, llc=False)
    endless = [
        b"\xe0\x40" + n.to_bytes(2, "big") + bytes.fromhex("00008201f4") + bytes(500) for n in range(1, 70)
    ]
    sources: list[bytes] = [
        hdlc(APDU[:20], more=True) + part * 50,
        b"".join(hdlc(block) for block in endless),
        b"\x7e\xa7" * 20_000,
        b"\x7e\xa7\xff" + b"\x7d\x5d" * 20_000,
        b"\x68\xff\xff\x68" * 10_000,
        random.Random(1).randbytes(100_000),
        b"\x0f" * 100_000,
        b"\x0f\x40\x00\x00\x00\x00\x00" * 580 + b"\x55",
    ]
    for data in sources:
        reader = decoder()
        tracemalloc.start()
        began = time.process_time()
        for at in range(0, len(data), 97):
            assert reader.feed(data[at : at + 97]) == []
        reader.pause()
        took_s = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1_000_000
        assert took_s < 15.0
        assert reader.feed(b"\x7e" + hdlc(APDU)) == [READING]
    assert [faults(data)["too_long"] for data in sources[:2]] == [1, 1]
    assert APDU_MAX <= 16 * 1024


# A-XDR


def test_all_kinds_of_elements_are_read() -> None:
    compact = bytes.fromhex("13 02 02 12 06 0c 0001 00000002 0003 00000004")
    body = structure(
        bytes.fromhex("0301"),  # boolean
        bytes.fromhex("0409aabb"),  # 9 bits
        i32(-2),
        bytes.fromhex("0d12"),
        i8(-3),
        bytes.fromhex("10fffc"),
        bytes.fromhex("11fe"),
        bytes.fromhex("14ffffffffffffffff"),
        bytes.fromhex("15ffffffffffffffff"),
        enum(7),
        bytes.fromhex("173fc00000"),
        bytes.fromhex("183ff8000000000000"),
        b"\x19" + clock("2026-01-01 00:00:00"),
        bytes.fromhex("1a0102030405"),
        bytes.fromhex("1b01020304"),
        bytes.fromhex("0c02c3a9"),
        compact,
        bytes.fromhex("ff"),
        array(),
    )
    values = [element.value for element in read_data(body)[0].elements]
    assert values[:12] == [
        1,
        b"\xaa\xbb",
        -2,
        0x12,
        -3,
        -4,
        254,
        -1,
        2**64 - 1,
        7,
        Decimal("1.5"),
        Decimal("1.5"),
    ]
    assert values[15] == "é".encode()
    assert [[field.value for field in row.elements] for row in values[16]] == [[1, 2], [3, 4]]  # type: ignore[union-attr]
    assert values[17:] == [None, ()]
    assert Reader(b"\x82\x00\x05").length() == 5
    assert u16(1) == b"\x12\x00\x01"
