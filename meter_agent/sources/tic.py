"""Linky's customer port (TIC), by Enedis-NOI-CPT_54E: mode historique and mode standard.

A frame is STX, groups, ETX, one every one to two seconds. A group is LF, label, separator, value, separator,
checksum, CR; in mode standard some have a time stamp between label and value. Separators are spaces in mode
historique, tabs in mode standard. The checksum is the sum of the characters, in six bits, plus 0x20: from the
label to the value in mode historique, and with the separator behind the value in mode standard.

PAPP and SINSTS are apparent power (VA), no power in W.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import Field

from gridhe.meter_agent.sources.driver import Device, Sink
from gridhe.meter_agent.sources.parity import SEVEN_BITS, sound
from gridhe.meter_agent.sources.reading import DeviceReading, Register
from gridhe.meter_agent.sources.settings import SerialSettings
from gridhe.meter_agent.sources.transports.serial_port import SerialLine
from gridhe.meter_agent.sources.transports.stream import run_stream

__all__ = ["FRAME_MAX", "Settings", "TicDecoder", "open_device"]

FRAME_MAX = 4_096  # bytes; frames have 150 to 1,000
CLOCK_NOT_SET = "the meter's clock is not set: readings are dated by this computer's clock"

_STX, _ETX = 2, 3
_BAUD = {"historique": 1200, "standard": 9600}
_LINE = re.compile(rb"[^\r\x8d]+[\r\x8d]?")
_GROUP = re.compile(rb"\n([^\r\n]{5,200})\r")
# The registers of each contract in mode historique: the import is the sum of all of one contract, or unknown.
_CONTRACTS = (
    ("BASE",),
    ("HCHC", "HCHP"),
    ("EJPHN", "EJPHPM"),
    ("BBRHCJB", "BBRHPJB", "BBRHCJW", "BBRHPJW", "BBRHCJR", "BBRHPJR"),
)
_REGISTER = re.compile(r"\d{9}")
_MODULUS_WH = Decimal(10) ** 9
_STAMP = re.compile(r"([EH])(\d{12})")
_OFFSET_H = {"E": 2, "H": 1}  # summer (été), winter (hiver)


class Settings(SerialSettings):
    """A Linky. Its `zone` is needed outside of metropolitan France only."""

    mode: Literal["historique", "standard"] = Field(
        "historique",
        description="historique: the factory's setting, 1200 baud; standard: with export and time, 9600 baud",
    )


class _Group(NamedTuple):
    value: str
    stamp: str  # "" for none


class TicDecoder:
    """A `Decoder` of both modes. `zone` is the one of the meter's time; None: metropolitan France."""

    def __init__(self, *, zone: tzinfo | None = None) -> None:
        self.faults: Counter[str] = Counter()
        self._zone = zone
        self._kept = bytearray()  # of a frame, if `_inside`
        self._inside = False
        self._read = self._started = False

    def feed(self, data: bytes) -> list[DeviceReading]:
        """Take the next bytes. Returns a reading for each frame that they complete."""
        found = []
        start = 0
        text = data.translate(SEVEN_BITS)
        for mark in re.finditer(rb"[\x02\x03\x04]", text):
            self._keep(data[start : mark.start()])
            start = mark.end()
            if mark[0][0] == _ETX and self._inside:
                found += self._frame()
            elif self._inside:
                self.faults["incomplete"] += 1
            self._kept.clear()
            self._inside = mark[0][0] == _STX
            self._started |= self._inside
        self._keep(data[start:])
        self._read |= bool(found)
        return found

    def _keep(self, data: bytes) -> None:
        if self._inside:
            self._kept += data[: FRAME_MAX + 1]
            if len(self._kept) > FRAME_MAX:
                self.faults["too_long"] += 1
                self._kept.clear()
                self._inside = False

    def pause(self) -> list[DeviceReading]:
        """Drop an unfinished frame."""
        if self._inside:
            self.faults["incomplete"] += 1
        self._kept.clear()
        self._inside = False
        return []

    def reset(self) -> None:
        """Drop an unfinished frame, without a count."""
        self._kept.clear()
        self._inside = self._read = self._started = False

    @property
    def waiting_for(self) -> str | None:
        """What is missing while no reading comes."""
        if self._read:
            return None
        return "a complete TIC frame with right checksums" if self._started else "a TIC frame"

    def _frame(self) -> list[DeviceReading]:
        groups = self._groups(bytes(self._kept))
        imported = self._imported(groups)
        if not imported:  # a Linky always counts import: its line was damaged
            self.faults["no_energy"] += 1
            return []
        device = groups.get("ADSC") or groups.get("ADCO")
        stamp = groups["DATE"].stamp if "DATE" in groups else ""
        return [
            DeviceReading(
                imported=imported,
                exported=self._registers(groups, ("EAIT",)),
                device=device.value if device else None,
                at_s=self._time(stamp),
                remarks=(CLOCK_NOT_SET,) if stamp[:1] in ("e", "h") else (),
            )
        ]

    def _imported(self, groups: Mapping[str, _Group]) -> dict[str, Register]:
        """The total, in mode historique all registers of the contract; nothing if one of them is damaged."""
        complete = [labels for labels in (("EAST",), *_CONTRACTS) if labels[0] in groups]
        return self._registers(groups, complete[0]) if len(complete) == 1 else {}

    def _registers(self, groups: Mapping[str, _Group], labels: Sequence[str]) -> dict[str, Register]:
        found = {}
        for label in labels:
            group = groups.get(label)
            if group is None or not _REGISTER.fullmatch(group.value):
                return {}
            found[label] = Register(wh=Decimal(group.value), modulus_wh=_MODULUS_WH)
        return found

    def _groups(self, frame: bytes) -> dict[str, _Group]:
        """The groups with a right checksum, by label. Everything else in the frame is counted."""
        found: dict[str, _Group] = {}
        twice = set()
        for raw in _LINE.findall(frame):
            text = raw.translate(SEVEN_BITS)
            match = _GROUP.fullmatch(text)
            group = _group(match[1]) if match and sound(raw) else None
            if group is None:
                self.faults["checksum" if sound(raw) else "parity"] += 1
            elif found.setdefault(*group) != group[1]:
                twice.add(group[0])
        for label in twice:
            self.faults["twice"] += 1
            del found[label]
        return found

    def _time(self, stamp: str) -> float | None:
        """UTC epoch seconds of "E240717120010"; None if the meter says that its clock is not set."""
        match = _STAMP.fullmatch(stamp)
        if match is None:
            return None
        try:
            local = datetime.strptime(match[2], "%y%m%d%H%M%S")
        except ValueError:
            return None
        zone = self._zone or timezone(timedelta(hours=_OFFSET_H[match[1]]))
        return local.replace(tzinfo=zone, fold=match[1] == "H").timestamp()


def _group(line: bytes) -> tuple[str, _Group] | None:
    """Label and value of a group with a right checksum."""
    covered = line[:-1] if line[-2:-1] == b"\t" else line[:-2]
    if line[-2:-1] not in (b"\t", b" ") or line[-1] != sum(covered) % 64 + 0x20:
        return None
    parts = line[:-2].decode("ascii").split("\t" if line[-2:-1] == b"\t" else " ")
    match parts:
        case [label, value]:
            return label, _Group(value, "")
        case [label, stamp, value]:
            return label, _Group(value, stamp)
        case _:
            return None


def open_device(settings: Settings) -> Device:
    """The meter of these settings."""
    return _Meter(settings)


class _Meter:
    def __init__(self, settings: Settings) -> None:
        self._zone = ZoneInfo(settings.zone) if settings.zone else None
        self._settings = settings

    async def run(self, sink: Sink) -> None:
        """See `Device`."""
        line = SerialLine(baud=_BAUD[self._settings.mode])  # as 8N1: the decoder checks the parity of 7E1
        await run_stream(self._settings, line, TicDecoder(zone=self._zone), sink)
