"""P1 telegrams to readings: a decoder of our own.

dsmr-parser (1.11) is the well-known library. It skips a register without a value and goes on, so that the sum
of the tariffs falls by megawatt-hours; its buffer does not see a checksum in lower case; it converts every
time stamp, also those that no reading needs; and it does not read telegrams without a known specification.

A telegram counts if its checksum matches, compared as a number:

    as it came, else without bit 7 (7E1 read as 8N1), else with CRLF for LF (text logs, network bridges: only
    where `restore_line_ends` says so; on a serial port it means that bytes were changed)

A telegram that was cut off in the middle of a line may have swallowed the next one's start. So if the whole
does not match, the part from its last headers on is tried.

DSMR 2.2, 3 and some later ports (Croatia) have no checksum. They count if every line is well-formed and every
character's parity is right where there is parity. Versions that have one (all that send a version line or
0-0:1.0.0) and meters that sent one before must send one.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from datetime import tzinfo

from gridhe.meter_agent.sources.p1.content import Content, is_plain, reading_of
from gridhe.meter_agent.sources.p1.crc import crc16_arc
from gridhe.meter_agent.sources.p1.frames import SEVEN_BITS, Frame, Framer
from gridhe.meter_agent.sources.reading import DeviceReading

__all__ = ["P1Decoder"]

_HEADER = re.compile(rb"/(?=[A-Za-z]{3}[^\r\n]{0,80}\r?\n)")  # noise before it may have a "/" too
_RETRIES = 3
_MAKES = 16
_EVEN = bytes(byte for byte in range(256) if byte.bit_count() % 2 == 0)
# A ciphered message's tag, and the length and first letters of its system title, the maker's.
_CIPHERED = re.compile(rb"[\xdb\xdc]\x08[A-Z]{3}")
_CIPHERED_BYTES = 5


class P1Decoder:
    """A `Decoder` of P1 ports that are not encrypted.

    Faults: crc, framing, cut_off, too_long, lf_only (line ends without CR), no_crc (a checksum is missing),
    malformed (a telegram of a version without checksum is damaged), no_register, empty_register, no_key
    (encrypted).
    """

    def __init__(self, *, zone: tzinfo | None = None, restore_line_ends: bool = False) -> None:
        """`zone`: of the meter's clock, see `clock`."""
        self.faults: Counter[str] = Counter()
        self._zone = zone
        self._restore = restore_line_ends
        self._framer = Framer()
        self._checked: OrderedDict[str, None] = OrderedDict()  # headers of meters that sent a checksum
        self._recent = b""
        self._is_ciphered = False

    def feed(self, data: bytes) -> list[DeviceReading]:
        """See `Decoder`."""
        readings = list(self._readings(self._framer.feed(data)))
        ciphered = len(_CIPHERED.findall(self._recent + data))
        self._recent = (self._recent + data)[-_CIPHERED_BYTES + 1 :]
        if ciphered:
            self.faults["no_key"] += ciphered
        self._is_ciphered = (self._is_ciphered or ciphered > 0) and not readings
        return readings

    def pause(self) -> list[DeviceReading]:
        """See `Decoder`."""
        return list(self._readings(self._framer.pause()))

    def reset(self) -> None:
        """See `Decoder`."""
        self.faults.update(self._framer.reset())
        self._recent = b""

    @property
    def waiting_for(self) -> str | None:
        """See `Decoder`."""
        return (
            "the key: telegrams are encrypted (key_file=...)"
            if self._is_ciphered
            else self._framer.waiting_for
        )

    def _readings(self, frames: Iterable[Frame | str]) -> Iterator[DeviceReading]:
        for frame in frames:
            body = self._body(frame) if isinstance(frame, Frame) else frame
            if isinstance(body, Content):
                self._framer.passed()
            result = body if isinstance(body, str) else reading_of(body, self._zone)
            if isinstance(result, str):
                self.faults[result] += 1
            else:
                yield result

    def _body(self, frame: Frame) -> Content | str:
        """The content of a telegram that passes its check, or the reason of one that does not."""
        if not frame.digits:
            return self._unchecked(frame.raw)
        crc = int(frame.digits, 16)
        for start in _starts(frame.raw):
            for body, is_restored in _variants(frame.raw[start:]):
                if crc16_arc(body + b"!") == crc:
                    if is_restored and not self._restore:
                        return "lf_only"
                    content = Content.parse(body)
                    self._checked[content.header] = None
                    self._checked.move_to_end(content.header)
                    if len(self._checked) > _MAKES:
                        self._checked.popitem(last=False)
                    return content
        return "crc"

    def _unchecked(self, raw: bytes) -> Content | str:
        if not raw.isascii():
            if raw.translate(None, _EVEN):
                return "malformed"
            raw = raw.translate(SEVEN_BITS)
        header = next(reversed(list(_HEADER.finditer(raw))), None)
        if header is None:
            return "malformed"
        content = Content.parse(raw[header.start() :])
        if content.is_due_a_checksum or content.header in self._checked:
            return "no_crc"
        if b"\r" not in raw and not self._restore:
            return "lf_only"
        return content if is_plain(content) else "malformed"


def _starts(raw: bytes) -> Iterator[int]:
    """Where the telegram may begin: at the first byte, else at one of the last headers."""
    yield 0
    found = [match.start() for match in _HEADER.finditer(raw.translate(SEVEN_BITS), 1)]
    yield from reversed(found[-_RETRIES:])


def _variants(raw: bytes) -> Iterator[tuple[bytes, bool]]:
    """The bytes that the checksum may cover, and whether CRs were restored in them."""
    plain = raw.translate(SEVEN_BITS)
    yield raw, False
    if plain != raw:
        yield plain, False
    if b"\r" not in plain:
        yield plain.replace(b"\n", b"\r\n"), True
