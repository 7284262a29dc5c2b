"""The decoder of P1 telegrams: made-up ones with one fault each."""

import random
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe.meter_agent.sources.p1.crc import crc16_arc
from gridhe.meter_agent.sources.p1.decoder import P1Decoder
from gridhe.meter_agent.sources.p1.frames import MAX_BYTES
from gridhe.meter_agent.sources.reading import DeviceReading, Register, total_wh
from gridhe_testing.p1_telegrams import telegram

PARITY = bytes(byte | 0x80 if byte.bit_count() % 2 else byte for byte in range(128)) + bytes(128)
OLD = (
    "0-0:96.1.1(453030303031)",
    "1-0:1.8.1(08153.408*kWh)",
    "1-0:1.8.2(05504.779*kWh)",
    "1-0:2.8.1(00000.000*kWh)",
    "1-0:2.8.2(00001.000*kWh)",
    "1-0:1.7.0(0000.30*kW)",
    "1-0:2.7.0(0000.00*kW)",
    "0-1:24.3.0(121030140000)(00)(60)(1)(0-1:24.2.1)(m3)",
    "(01709.390)",
)  # DSMR 2.2: no checksum


def decoded(data: bytes, decoder: P1Decoder | None = None, *, step: int = 1 << 20) -> list[DeviceReading]:
    decoder = decoder or P1Decoder()
    readings = []
    for start in range(0, len(data), step):
        readings += decoder.feed(data[start : start + step])
    return readings + decoder.pause()


def fault_of(data: bytes, decoder: P1Decoder | None = None) -> str:
    """The one fault of bytes that give no reading."""
    decoder = decoder or P1Decoder()
    assert decoded(data, decoder) == []
    ((reason, count),) = decoder.faults.items()
    assert count == 1
    return reason


