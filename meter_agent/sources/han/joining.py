"""Joins what meters split: HDLC segments, M-Bus segments, and the blocks of a general block transfer.

HDLC segments have no number. The first one starts with the LLC header e6 e7 00 (or e6 e6 00, e6 e7 01); a
lost one is noticed because a new header comes, or because the content does not end where its structure does.
General block transfer (IEC 62056-5-3): e0 | control (bit 7: last block) | number (2) | acknowledged (2)
| length | data. Blocks are numbered from 1.
"""

from collections import Counter

from gridhe.errors import RemoteError
from gridhe.meter_agent.sources.han.apdu import STARTS
from gridhe.meter_agent.sources.han.axdr import Reader
from gridhe.meter_agent.sources.han.frames import HanFrame

__all__ = ["APDU_MAX", "Joiner", "is_llc"]

APDU_MAX = 16 * 1024  # the largest known push has 1 KB

_BLOCK = 0xE0
_LAST_BLOCK = 0x80


def is_llc(start: bytes) -> bool:
    """Whether these 3 bytes are the LLC header of a DLMS message."""
    return len(start) == 3 and start[0] == 0xE6 and start[1] in (0xE6, 0xE7)


class Joiner:
    """Takes frames, gives application data units (APDUs). Keeps at most 2 * APDU_MAX bytes."""

    def __init__(self, faults: Counter[str]) -> None:
        self._faults = faults
        self.reset()

    def reset(self) -> None:
        """Drop unfinished parts."""
        self._segments = bytearray()
        self._addresses = b""
        self._next_segment = 0
        self._blocks = bytearray()
        self._next_block = 1

    @property
    def inside(self) -> bool:
        """Whether a segment or block is missing."""
        return bool(self._segments or self._blocks)

    def feed(self, frame: HanFrame) -> bytes | None:
        """The APDU that the frame completes. Parts that do not fit together are dropped and counted."""
        try:
            whole = self._segment(frame)
            if whole and whole[0] == _BLOCK:
                whole = self._block(whole)
        except RemoteError as error:
            self._faults[error.reason] += 1
            return None
        return whole or None

    def _segment(self, frame: HanFrame) -> bytes | None:
        part = frame.information
        if frame.framing == "hdlc":
            first = is_llc(part[:3])
            part = part[3:] if first else part
            first = first or (not self._segments and part[:1] != b"" and part[0] in (*STARTS, _BLOCK))
        else:
            first = frame.number == 0
        if first:
            if self._segments:
                self._faults["segment"] += 1
            self._segments.clear()
            self._addresses = frame.addresses
        elif (
            not self._segments
            or frame.addresses != self._addresses
            or frame.number not in (None, self._next_segment)
        ):
            self._segments.clear()
            raise RemoteError("segment", "a segment is missing")
        if len(self._segments) + len(part) > APDU_MAX:
            self._segments.clear()
            raise RemoteError("too_long", f"segments of more than {APDU_MAX} bytes")
        self._segments += part
        self._next_segment = 0 if frame.number is None else (frame.number + 1) % 16
        if frame.more:
            return None
        whole = bytes(self._segments)
        self._segments.clear()
        return whole

    def _block(self, apdu: bytes) -> bytes | None:
        reader = Reader(apdu)
        control, number = reader.take(2)[1], reader.number(2)
        reader.take(2)
        data = reader.octets()
        reader.end()
        if number == 1:
            if self._blocks:
                self._faults["segment"] += 1
            self._blocks.clear()
        elif number != self._next_block or not self._blocks:
            self._blocks.clear()
            raise RemoteError("segment", "a block is missing")
        if len(self._blocks) + len(data) > APDU_MAX:
            self._blocks.clear()
            raise RemoteError("too_long", f"blocks of more than {APDU_MAX} bytes")
        self._blocks += data
        self._next_block = number + 1
        if not control & _LAST_BLOCK:
            return None
        whole = bytes(self._blocks)
        self._blocks.clear()
        return whole
