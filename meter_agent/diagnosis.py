"""What is wrong at a meter's port: findings for an installer, from what a driver tells its sink. Pure.

Each finding has a code (for scripts) and one line with the way out. Most causes are from reports of users:
a wrong baud rate or an inverted signal is noise without a header; a Kamstrup P1 port without its 5 V sends
headers only; a locked German meter shows whole kWh; damaged telegrams come from power supplies and cables.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from gridhe.meter_agent.sources.reading import DeviceReading

__all__ = ["Diagnosis", "Finding"]

_SETTLE_S = 15.0  # a telegram comes every second to every ten; two of the slowest fit
# Patience until the first byte, where a device is slower than that, or is asked seldom.
_SILENT_S = {"han": 30.0, "d0": 90.0, "mqtt": 120.0, "p1": 25.0}
_DAMAGED = frozenset(
    {"crc", "fcs", "bcc", "checksum", "parity", "framing", "message_crc", "frame_crc", "no_message", "escape"}
    | {"incomplete", "too_long", "no_block", "bad_line", "malformed"}
)
_BROKEN = frozenset({"cut_off", "segment"})  # pieces that may be normal, and show no cause
_KEYS = frozenset({"key", "wrong_key", "no_key", "decrypt", "authentication"})
_CLOCK_OFF_S = 60.0
_RATIO = 0.02  # more damaged telegrams than this are worth a look at cable and power supply

_SILENT = {
    "p1": "plug the cable in at the meter, and check that the port is switched on (some grid operators do it "
    "on request) and gets 5 V at its request pin",
    "sml": "move the optical head until its magnet holds it, with the cable as the meter's manual shows, and "
    "check that the port sends (some meters need the PIN first)",
    "d0": "move the optical head, and check that it can send as well as receive; mode=C is for a meter that "
    "has to be asked, mode=D for one that sends by itself",
    "han": "check that the grid operator has switched the HAN port on, and the adapter's wires",
    "tic": "check the wires at I1 and I2, and the mode (historique is 1200 baud, standard 9600)",
    "modbus": "check unit number, baud rate and parity against the meter's display; swap A and B",
    "mqtt": "check the topic, and that the device publishes (gridhe listens to what comes from now on)",
    "homewizard": "switch the local API on in the HomeWizard app, and check the address",
}
_NOISE = {
    "p1": "wrong baud rate (115200, older meters 9600 7E1), or the signal is inverted: a P1 cable has to "
    "invert it",
    "sml": "wrong baud rate (9600), a head that is not in place, or a meter that speaks D0 (source d0)",
    "d0": "wrong baud rate or parity (7E1), or a meter that speaks SML (source sml)",
    "han": "wrong baud rate (2400) or parity (8E1 and 8N1 look almost the same: try the other)",
    "tic": "wrong mode: historique is 1200 baud, standard 9600",
    "modbus": "wrong baud rate or parity, or another device answers",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    code: str
    text: str


class Diagnosis:
    """Collects what a driver says, and finds the causes. Times are of a monotonic clock, in seconds."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._open_s: float | None = None
        self._lost: str | None = None
        self._bytes_s: float | None = None  # when the last byte came
        self._hint: str | None = None
        self._reading_s: float | None = None  # when the last reading came
        self._last: DeviceReading | None = None
        self._clock_off_s: float | None = None
        self._has_registers = False
        self.readings = 0
        self.faults: Counter[str] = Counter()

    # -- what the driver says ------------------------------------------------------------------

    def opened(self, now_s: float) -> None:
        """The transport is open."""
        self._open_s, self._lost, self._hint, self._bytes_s = now_s, None, None, None

    def lost(self, why: str) -> None:
        """The transport is gone."""
        self._open_s, self._lost = None, why

    def bytes_seen(self, hint: str | None, now_s: float) -> None:
        """Bytes arrived; `hint`: what the decoder waits for."""
        self._bytes_s, self._hint = now_s, hint

    def reading(self, reading: DeviceReading, now_s: float, wall_s: float) -> None:
        """A reading came; `wall_s` is this computer's time of its arrival (UTC epoch seconds)."""
        self.readings += 1
        self._reading_s, self._last = now_s, reading
        self._has_registers |= bool(reading.imported or reading.exported)
        self._clock_off_s = None if reading.at_s is None else reading.at_s - wall_s

    def fault(self, reason: str, count: int) -> None:
        """Something was dropped."""
        self.faults[reason] += count

    # -- what is wrong -------------------------------------------------------------------------

    def findings(self, now_s: float) -> list[Finding]:
        """Everything that is wrong now, the most likely cause first."""
        return list(self._find(now_s))

    def _find(self, now_s: float) -> Iterator[Finding]:
        if self._lost is not None:
            yield Finding(
                "lost", f"the connection is lost ({self._lost}); it is opened again as soon as possible"
            )
            return
        if self._open_s is None:
            return
        since_s = now_s - max(self._open_s, self._reading_s or 0.0)
        if self._reading_s is None or since_s > 4 * _SETTLE_S:
            yield from self._silence(now_s, since_s)
        yield from self._damage()
        if self._last is not None:
            yield from self._content(self._last)

    def _silence(self, now_s: float, since_s: float) -> Iterator[Finding]:
        """Why no reading came for `since_s`."""
        silent_s = min(since_s, now_s - (self._bytes_s or 0.0))
        patience_s = _SILENT_S.get(self._source, _SETTLE_S)
        if silent_s >= patience_s or self._bytes_s is None:
            if silent_s >= patience_s:
                advice = _SILENT.get(self._source, "check the connection")
                yield Finding("silent", f"nothing came for {silent_s:.0f} s: {advice}")
        elif since_s < _SETTLE_S or _KEYS & self.faults.keys():
            return
        elif self.faults.keys() - _DAMAGED - _BROKEN:
            return  # telegrams come whole; the faults say why they give no reading
        elif self._source == "p1" and self._hint is not None and "end" in self._hint:
            yield Finding(
                "no_tail",
                f"headers come, but no whole telegram, for {since_s:.0f} s: a Kamstrup P1 port needs 5 V "
                "from outside; at other meters, the port's supply is too weak for this cable",
            )
        else:
            hint = f", no {self._hint.removeprefix('a ')}," if self._hint else ", no reading"
            advice = _NOISE.get(self._source, "the device speaks something else")
            yield Finding("noise", f"bytes arrive{hint} for {since_s:.0f} s: {advice}")

    def _damage(self) -> Iterator[Finding]:
        damaged = sum(count for reason, count in self.faults.items() if reason in _DAMAGED)
        whole = self.readings + damaged
        if damaged and damaged > _RATIO * whole and whole >= 3:
            yield Finding(
                "damaged",
                f"{damaged} of {whole} telegrams are damaged ({100 * damaged / whole:.0f} %) and dropped: "
                "check cable, connector and this computer's power supply",
            )
        if self.faults["parity"]:
            yield Finding("parity", "bytes with wrong parity: set the line's parity as the meter has it")
        for reason in _KEYS:
            if self.faults[reason]:
                yield Finding(
                    "key",
                    "telegrams are encrypted with another key: compare the key file with the grid operator's",
                )
                break

    def _content(self, last: DeviceReading) -> Iterator[Finding]:
        if last.locked:
            yield Finding(
                "locked",
                "the meter is locked: it shows whole kWh and no power until its PIN is entered "
                "(docs/meters.md says how); an interval then reads 0 or 1000 Wh",
            )
        if not self._has_registers:
            rest = "; Norwegian ones come once an hour, just after it" if self._source == "han" else ""
            yield Finding(
                "no_energy", f"the device gives no energy registers, which readings are made of{rest}"
            )
        if self._clock_off_s is not None and abs(self._clock_off_s) > _CLOCK_OFF_S:
            yield Finding(
                "clock",
                f"the device's clock is {abs(self._clock_off_s):.0f} s "
                f"{'ahead of' if self._clock_off_s > 0 else 'behind'} this computer's: correct this one "
                "if it is wrong, else give clock=host",
            )
