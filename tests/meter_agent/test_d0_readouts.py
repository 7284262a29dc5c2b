"""IEC 62056-21: readouts within any bytes, and their checksum."""

import random
import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.meter_agent.sources.d0.decoder import D0Decoder
from gridhe.meter_agent.sources.d0.readouts import READOUT_MAX
from gridhe_testing.d0_decoded import BOTH, IDENT, LINES, block, decoded, even, pushed, wh


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
