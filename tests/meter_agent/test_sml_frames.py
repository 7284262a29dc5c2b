"""SML: fields, checksums, partial frames, and any bytes."""

import random
import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.meter_agent.sources.reading import total_wh
from gridhe.meter_agent.sources.sml.decoder import SmlDecoder
from gridhe.meter_agent.sources.sml.frames import FRAME_MAX, START
from gridhe_testing.sml_decoded import EXPORT, IMPORT, decoded, only, power, wh
from gridhe_testing.sml_meter import (
    EMPTY,
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
