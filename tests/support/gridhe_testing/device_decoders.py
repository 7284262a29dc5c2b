"""Decoders of devices for fuzzing: any bytes, as they come, and with the checksums that a device would send.

A finding is any exception, and also: the same bytes in pieces give other readings or counts than at once, or
a good telegram behind them is not read.
"""

from collections.abc import Callable
from functools import partial

from gridhe.meter_agent.sources.d0.decoder import D0Decoder
from gridhe.meter_agent.sources.p1.ciphered import CipheredP1Decoder
from gridhe.meter_agent.sources.p1.decoder import P1Decoder
from gridhe.meter_agent.sources.reading import Decoder as DeviceDecoder
from gridhe.meter_agent.sources.sml.decoder import SmlDecoder
from gridhe.meter_agent.sources.tic import TicDecoder
from gridhe_testing.ciphered import encipher
from gridhe_testing.d0_meter import readout_block
from gridhe_testing.decoder import Decoder, seeds_of
from gridhe_testing.han_decoder import han
from gridhe_testing.p1_telegrams import crc_of, telegram
from gridhe_testing.sml_meter import (
    Entry,
    fields,
    frame,
    message,
    message_of,
    signed,
    sml_frame,
    text,
    unsigned,
)
from gridhe_testing.tic_meter import historique, standard

__all__ = ["DEVICE_DECODERS", "streamed"]

_LONGEST = 8_192  # of an input: enough for a frame that is too long


def streamed(make: Callable[[], DeviceDecoder], good: bytes, data: bytes) -> None:
    """Feed `data`, whole and in pieces of the size that its first byte gives."""
    size, data = (data[0] % 50 + 1 if data else 1), data[1 : _LONGEST + 1]
    whole, parts = make(), make()
    at_once = whole.feed(data) + whole.pause()
    in_pieces = []
    for at in range(0, len(data), size):
        in_pieces += parts.feed(data[at : at + size])
        str(parts.waiting_for)
    in_pieces += parts.pause()
    assert in_pieces == at_once, "pieces give other readings"
    assert parts.faults == whole.faults, "pieces give other counts"
    behind = make()
    behind.feed(data)
    found = behind.feed(good) + behind.pause()
    assert found[-1:] == make().feed(good), "a good telegram behind it is lost"


def sml() -> Decoder:
    registers = [
        Entry(code=f"1-0:{c}.8.0*255", value=unsigned(7 + c, 4), status=unsigned(0x1C0104, 4)) for c in (1, 2)
    ]
    power = Entry(code="1-0:16.7.0*255", value=signed(-5, 2), unit=unsigned(27), scaler=signed(-2))
    good = sml_frame(*registers, power)
    rows = fields(*(each.encode() for each in (*registers, power)))
    content = fields(
        text(b"c"), text(b"server"), text(b"list"), fields(unsigned(1), unsigned(9, 4)), rows, b"\x01"
    )
    feed = partial(streamed, SmlDecoder, good)
    return Decoder(
        feeders=(
            feed,
            lambda data: feed(data[:1] + frame(data[1:])),
            lambda data: feed(data[:1] + frame(message_of(data[1:]))),
            lambda data: feed(data[:1] + frame(message(1, 0x701, data[1:]))),
        ),
        errors=(),
        seeds=seeds_of(
            (b"\0" + good, b"\7" + sml_frame(*registers, crc_kind="kermit") + good[:50]),
            b"\0" + message(1, 0x701, content),
            b"\0" + fields(unsigned(0x701, 2), content),
            b"\0" + content,
        ),
    )


def d0() -> Decoder:
    lines = (
        b"F.F(00)\r\nC.1(7755)\r\n1.8.0(000285.4*kWh)\r\n1-0:2.8.1*255(00120.1*kWh)(x)\r\n16.7(-0.8*kW)\r\n"
    )
    identification = b"/ELS5\\@V9.30 \r\n"
    good = identification + readout_block(lines)
    pushed = b"/ESY5Q3D\r\n\r\n" + lines + b"!\r\n"
    feed = partial(streamed, D0Decoder, good)
    return Decoder(
        feeders=(feed, lambda data: feed(data[:1] + identification + readout_block(data[1:]))),
        errors=(),
        seeds=seeds_of((b"\0" + good, b"\3" + pushed, b"\3" + good[:60] + pushed), b"\0" + lines),
    )


def tic() -> Decoder:
    groups = (("ADCO", "000000000007"), ("HCHC", "019571184"), ("HCHP", "024310022"))
    east = (("ADSC", "8"), ("DATE", "E240717120010", ""), ("EAST", "054321000"), ("EAIT", "001234567"))
    good = standard(*east)

    def inside(data: bytes) -> None:
        lines = [tuple(line.split("\t")) for line in data[1:].decode("latin-1").split("\n")]
        feed(data[:1] + (historique if data[:1] < b"\x80" else standard)(*lines))

    feed = partial(streamed, TicDecoder, good)
    return Decoder(
        feeders=(feed, inside),
        errors=(),
        seeds=seeds_of(
            (b"\0" + good, b"\5" + historique(*groups) + good[:40]),
            b"\xff" + "\n".join("\t".join(group) for group in east).encode(),
        ),
    )


def p1() -> Decoder:
    key, other = bytes(range(16)), bytes(range(16, 32))
    good = telegram()
    old = telegram("0-0:96.1.1(4530)", "1-0:1.8.1(08153.408*kWh)", "1-0:1.7.0(0000.30*kW)", checksum=None)

    def ciphered() -> CipheredP1Decoder:
        return CipheredP1Decoder(P1Decoder(), key=key, authentication_key=other)

    def checked(data: bytes) -> bytes:
        body = b"/TST5\\2\r\n\r\n" + data + b"\r\n!"
        return body + b"%04X\r\n" % crc_of(body)

    def plain(data: bytes) -> None:
        for restore in (False, True):
            streamed(partial(P1Decoder, restore_line_ends=restore), good, data)

    def opened(data: bytes) -> None:
        streamed(ciphered, encipher(good, key, other), data)

    return Decoder(
        feeders=(
            plain,
            lambda data: plain(data[:1] + checked(data[1:])),
            opened,
            lambda data: opened(data[:1] + encipher(data[1:], key, other)),
        ),
        errors=(),
        seeds=seeds_of(
            (b"\0" + good, b"\7" + old + good[:99], b"\7" + telegram(line_end="\n") + old[:50]),
            b"\0" + good[:-8],
            (b"\0" + encipher(good, key, other), b"\0" + encipher(good, key, other, long_length=True)[:99]),
            b"\0" + good,
        ),
    )


DEVICE_DECODERS: dict[str, Callable[[], Decoder]] = {
    "sml": sml,
    "d0": d0,
    "tic": tic,
    "p1": p1,
    "han": lambda: han(streamed),
}
