"""The frames of pushes: HDLC frame format type 3 (IEC 62056-46) and wired M-Bus long frames (EN 13757-2).

    HDLC    7e | a|S|length (11 bits) | destination | source | control | HCS | information | FCS | 7e
            The length counts all between the flags. S: more segments follow. HCS and FCS are CRC-16/X-25 of
            all before them, low byte first. One 7e may end a frame and start the next. The meters send 7e and
            7d in the information as they are; some gateways escape them (7d, byte XOR 20) after the length
            was set.
    M-Bus   68 L L 68 | C | A | CI | STSAP | DTSAP | data | sum of the bytes from C on | 16
            L counts from C to the data. CI: bit 4 is set in the last segment, bits 0 to 3 number them.
            Sagemcom's Austrian meters send 257 counted bytes as L = 1.

Every start byte opens a candidate, which becomes a frame if its lengths, checks and end mark are right; all
candidates inside it are dropped then. So a frame that was cut off never hides the next one, and a start byte
inside data does no harm.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gridhe.meter_agent.sources.han.x25 import x25

__all__ = ["Framing", "HanFrame", "Scanner"]

Framing = Literal["hdlc", "mbus"]

_FLAG, _ESCAPE, _LONG, _STOP = 0x7E, 0x7D, 0x68, 0x16
_HDLC_SHORTEST = 7  # format, two addresses, control, check
_ESCAPED_MAX = 2 * 0x7FF + 2
_ADDRESS_MAX = 4
_MBUS_HEAD = 5  # C, A, CI, STSAP, DTSAP
_PIECE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HanFrame:
    """One frame whose checks are right."""

    framing: Framing
    addresses: bytes  # of both ends, as they stand in the frame
    information: bytes
    more: bool  # further segments follow
    number: int | None = None  # of the segment, modulo 16; HDLC has none


class _Found(NamedTuple):
    frame: HanFrame
    size: int  # from the start byte to the end mark; a closing 7e is not counted, it may open the next frame


class _Wait(NamedTuple):
    size: int  # look again when this many bytes are there
    sure: bool = False  # the header's own check was right


class _Bad(NamedTuple):
    reason: str


_Look = _Found | _Wait | _Bad | None  # None: no frame starts here


def _plain_hdlc(data: bytearray, start: int) -> _Look:
    have = len(data) - start
    if have < 2:
        return _Wait(2)
    if data[start + 1] & 0xF0 != 0xA0:
        return None
    if have < 3:
        return _Wait(3)
    length = (data[start + 1] & 0x07) << 8 | data[start + 2]
    at = start + 3
    for _ in range(2):
        for width in range(_ADDRESS_MAX + 1):
            if width == _ADDRESS_MAX:
                return None
            if at >= len(data):
                return _Wait(at - start + 1)
            at += 1
            if data[at - 1] & 1:  # the last byte of an address
                break
    header = at + 1  # one past the control byte
    if length < _HDLC_SHORTEST or start + 1 + length < header + 2:
        return None
    if len(data) < header + 2:
        return _Wait(header + 2 - start)
    if x25(data[start + 1 : header]) != data[header : header + 2]:
        return _Bad("crc")
    end = start + 1 + length
    if len(data) <= end:
        return _Wait(end + 1 - start, sure=True)
    if data[end] != _FLAG or x25(data[start + 1 : end - 2]) != data[end - 2 : end]:
        return _Bad("crc")
    frame = HanFrame(
        framing="hdlc",
        addresses=bytes(data[start + 3 : at]),
        information=bytes(data[header + 2 : end - 2]),
        more=bool(data[start + 1] & 0x08),
    )
    return _Found(frame, end - start)


def _escaped_hdlc(data: bytearray, start: int) -> _Look:
    end = data.find(_FLAG, start + 1, start + 1 + _ESCAPED_MAX)
    have = len(data) - start
    if end < 0:
        return _Wait(have + 1) if have <= _ESCAPED_MAX else None
    if data.find(_ESCAPE, start + 1, end) < 0:
        return None
    pieces = data[start + 1 : end].split(b"\x7d")
    if any(not piece for piece in pieces[1:]):  # an escape before an escape, or before the flag
        return None
    plain = bytearray((_FLAG,)) + pieces[0]
    for piece in pieces[1:]:
        plain.append(piece[0] ^ 0x20)
        plain += piece[1:]
    plain.append(_FLAG)
    look = _plain_hdlc(plain, 0)
    if isinstance(look, _Found) and look.size == len(plain) - 1:
        return _Found(look.frame, end - start)
    return None  # the candidate of the plain form counts the fault


def _mbus(data: bytearray, start: int) -> _Look:
    have = len(data) - start
    if have < 4:
        return _Wait(4)
    length = data[start + 1]
    if data[start + 2] != length or data[start + 3] != _LONG:
        return None
    if length < _MBUS_HEAD:
        length += 256
    size = length + 6
    if have < size:
        return _Wait(size, sure=True)
    body = data[start + 4 : start + 4 + length]
    if data[start + size - 1] != _STOP or sum(body) & 0xFF != data[start + size - 2]:
        return _Bad("checksum")
    control = body[2]
    frame = HanFrame(
        framing="mbus",
        addresses=bytes((body[1], body[3], body[4])),
        information=bytes(body[_MBUS_HEAD:]) if control < 0x20 else b"",  # other CI: no DLMS
        more=not control & 0x10,
        number=control & 0x0F,
    )
    return _Found(frame, size)


_KINDS: dict[int, tuple[Callable[[bytearray, int], _Look], ...]] = {
    _FLAG: (_plain_hdlc, _escaped_hdlc),
    _LONG: (_mbus,),
}


@dataclass(slots=True)
class _Candidate:
    start: int
    look: Callable[[bytearray, int], _Look]
    wait: _Wait


class Scanner:
    """Finds frames in a stream of any bytes. Keeps at most about 5 KB: the longest frame and one piece."""

    def __init__(self, framings: tuple[Framing, ...], faults: Counter[str]) -> None:
        marks = bytes({"hdlc": _FLAG, "mbus": _LONG}[framing] for framing in framings)
        self._starts = re.compile(b"[" + re.escape(marks) + b"]")
        self._faults = faults
        self.reset()

    def reset(self) -> None:
        """Drop an unfinished frame."""
        self._data = bytearray()
        self._candidates: list[_Candidate] = []
        self._bad: dict[int, str] = {}  # start: reason; counted unless a good frame contains it

    @property
    def inside(self) -> bool:
        """Whether a frame with a good header is unfinished."""
        return any(candidate.wait.sure for candidate in self._candidates)

    def feed(self, data: bytes) -> list[HanFrame]:
        """Take the next bytes, in pieces of any size. Returns the frames that they complete, in order."""
        frames = []
        for at in range(0, len(data), _PIECE):
            frames += self._feed(data[at : at + _PIECE])
        return frames

    def _feed(self, data: bytes) -> list[HanFrame]:
        scanned = len(self._data)
        self._data += data
        for match in self._starts.finditer(self._data, scanned):
            self._candidates += [
                _Candidate(match.start(), look, _Wait(1)) for look in _KINDS[self._data[match.start()]]
            ]
        frames = []
        at = 0
        while at < len(self._candidates):
            candidate = self._candidates[at]
            if len(self._data) - candidate.start < candidate.wait.size:
                at += 1
                continue
            look = candidate.look(self._data, candidate.start)
            if isinstance(look, _Wait):
                candidate.wait = look
                at += 1
            elif isinstance(look, _Found):
                frames.append(look.frame)
                self._drop(candidate.start, candidate.start + look.size)
                at = 0
            else:
                if isinstance(look, _Bad):
                    self._bad[candidate.start] = look.reason
                del self._candidates[at]
        self._trim()
        return frames

    def _drop(self, start: int, end: int) -> None:
        """A good frame from `start` to `end`: candidates before it were cut off, those inside are data."""
        for cut_off in {each.start for each in self._candidates if each.start < start and each.wait.sure}:
            self._bad[cut_off] = "incomplete"
        self._count_bad(start)
        self._bad = {at: reason for at, reason in self._bad.items() if at >= end}
        self._candidates = [each for each in self._candidates if each.start >= end]

    def _count_bad(self, before: int) -> None:
        for start in [start for start in self._bad if start < before]:
            self._faults[self._bad.pop(start)] += 1

    def _trim(self) -> None:
        """Forget what no candidate needs."""
        first = min((each.start for each in self._candidates), default=len(self._data))
        self._count_bad(first)
        if first:
            del self._data[:first]
            for each in self._candidates:
                each.start -= first
            self._bad = {start - first: reason for start, reason in self._bad.items()}
