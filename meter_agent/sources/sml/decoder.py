"""Bytes of a meter that pushes SML (BSI TR-03109-1), to readings.

smllib and pysml do this too. smllib does not check the checksums of messages, loses frames with empty or
binary values, and is under the GPL; pysml finds no frame with CRC-16/KERMIT. A frame here counts only if its
checksum and that of every message in it are right, X-25 or KERMIT.
"""

import re
from collections import Counter

from gridhe.meter_agent.sources.reading import DeviceReading
from gridhe.meter_agent.sources.sml.frames import Frames
from gridhe.meter_agent.sources.sml.messages import MessageError, messages
from gridhe.meter_agent.sources.sml.registers import ListReader

__all__ = ["SmlDecoder"]

_TEXT_OF_D0 = re.compile(rb"/[A-Za-z]{3}[0-9A-Z]|\d\.\d\.\d[^\n]{0,40}\(")


class SmlDecoder:
    """A `Decoder` of SML."""

    def __init__(self, *, missing_unit_is_wh: bool = False) -> None:
        self.faults: Counter[str] = Counter()
        self._frames = Frames(self.faults)
        self._lists = ListReader(self.faults, missing_unit_is_wh=missing_unit_is_wh)
        self._read = False  # a reading came since the connection was opened
        self._text = False

    def feed(self, data: bytes) -> list[DeviceReading]:
        """Take the next bytes. Returns the readings of the frames that they complete."""
        if not self._frames.started:
            self._text |= _TEXT_OF_D0.search(data.translate(_SEVEN_BITS)) is not None
        return self._readings(self._frames.feed(data))

    def pause(self) -> list[DeviceReading]:
        """A frame has no pause: drop an unfinished one."""
        return self._readings(self._frames.drop())

    def reset(self) -> None:
        """Drop an unfinished frame."""
        self._frames.clear()
        self._read = self._text = False

    @property
    def waiting_for(self) -> str | None:
        """What is missing while no reading comes."""
        if self._read:
            return None
        if not self._frames.started and self._text:
            return "a start of an SML frame (this is text of IEC 62056-21: use source d0)"
        if not self._frames.started:
            return "a start of an SML frame"
        return "a complete SML frame with right checksums"

    def _readings(self, frames: list[bytes]) -> list[DeviceReading]:
        found = []
        for frame in frames:
            try:
                parts = messages(frame)
            except MessageError as error:
                self.faults[str(error)] += 1
                continue
            readings = [self._lists.reading(part) for part in parts]
            found += [reading for reading in readings if reading is not None]
        self._read |= bool(found)
        return found


_SEVEN_BITS = bytes(byte & 0x7F for byte in range(256))
