"""The frames of pushes: HDLC frame format type 3 (IEC 62056-46) and wired M-Bus long frames (EN 13757-2).

    HDLC    7e | a|S|length (11 bits) | destination | source | control | HCS | information | FCS | 7e
            The length counts all between the flags. S: more segments follow. HCS and FCS are CRC-16/X-25 of
            all before them, low byte first. One 7e may end a frame and start the next. The meters send 7e and
            7d in the information as they are; some gateways escape them (7d, byte XOR 20) after the length
            was set.
    M-Bus   68 L L 68 | C | A | CI | STSAP | DTSAP | data | sum of the bytes from C on | 16
            L counts from C to the data. CI: bit 4 is set in the last segment, bits 0 to 3 number them.
            Sagemcom's Austrian meters send 257 counted bytes as L = 1.

Every start byte opens a candidate, which becomes a frame if its lengths, checks and end mark are right. The
frame that ends first wins: candidates before it were cut off, those inside it are data. So a frame that was
cut off never hides the next one, a start byte inside data does no harm, and the pieces in which bytes arrive
do not matter.
"""

import re
from collections import Counter
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Literal, NamedTuple

from gridhe.meter_agent.sources.han.x25 import x25

__all__ = ["Framing", "HanFrame", "Scanner"]

Framing = Literal["hdlc", "mbus"]

_FLAG, _ESCAPE, _LONG, _STOP = 0x7E, 0x7D, 0x68, 0x16
_ESCAPED_MAX = 2 * 0x7FF + 2
_ADDRESS_MAX = 4
_MBUS_HEAD = 5  # C, A, CI, STSAP, DTSAP
_MBUS_DATA = (0x53, 0x73, 0x08, 0x18, 0x28, 0x38)  # C of user data; the sum alone is a weak check
_MBUS_DLMS = range(0x20)  # CI of DLMS segments
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
    size: int  # look again at this many bytes
    sure: bool = False  # the header's own check was right


class _Bad(NamedTuple):
    reason: str


_Look = _Found | _Wait | _Bad | None  # None: no frame starts here


def _plain_hdlc(data: bytes) -> _Look:
    """`data` starts with 7e and ends where the last look said."""
    have = len(data)
    if have < 3:
        return None if have == 2 and data[1] & 0xF0 != 0xA0 else _Wait(have + 1)
    length = (data[1] & 0x07) << 8 | data[2]
    at = 3
    for _ in range(2):
        for width in range(_ADDRESS_MAX + 1):
            if width == _ADDRESS_MAX:
                return None
            if at >= have:
                return _Wait(at + 1)
            at += 1
            if data[at - 1] & 1:  # the last byte of an address
                break
    header = at + 1  # one past the control byte
    if length < header - 1 + 2:
        return None
    if have < header + 2:
        return _Wait(header + 2)
    if x25(data[1:header]) != data[header : header + 2]:
        return _Bad("crc")
    end = 1 + length
    if have <= end:
        return _Wait(end + 1, sure=True)
    if data[end] != _FLAG or x25(data[1 : end - 2]) != data[end - 2 : end]:
        return _Bad("crc")
    frame = HanFrame(
        framing="hdlc",
        addresses=data[3:at],
        information=data[header + 2 : end - 2],
        more=bool(data[1] & 0x08),
    )
    return _Found(frame, end)


def _escaped_hdlc(data: bytes) -> _Look:
    """`data` reaches from one 7e to the next."""
    first, *rest = data[:-1].split(b"\x7d")
    if not rest or any(not piece for piece in rest):  # no escapes, or one before another
        return None
    plain = first + b"".join(bytes((piece[0] ^ 0x20,)) + piece[1:] for piece in rest) + data[-1:]
    look = _plain_hdlc(plain)
    if isinstance(look, _Found) and look.size == len(plain) - 1:
        return _Found(look.frame, len(data) - 1)
    return None  # the candidate of the plain form counts the fault


