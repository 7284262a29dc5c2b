"""Bytes of an optical head, to the readings of a meter that speaks IEC 62056-21 (D0)."""

from collections import Counter

from gridhe.meter_agent.sources.d0.lines import Readout
from gridhe.meter_agent.sources.d0.readouts import Readouts
from gridhe.meter_agent.sources.d0.registers import RegisterReader
from gridhe.meter_agent.sources.reading import DeviceReading

__all__ = ["D0Decoder"]

_SML = b"\x1b\x1b\x1b\x1b\x01\x01\x01\x01"


class D0Decoder:
    """A `Decoder` of readouts in the modes A, B, C and D."""

    def __init__(self, *, missing_unit: str | None = None) -> None:
        self.faults: Counter[str] = Counter()
        self._readouts = Readouts(self.faults)
        self._registers = RegisterReader(self.faults, missing_unit=missing_unit)
        self._read = self._sml = False

    def feed(self, data: bytes) -> list[DeviceReading]:
        """Take the next bytes. Returns the readings of the readouts that they complete."""
        self._sml |= _SML in data
        return self._readings(self._readouts.feed(data))

    def pause(self) -> list[DeviceReading]:
        """Complete a readout whose last line has no end, drop one that is not finished."""
        return self._readings(self._readouts.pause())

    def reset(self) -> None:
        """Drop an unfinished readout."""
        self._readouts.clear()
        self._read = self._sml = False

    @property
    def identification(self) -> bytes | None:
        """Of the readout that is being received, from its own line on: b"ELS5\\\\@V9.30 "."""
        return self._readouts.identification

    @property
    def waiting_for(self) -> str | None:
        """What is missing while no reading comes."""
        if self._read:
            return None
        if self.faults["p1_telegram"]:
            return "a readout of IEC 62056-21 (these are P1 telegrams: use source p1)"
        if self._sml:
            return "a readout of IEC 62056-21 (these are SML frames: use source sml)"
        if not self._readouts.started:
            return "a meter's identification (/ABC5...)"
        return "a complete readout with energy registers"

    def _readings(self, readouts: list[Readout]) -> list[DeviceReading]:
        readings = [self._registers.reading(readout) for readout in readouts]
        found = [reading for reading in readings if reading is not None]
        self._read |= bool(found)
        return found
