"""What a decoder makes of one telegram, frame, answer or message of a device.

Decoders are sans-I/O: bytes in; readings, or faults counted by reason, out. They take any bytes, keep a
bounded part of them, and raise nothing. They do not judge a reading against earlier ones: `tracker` does.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

__all__ = ["Decoder", "DeviceReading", "Register", "total_wh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """One energy register: the value as the device gives it, without rounding."""

    wh: Decimal
    step_wh: Decimal = Decimal(1)  # the smallest change that the device can show here: its resolution
    modulus_wh: Decimal | None = None  # the register rolls over to 0 at this value; None: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """One reading. An empty mapping, or None, means that the device does not say; it is never zero.

    `imported` and `exported` hold the registers whose sum is the import or the export, by the device's own
    names: the total register alone if the device gives it, else all tariffs. If any of these has no value (an
    empty cell, "not available"), that direction has no registers in this reading.
    """

    imported: Mapping[str, Register] = field(default_factory=dict)
    exported: Mapping[str, Register] = field(default_factory=dict)
    power_w: Decimal | None = None  # import minus export, at this moment; for display, never for energy
    device: str | None = None  # the equipment's id, to notice that a meter was exchanged
    at_s: float | None = None  # the device's own time (UTC epoch seconds), if its zone is certain
    locked: bool = False  # the device shows less than it could: whole kWh until its PIN is entered
    remarks: tuple[str, ...] = ()  # for the installer's terminal: one short plain line each, without values


def total_wh(registers: Mapping[str, Register]) -> Decimal | None:
    """The sum of the registers in Wh; None if there are none."""
    return sum((each.wh for each in registers.values()), Decimal(0)) if registers else None


class Decoder(Protocol):
    """Turns a stream of bytes into readings. No I/O, no clock, any bytes."""

    faults: Counter[
        str
    ]  # dropped telegrams, frames or lines, by reason: "crc", "too_long", "empty_register", ...

    def feed(self, data: bytes) -> list[DeviceReading]:
        """Take the next bytes, in pieces of any size. Returns the readings they complete, oldest first."""
        ...

    def pause(self) -> list[DeviceReading]:
        """The line was silent for a while: complete or drop what has no end mark of its own."""
        ...

    def reset(self) -> None:
        """The connection was opened anew: drop an unfinished telegram. Counts stay."""
        ...

    @property
    def waiting_for(self) -> str | None:
        """What is missing while bytes arrive and no reading comes, such as "a telegram's end"."""
        ...