def _mbus(data: bytes) -> _Look:
    if len(data) < 4:
        return _Wait(4)
    length = data[1]
    if data[2] != length or data[3] != _LONG:
        return None
    if length < _MBUS_HEAD:
        length += 256
    size = length + 6
    if len(data) < 7:
        return _Wait(7)
    control = data[6]
    if data[4] not in _MBUS_DATA or control not in _MBUS_DLMS:
        return None
    if len(data) < size:
        return _Wait(size, sure=True)
    body = data[4 : 4 + length]
    if data[-1] != _STOP or sum(body) & 0xFF != data[-2]:
        return _Bad("checksum")
    frame = HanFrame(
        framing="mbus",
        addresses=bytes((body[1], body[3], body[4])),
        information=body[_MBUS_HEAD:],
        more=not control & 0x10,
        number=control & 0x0F,
    )
    return _Found(frame, size)


class _Candidate(NamedTuple):
    end: int  # one past the last byte of the next look
    start: int
    kind: int
    sure: bool


_KINDS = (_plain_hdlc, _escaped_hdlc, _mbus)
_PLAIN, _ESCAPED, _MBUS = range(3)


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
        self._candidates: list[_Candidate] = []  # a heap
        self._flag: int | None = None  # the last 7e, where an escaped frame may start
        self._bad: dict[int, str] = {}  # start: reason; counted unless a good frame contains it

    @property
    def inside(self) -> bool:
        """Whether a frame with a good header is unfinished."""
        return any(candidate.sure for candidate in self._candidates)

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
            self._open(match.start())
        frames = []
        while self._candidates and self._candidates[0].end <= len(self._data):
            end, start, kind, _ = heappop(self._candidates)
            look = _KINDS[kind](bytes(self._data[start:end]))
            if isinstance(look, _Wait):
                heappush(self._candidates, _Candidate(start + look.size, start, kind, look.sure))
            elif isinstance(look, _Bad):
                self._bad[start] = look.reason
            elif look is not None:
                frames.append(look.frame)
                self._drop(start, start + look.size)
        self._trim()
        return frames

    def _open(self, start: int) -> None:
        if self._data[start] == _LONG:
            heappush(self._candidates, _Candidate(start + 4, start, _MBUS, False))
            return
        if self._flag is not None and start - self._flag <= _ESCAPED_MAX:
            heappush(self._candidates, _Candidate(start + 1, self._flag, _ESCAPED, False))
        heappush(self._candidates, _Candidate(start + 2, start, _PLAIN, False))
        self._flag = start

    def _drop(self, start: int, end: int) -> None:
        """A good frame from `start` to `end`: candidates before it were cut off, those inside are data."""
        for cut_off in {each.start for each in self._candidates if each.start < start and each.sure}:
            self._bad[cut_off] = "incomplete"
        self._count_bad(start)
        self._bad = {at: reason for at, reason in self._bad.items() if at >= end}
        self._candidates = [each for each in self._candidates if each.start >= end]
        heapify(self._candidates)
        if self._flag is not None and self._flag < end:
            self._flag = None

    def _count_bad(self, before: int) -> None:
        for start in [start for start in self._bad if start < before]:
            self._faults[self._bad.pop(start)] += 1

    def _trim(self) -> None:
        """Forget what no candidate needs."""
        if self._flag is not None and len(self._data) - self._flag > _ESCAPED_MAX:
            self._flag = None
        first = min((each.start for each in self._candidates), default=len(self._data))
        if self._flag is not None:
            first = min(first, self._flag)
        self._count_bad(first)
        if first:
            del self._data[:first]
            self._candidates = [
                each._replace(end=each.end - first, start=each.start - first) for each in self._candidates
            ]
            self._bad = {start - first: reason for start, reason in self._bad.items()}
            self._flag = None if self._flag is None else self._flag - first
