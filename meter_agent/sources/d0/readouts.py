"""The readouts in what an optical head receives (IEC 62056-21, also DIN EN 61107).

    request and answer (modes A, B, C):   /ELS5\\@V9.30 CR LF   STX lines ! CR LF ETX BCC
    sent without request (mode D):        /ESY5Q3DB1024 CR LF   CR LF lines ! CR LF

BCC is the exclusive or of every character after STX, ETX included. It misses one damage in 128, and mode D
has none: so the lines also have to have the form of data sets.
"""

import re
from collections import Counter

import numpy as np

from gridhe.meter_agent.sources.d0.lines import Readout, data_sets
from gridhe.meter_agent.sources.parity import SEVEN_BITS, sound

__all__ = ["READOUT_MAX", "Readouts"]

READOUT_MAX = 16_384  # bytes; a readout of this size takes nine minutes at 300 baud
_IDENTIFICATION = re.compile(rb"/([A-Za-z]{3}[\x22-\x2e\x30-\x7e][\x20\x22-\x2e\x30-\x7e]{0,32})\r?\n")
_NEXT = re.compile(rb"[\r\n]" + _IDENTIFICATION.pattern)  # at the start of a line: of another readout
_UNFINISHED = re.compile(rb"/[^/\r\n]{0,40}\r?\Z")
_STX, _ETX = 2, 3
_NOISE_MAX = 64  # bytes between identification and block
_LINE_END = re.compile(rb"[\r\n/]")
_BEHIND_END = re.compile(rb"[\x20-\x2e\x30-\x7e]{0,8}[\r\n]*")
_P1_CRC = re.compile(rb"[0-9A-Fa-f]{4}")


class Readouts:
    """Finds the readouts in a stream of any bytes.

    A damaged readout never takes the next one with it: the search goes on behind its first character.
    """

    def __init__(self, faults: Counter[str]) -> None:
        self._faults = faults
        self._kept = bytearray()  # from a readout's identification, or a beginning of one
        self._text = bytearray()  # the same in seven bits
        self._body_at = 0
        self.started = False  # an identification came since the last `clear`
        self.identification: bytes | None = None  # of the readout that is being received: b"ELS5\\@V9.30 "

    def feed(self, data: bytes) -> list[Readout]:
        """The readouts that `data` completes.

        At most READOUT_MAX bytes and the largest `data` are kept.
        """
        self._kept += data
        self._text += data.translate(SEVEN_BITS)
        found: list[Readout] = []
        while self.identification is not None or self._start():
            outcome = self._outcome(paused=False)
            if outcome is None and len(self._text) < READOUT_MAX:
                break
            self._done(outcome or "too_long", found)
        return found

    def pause(self) -> list[Readout]:
        """The readouts that are complete if nothing follows; drops what is not."""
        found: list[Readout] = []
        while self.identification is not None or self._start():
            self._done(self._outcome(paused=True) or "incomplete", found)
        self._cut(len(self._kept))
        return found

    def clear(self) -> None:
        """Drop everything kept, without a count."""
        self._cut(len(self._kept))
        self.started = False

    def _cut(self, size: int) -> None:
        del self._kept[:size], self._text[:size]
        self.identification = None

    def _start(self) -> bool:
        match = _IDENTIFICATION.search(self._text)
        if match is None:
            unfinished = _UNFINISHED.search(self._text, max(0, len(self._text) - 42))
            self._cut(unfinished.start() if unfinished else len(self._text))
            return False
        self._cut(match.start())
        self.started = True
        self.identification, self._body_at = bytes(match[1]), match.end() - match.start()
        return True

    def _done(self, outcome: tuple[Readout, int] | str, found: list[Readout]) -> None:
        if isinstance(outcome, str):
            self._faults[outcome] += 1
            self._cut(1)
        else:
            found.append(outcome[0])
            self._cut(outcome[1])

    def _outcome(self, *, paused: bool) -> tuple[Readout, int] | str | None:
        """The readout at the start and its size, or the reason why there is none; None: wait."""
        at = self._body_at
        another = _NEXT.search(self._text, at - 1, READOUT_MAX)
        limit = another.start() + 1 if another else READOUT_MAX
        # Before the block come zeros and noise while the baud rate changes, and the acknowledgement in a head
        # that receives what it sends.
        mark = self._text.find(b"!", at, at + _NOISE_MAX)
        until = min(limit, mark if mark >= 0 else at + _NOISE_MAX)
        stx = self._text.find(_STX, at, until)
        if _IDENTIFICATION.search(self._text, at, stx if stx >= 0 else until):
            return "incomplete"
        closed = paused or another is not None
        if stx >= 0:
            outcome = self._block(stx + 1, limit)
        elif self._text[at : at + 1].isspace():
            outcome = self._pushed(at, limit, closed=closed)
        elif not closed:
            return None
        elif _ETX in self._text[at:limit]:
            return "no_block"  # its STX was lost
        else:  # some meters leave out STX, ETX and BCC
            outcome = self._pushed(at, limit, closed=closed)
        return outcome or ("incomplete" if another else None)

    def _block(self, at: int, limit: int) -> tuple[Readout, int] | str | None:
        etx = self._text.find(_ETX, at, limit)
        if etx < 0 or len(self._text) < etx + 2:
            return None
        if not sound(bytes(self._kept[at - 1 : etx + 2])):
            return "parity"
        if np.bitwise_xor.reduce(np.frombuffer(bytes(self._text[at : etx + 2]), np.uint8)) != 0:
            return "bcc"
        end = self._text.find(b"!", at, etx)
        if end < 0 or not _BEHIND_END.fullmatch(self._text, end + 1, etx):
            return "no_end"
        sets = data_sets(self._text[at:end].decode(), strict=False)
        return "bad_line" if sets is None else (Readout(sets, True), etx + 2)

    def _pushed(self, at: int, limit: int, *, closed: bool) -> tuple[Readout, int] | str | None:
        end = self._text.find(b"!", at, limit)
        line_end = _LINE_END.search(self._text, end + 1, limit) if end >= 0 else None
        if end < 0 or (line_end is None and not closed):
            return None
        size = line_end.start() if line_end else min(limit, len(self._text))
        if _P1_CRC.fullmatch(self._text, end + 1, size):
            return "p1_telegram"
        if not sound(bytes(self._kept[:end])):
            return "parity"
        sets = data_sets(self._text[at:end].decode(), strict=True)
        return "bad_line" if sets is None else (Readout(sets, False), size)
