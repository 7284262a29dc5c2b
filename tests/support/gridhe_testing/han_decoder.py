"""The decoder of HAN pushes for fuzzing: as bytes come, and inside frames, joined parts and encryption."""

from collections.abc import Callable
from functools import partial
from zoneinfo import ZoneInfo

from gridhe.meter_agent.sources.ciphering import decipher
from gridhe.meter_agent.sources.han.decoder import HanDecoder
from gridhe.meter_agent.sources.han.energy import Agreements
from gridhe.meter_agent.sources.reading import Decoder as DeviceDecoder
from gridhe_testing.ciphered import encipher
from gridhe_testing.decoder import KEY, Decoder, seeds_of
from gridhe_testing.dlms_meter import (
    array,
    blocks,
    clock,
    code,
    escaped,
    hdlc,
    i8,
    mbus,
    mbus_segments,
    notification,
    octets,
    scaler,
    segments,
    structure,
    text,
    u16,
    u32,
)

__all__ = ["han"]

_KEY = KEY[:16]
_SEGMENT_MAX = 1_500


def _make() -> HanDecoder:
    return HanDecoder(
        agreements=Agreements(zone=ZoneInfo("Europe/Oslo")), decipher=lambda apdu: decipher(apdu, _KEY, None)
    )


def han(streamed: Callable[[Callable[[], DeviceDecoder], bytes, bytes], None]) -> Decoder:
    """`streamed(make, good, data)` feeds, and compares whole with pieces."""
    body = structure(
        text("AIDON_V0001"),
        structure(code("0-0:1.0.0"), octets(clock("2026-01-20 16:00:00", deviation=-60))),
        structure(code("1-0:1.8.0"), u32(0x7E7D), scaler(1)),
        structure(code("1-0:1.7.0"), u32(500), scaler(0, 27)),
    )
    kaifa = structure(octets(b"KFM_001"), octets(b"1"), octets(b"MA304"), *[u32(5)] * 10)
    swapped = structure(b"\x02\x03\x06\x09" + bytes((1, 0, 1, 8, 0, 255)) + u32(5) + scaler(0))
    untagged = structure(b"\x02\x02\x00\x03" + bytes((1, 0, 1, 8, 0, 255)) + b"\x02" + u32(5))
    compact = structure(text("LGZ"), bytes.fromhex("13 02 02 12 06 0c 0001 00000002 0003 00000004"))
    described = structure(
        array(*(structure(u16(3), code(f"1-0:{c}.8.0"), i8(2), u16(0)) for c in (1, 2))), u32(1), u32(2)
    )
    bodies = (body, kaifa, swapped, untagged, compact, described)
    apdu = notification(body)
    # No byte is 16: an M-Bus frame that was cut off may end at one (its check has 8 bits), and hide the rest.
    good = hdlc(notification(structure(text("LGZ"), code("1-0:1.8.0"), u32(7))))
    assert b"\x16" not in good
    feed = partial(streamed, _make, good)

    def framed(split: Callable[[bytes, int], list[bytes]], data: bytes) -> None:
        size = data[1] + 16 if len(data) > 1 else 16
        feed(data[:1] + b"".join(split(data[2:_SEGMENT_MAX], size)))

    return Decoder(
        feeders=(
            feed,
            lambda data: feed(data[:1] + hdlc(data[1:_SEGMENT_MAX])),
            lambda data: feed(data[:1] + hdlc(notification(data[1:_SEGMENT_MAX]))),
            lambda data: feed(data[:1] + hdlc(encipher(data[1:_SEGMENT_MAX], _KEY, control=0x20))),
            partial(framed, segments),
            partial(framed, blocks),
            partial(framed, mbus_segments),
        ),
        errors=(),
        seeds=seeds_of(
            (
                b"\0" + hdlc(apdu),
                b"\5" + escaped(hdlc(apdu)) + mbus(apdu),
                b"\7" + apdu,
                b"\1" + encipher(apdu, _KEY),
                b"\3" + b"".join(segments(apdu, 40)) + b"".join(blocks(apdu, 40)),
            ),
            b"\0" + apdu,
            tuple(b"\0" + each for each in bodies),
            b"\0" + apdu,
            b"\0\x20" + apdu,
            b"\0\x20" + apdu,
            b"\0\x20" + apdu,
        ),
    )