def utc_s(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_the_published_check_value() -> None:
    assert crc16_arc(b"123456789") == 0xBB3D


def test_a_telegram_gives_its_registers_power_id_and_time() -> None:
    (reading,) = decoded(telegram())
    assert reading == DeviceReading(
        imported={
            "1.8.1": Register(wh=Decimal(123_456), step_wh=Decimal(1), modulus_wh=Decimal(10**9)),
            "1.8.2": Register(wh=Decimal(200_000), step_wh=Decimal(1), modulus_wh=Decimal(10**9)),
        },
        exported={
            "2.8.1": Register(wh=Decimal(500), step_wh=Decimal(1), modulus_wh=Decimal(10**9)),
            "2.8.2": Register(wh=Decimal(1000), step_wh=Decimal(1), modulus_wh=Decimal(10**9)),
        },
        power_w=Decimal(250),
        device="E0099900000000001",
        at_s=utc_s("2024-07-17T10:00:10"),
    )


def test_every_split_gives_the_same() -> None:
    old = telegram(*OLD, checksum=None, header="/OLD5\\2")
    data = b"\xffnoise!/" + telegram() + b"\r\n" + old + telegram()[:100] + telegram()
    whole = decoded(data)
    assert len(whole) == 3
    for cut in range(len(data)):
        decoder = P1Decoder()
        assert decoder.feed(data[:cut]) + decoder.feed(data[cut:]) == whole
    for step in (1, 2, 3, 7):
        assert decoded(data, step=step) == whole


# -- the checksum ------------------------------------------------------------------------------------


def test_repro_every_flipped_bit_of_a_telegram_is_noticed() -> None:
    data = telegram()
    end = data.index(b"!")
    good = decoded(data)
    for at in range(end * 8):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        # Without bit 7 the telegram is as it was sent.
        assert decoded(bytes(changed)) == (good if at % 8 == 7 else []), (at // 8, at % 8)
    for at in range(end * 8, (end + 5) * 8):  # "!" and the digits: never another reading
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        assert decoded(bytes(changed)) in ([], good)


@pytest.mark.parametrize("checksum", ["{:04x}", "{:04X}", "{:x}", "{:X}"])
def test_repro_a_checksum_is_compared_as_a_number(checksum: str) -> None:
    # With this value the checksum has a leading zero and a letter: it is written with three digits.
    for value in range(1000):
        data = telegram(_1_8_1=f"1-0:1.8.1(000123.{value:03d}*kWh)")
        digits = data[data.index(b"!") + 1 :].strip().decode()
        if digits.startswith("0") and not digits.startswith("00") and not digits.isdigit():
            break
    else:
        pytest.fail("no such value")
    changed = telegram(_1_8_1=f"1-0:1.8.1(000123.{value:03d}*kWh)", checksum=checksum)
    assert len(decoded(changed)) == 1


def test_repro_a_version_that_has_a_checksum_must_send_it() -> None:
    for left_out in ("_0_2_8", "_1_0_0"):  # one of the two lines is enough to know
        assert fault_of(telegram(checksum=None, **{left_out: ""})) == "no_crc"
    old = ("1-3:0.2.8(30)", "1-0:1.8.1(000123.456*kWh)")
    assert len(decoded(telegram(*old, checksum=None))) == 1
    belgian = ("0-0:96.1.4(50217)", "1-0:1.8.1(000123.456*kWh)")
    assert fault_of(telegram(*belgian, checksum=None)) == "no_crc"
    assert len(decoded(telegram(*belgian))) == 1


def test_repro_a_meter_that_sent_a_checksum_must_go_on() -> None:
    lines = ("1-0:1.8.1(000123.456*kWh)",)
    assert len(decoded(telegram(*lines, checksum=None))) == 1
    decoder = P1Decoder()
    assert len(decoded(telegram(*lines), decoder)) == 1
    assert fault_of(telegram(*lines, checksum=None), decoder) == "no_crc"
    assert len(decoded(telegram(*lines, checksum=None, header="/OLD5\\2"), decoder)) == 1


def test_a_version_without_checksum_is_read() -> None:
    (reading,) = decoded(telegram(*OLD, checksum=None))
    assert total_wh(reading.imported) == 13_658_187
    assert total_wh(reading.exported) == 1000
    assert reading.imported["1.8.1"].modulus_wh == 10**8
    assert reading.power_w == 300
    assert reading.at_s is None
    assert reading.device == "E00001"


@pytest.mark.parametrize(
    "line",
    ["1-0:1.8.1(08153.408*k1-0:2.8.1(00000.000*kWh)", "1-0:1.8.1(0815\x003.408*kWh)",
     "1-0:1.8.1(08153.408*kWh", "1-0:1.8.1(0815.408*kWh)", "1-0:1.8.1(08153.408*kWh)x",
     "garbage", "1-0:1.8.1(08153.408*k\xb7h)", "1-0:1.8.2(00001.000*kWh)"],
)  # fmt: skip
def test_repro_a_damaged_telegram_without_checksum_is_dropped(line: str) -> None:
    assert (
        fault_of(telegram(*(line if each.startswith("1-0:1.8.1") else each for each in OLD), checksum=None))
        == "malformed"
    )


def test_a_telegram_without_checksum_and_line_end_ends_with_silence() -> None:
    decoder = P1Decoder()
    assert decoder.feed(telegram(*OLD, checksum=None).rstrip()) == []
    assert len(decoder.pause()) == 1


# -- parity and line ends ----------------------------------------------------------------------------


def test_repro_bit_7_is_left_out_only_if_the_telegram_is_then_right() -> None:
    data = telegram().translate(PARITY)
    assert decoded(data) == decoded(telegram())
    assert fault_of(telegram().replace(b"456", b"457").translate(PARITY)) == "crc"
    old = telegram(*OLD, checksum=None)
    assert decoded(old.translate(PARITY)) == decoded(old)
    wrong = bytearray(old.translate(PARITY))
    wrong[old.index(b"8153")] ^= 1
    assert fault_of(bytes(wrong)) == "malformed"  # a character with odd parity


def test_repro_line_ends_without_cr_are_restored_only_where_told() -> None:
    data = telegram(line_end="\n")
    assert fault_of(data) == "lf_only"
    assert decoded(data, P1Decoder(restore_line_ends=True)) == decoded(telegram())
    assert fault_of(data.replace(b"456", b"457"), P1Decoder(restore_line_ends=True)) == "crc"
    old = telegram(*OLD, checksum=None, line_end="\n")
    assert fault_of(old) == "lf_only"
    assert len(decoded(old, P1Decoder(restore_line_ends=True))) == 1


# -- where a telegram begins and ends ----------------------------------------------------------------


def test_repro_a_header_at_the_start_of_a_line_begins_anew() -> None:
    cut = telegram()
    for end in range(1, cut.index(b"!")):
        decoder = P1Decoder()
        assert decoded(cut[:end] + b"\r\n" + telegram(), decoder) == decoded(telegram()), end
        assert decoder.faults == {"cut_off": 1}


def test_repro_a_telegram_that_was_cut_off_in_a_line_does_not_take_the_next_with_it() -> None:
    for old in (telegram(), telegram(*OLD, checksum=None)):
        for end in range(1, len(old)):
            complete = end >= len(old) - 2  # without its line end
            readings = decoded(old[:end] + telegram())
            assert readings == (decoded(old) if complete else []) + decoded(telegram()), end


def test_repro_two_telegrams_without_checksum_that_are_joined_give_no_other_value() -> None:
    first = telegram(*OLD, checksum=None)
    second = first.replace(b"08153.408", b"08153.999").replace(b"05504.779", b"05505.111")
    sent = [{**each.imported, **each.exported}.items() for each in decoded(first) + decoded(second)]
    names = {name for name, _ in sent[0]}
    line, joined = len("1-0:1.8.1(08153.408*kWh)\r\n"), 0
    for end in range(1, first.index(b"!")):
        for start in range(end % 5, first.index(b"!"), 5):
            if (start - end) % line == 0:
                continue  # digits of two registers in the same place: nothing shows it
            for reading in decoded(first[:end] + second[start:]):
                values = {**reading.imported, **reading.exported}
                if values.keys() == names:  # other registers are the register machine's to notice
                    joined += 1
                    assert all(any(value in each for each in sent) for value in values.items()), (end, start)
    assert joined > 100


def test_silence_drops_an_unfinished_telegram() -> None:
    decoder = P1Decoder()
    data = telegram()
    assert decoder.feed(data[:200]) == []
    assert decoder.pause() == []
    assert decoder.feed(data[200:]) == []
    assert decoder.faults == {"cut_off": 1}
    assert len(decoder.feed(data)) == 1


def test_a_new_connection_drops_an_unfinished_telegram() -> None:
    decoder = P1Decoder()
    decoder.feed(telegram()[:200])
    decoder.reset()
    assert decoder.feed(telegram()[200:] + telegram()) == decoded(telegram())
    assert decoder.faults == {"cut_off": 1}


@pytest.mark.parametrize(
    "header", ["/KAM5", "/ADN9 6534", "/ISK9\\2M551T-200", "/NES5:83335-3E", "/Ene5\\X ESMR 5.0", "/XMX5/2",
               "/NWA-WARMTELINK", "/XMX\xf65"],
)  # fmt: skip
def test_headers_of_all_kinds(header: str) -> None:
    assert len(decoded(b"\r\n" + telegram(header=header))) == 1


def test_an_end_without_its_line_end() -> None:
    data = telegram().rstrip()
    assert len(decoded(data + data + data)) == 3
    old = telegram(*OLD, checksum=None).rstrip()
    assert len(decoded(old + old + old)) == 3


def test_noise_between_telegrams() -> None:
    rng = random.Random(5)
    data, count = b"", 40
    for _ in range(count):
        data += rng.randbytes(rng.randrange(400)) + telegram()
    for step in (1, 100, 1 << 20):
        assert decoded(data, step=step) == decoded(telegram()) * count


# -- hints -------------------------------------------------------------------------------------------


def test_what_is_missing_is_told() -> None:
    decoder = P1Decoder()
    assert decoder.waiting_for is None
    decoder.feed(b"\xfe\x81" * 400)
    assert decoder.waiting_for == "a telegram's start"
    rng = random.Random(8)
    for step in (1, 30, 5000):
        decoder = P1Decoder()
        noise, hints = rng.randbytes(20_000), []
        for start in range(0, len(noise), step):
            decoder.feed(noise[start : start + step])
            hints.append(decoder.waiting_for)
        assert hints.count("a telegram's start") > 0.9 * len(hints)
    decoder.feed(telegram())
    assert decoder.waiting_for is None
    for _ in range(3):
        decoder.feed(b"/KMP5 KA6U000000000001\r\n\r\n")
        decoder.pause()
    assert decoder.waiting_for == "a telegram's end"
    decoder.feed(telegram())
    assert decoder.waiting_for is None
    for step in (400, 1):
        message = b"\xdb\x08SAGg\0\0\0\0\x82\1\1\x30" + b"\xfe" * 500
        for start in range(0, len(message), step):
            decoder.feed(message[start : start + step])
    assert str(decoder.waiting_for).startswith("the key")
    assert decoder.faults["no_key"] == 2  # once each, in whatever pieces
    decoder.feed(telegram())
    assert decoder.waiting_for is None


# -- any bytes ---------------------------------------------------------------------------------------


def held_bytes(decoder: P1Decoder) -> int:
    return len(decoder._framer._raw)


PIECES = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([b"/", b"\n/", b"\r\n!", b"!", b"\r\n", telegram(), telegram(*OLD, checksum=None),
                     b"/TST5\r\n", telegram()[:150], telegram()[150:], telegram(line_end="\n"),
                     b"/ABC" * 300]),
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=30), st.booleans())
def test_any_bytes_raise_nothing_hold_little_and_give_only_what_was_sent(
    pieces: list[bytes], restore: bool
) -> None:
    decoder = P1Decoder(restore_line_ends=restore)
    good = [*decoded(telegram()), *decoded(telegram(*OLD, checksum=None))]
    readings = []
    for piece in pieces:
        readings += decoder.feed(piece)
        assert held_bytes(decoder) <= MAX_BYTES + 1
    readings += decoder.pause()
    assert all(reading in good for reading in readings)
    whole = P1Decoder(restore_line_ends=restore)
    assert decoded(b"".join(pieces), whole) == readings
    assert whole.faults == decoder.faults


def test_repro_a_telegram_without_end_is_dropped_and_the_next_is_read() -> None:
    for step in (1, 997, 1 << 20):
        decoder = P1Decoder()
        endless = b"/TST5\r\n" + b"1-0:1.8.0(1)\r\n" * (3 * MAX_BYTES // 14)
        assert decoded(endless + telegram(), decoder, step=step) == decoded(telegram())
        assert decoder.faults["too_long"] >= 1
        assert held_bytes(decoder) == 0
        noise = b"/" + b"x" * (MAX_BYTES - 100)
        assert decoded(noise + telegram(), step=step) == decoded(telegram())
