"""The transport layer of SML (BSI TR-03109-1, version 1): frames between escape sequences.

    1b1b1b1b 01010101  messages and filler  1b1b1b1b 1a  count of filler bytes  CRC, 2 bytes

1b1b1b1b inside the messages is sent twice. The CRC covers every byte before it, as sent.
"""

from collections import Counter

from gridhe.meter_agent.sources.sml.crc import frame_crcs

__all__ = ["ESCAPE", "FRAME_MAX", "START", "Frames"]

ESCAPE = b"\x1b" * 4
START = ESCAPE + b"\x01" * 4
FRAME_MAX = 8192  # bytes; meters send 200 to 1,000
_FILLER_MAX = 3


class Frames:
    """Finds the frames in a stream of any bytes.

    A damaged frame never takes the next one with it: whatever is wrong, the search goes on behind the damaged
    frame's own start, in the bytes that were kept. Bytes between frames are skipped without a count.
    """

    def __init__(self, faults: Counter[str]) -> None:
        self._faults = faults
        self._kept = (
            bytearray()
        )  # from a frame's start, if `inside`; else the last bytes, a start's beginning
        self._at = 0  # no escape sequence begins before
        self.inside = False
        self.started = False  # a frame's start came since the last `clear`

    def feed(self, data: bytes) -> list[bytes]:
        """The messages of each frame that `data` completes, with its filler cut off. At most FRAME_MAX bytes
        and the largest `data` are kept."""
        self._kept += data
        return self._scan()

    def drop(self) -> list[bytes]:
        """Give up the unfinished frame. Returns the frames that lay behind its start."""
        found: list[bytes] = []
        while self.inside:
            self._failed("incomplete")
            found += self._scan()
        self._kept.clear()
        return found

    def clear(self) -> None:
        """Drop everything kept, without a count."""
        self._kept.clear()
        self.inside = self.started = False

    def _failed(self, reason: str) -> None:
        self._faults[reason] += 1
        del self._kept[: len(START)]
        self.inside = False

    def _scan(self) -> list[bytes]:
        found: list[bytes] = []
        while self.inside or self._start():
            escape = self._kept.find(ESCAPE, self._at)
            self._at = escape if escape >= 0 else max(self._at, len(self._kept) - len(ESCAPE) + 1)
            if self._at > FRAME_MAX:
                self._failed("too_long")
            elif escape < 0 or len(self._kept) < escape + 8:
                break
            else:
                self._escaped(bytes(self._kept[escape + 4 : escape + 8]), found)
        return found

    def _start(self) -> bool:
        at = self._kept.find(START)
        if at < 0:
            del self._kept[: -len(START) + 1]
            return False
        del self._kept[:at]
        self.inside = self.started = True
        self._at = len(START)
        return True

    def _escaped(self, word: bytes, found: list[bytes]) -> None:
        """The escape sequence at `_at` is followed by `word`."""
        if word == ESCAPE:
            self._at += 8
        elif word == START[4:]:
            self._failed("incomplete")
        elif word[0] != 0x1A or word[1] > _FILLER_MAX:
            self._failed("escape")
        elif word[2:] not in frame_crcs(bytes(self._kept[: self._at + 6])):
            self._failed("frame_crc")
        else:
            inner = bytes(self._kept[len(START) : self._at]).replace(ESCAPE * 2, ESCAPE)
            found.append(inner[: len(inner) - word[1]])
            del self._kept[: self._at + 8]
            self.inside = False
