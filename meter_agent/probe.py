"""`gridhe-meter probe`: runs a driver and shows what the device says, what would be sealed, what is wrong.

Readings are shown in clear, so nothing of them is logged or stored: they go to the caller's `show` only.
"""

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from gridhe.broker.client.loop import EventLoop
from gridhe.meter_agent.diagnosis import Diagnosis, Finding
from gridhe.meter_agent.sources.reading import DeviceReading, Register, total_wh
from gridhe.meter_agent.sources.stamps import Stamps
from gridhe.meter_agent.sources.tracker import DIRECTIONS, EVENTS, Tracker

if TYPE_CHECKING:
    from gridhe.meter_agent.sources.driver import Device
    from gridhe.meter_agent.sources.settings import SourceSettings

__all__ = ["Event", "Preview", "Probe", "run_probe"]

_LOOK_S = 1.0  # between two looks for what is wrong
_AGAIN_S = 30.0  # a finding that stays is shown again after this long


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something to show: its kind, a line for a terminal, and the same for scripts."""

    kind: str  # opened, lost, device, reading, dropped, finding, mended, end
    text: str
    record: Mapping[str, Any] = field(default_factory=dict)


class Preview:
    """What would be sealed: readings pass the same clock and the same judgement as in `gridhe-meter run`."""

    def __init__(self, settings: "SourceSettings") -> None:
        self._stamps, self._tracker = Stamps(settings.clock), Tracker(largest_w=settings.largest_w)
        self._first: dict[str, int] = {}  # register by direction, since the last break

    def take(self, reading: DeviceReading, arrived_s: float) -> dict[str, str]:
        """What becomes of one reading: `sealed` (text by direction), or `unused`, and `events`."""
        before = self._stamps.counts + self._tracker.counts, self._stamps.events + self._tracker.events
        at_s = self._stamps.date(reading, arrived_s)
        sample = None if at_s is None else self._tracker.take(reading, at_s)
        counts = self._stamps.counts + self._tracker.counts - before[0]
        events = self._stamps.events + self._tracker.events - before[1]
        found: dict[str, str] = {}
        if sample is None:
            found["unused"] = ", ".join(counts) or "nothing usable in it"
        else:
            for name, value in sample.values.items():
                if name in sample.breaks or name not in self._first:
                    self._first[name] = int(value)
                found[name] = f"+{int(value) - self._first[name]} Wh"
        if events:
            found["events"] = "; ".join(EVENTS.get(name, name) for name in events)
        return found


class Probe:
    """The Sink of a probe. Gives one Event after the other to `show`."""

    def __init__(
        self,
        source: str,
        show: Callable[[Event], None],
        *,
        preview: Preview,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._show, self._preview, self._monotonic, self._wall = show, preview, monotonic, wall
        self.diagnosis = Diagnosis(source)
        self._device: str | None = None
        self._remarks: set[str] = set()
        self._shown: dict[str, float] = {}  # findings by code, and when each was shown last
        self._details: dict[str, str] = {}  # the latest detail of each reason of a fault

    # -- the Sink ------------------------------------------------------------------------------

    def reading(self, reading: DeviceReading, *, arrived_s: float | None = None) -> None:
        """Show a reading."""
        arrived_s = self._wall() if arrived_s is None else arrived_s
        self.diagnosis.reading(reading, self._monotonic(), arrived_s)
        if reading.device != self._device or self.diagnosis.readings == 1:
            self._device = reading.device
            self._show(_of_device(reading))
        for remark in reading.remarks:
            if remark not in self._remarks:
                self._remarks.add(remark)
                self._show(Event(kind="remark", text=f"  note: {remark}", record={"text": remark}))
        self._show(_of_reading(reading, arrived_s, self._preview.take(reading, arrived_s)))

    def fault(self, reason: str, detail: str = "", count: int = 1) -> None:
        """Show the first fault of each reason; the rest is counted."""
        first = reason not in self.diagnosis.faults
        self.diagnosis.fault(reason, count)
        if first or (detail and detail != self._details.get(reason)):
            self._details[reason] = detail
            text = f"  dropped ({reason})" + (f": {detail}" if detail else "")
            self._show(Event(kind="dropped", text=text, record={"reason": reason, "detail": detail}))

    def opened(self, what: str) -> None:
        """Show that the transport is open."""
        self.diagnosis.opened(self._monotonic())
        self._show(Event(kind="opened", text=f"{what} is open", record={"what": what}))

    def lost(self, why: str) -> None:
        """Show that the transport is gone."""
        self.diagnosis.lost(why)
        self.look()

    def bytes_seen(self, count: int, hint: str | None) -> None:
        """Bytes arrived."""
        self.diagnosis.bytes_seen(hint, self._monotonic())

    # -- what is wrong -------------------------------------------------------------------------

    def look(self) -> None:
        """Show new findings, old ones now and then, and the end of each."""
        now_s = self._monotonic()
        findings = self.diagnosis.findings(now_s)
        for finding in findings:
            shown_s = self._shown.get(finding.code)
            if shown_s is None or now_s - shown_s >= _AGAIN_S:
                self._shown[finding.code] = now_s
                self._show(_of_finding(finding))
        for code in self._shown.keys() - {finding.code for finding in findings}:
            del self._shown[code]
            self._show(
                Event(kind="mended", text=f"ok: {code.replace('_', ' ')} is over", record={"code": code})
            )

    def end(self) -> None:
        """Show the counts, and what is still wrong."""
        diagnosis = self.diagnosis
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(diagnosis.faults.items()))
        self._shown.clear()
        self.look()
        self._show(
            Event(
                kind="end",
                text=f"{diagnosis.readings} readings" + (f"; dropped: {dropped}" if dropped else ""),
                record={"readings": diagnosis.readings, "dropped": dict(diagnosis.faults)},
            )
        )


def run_probe(device: "Device", probe: Probe, *, for_s: float | None) -> bool:
    """Run the device until Ctrl-C, SIGTERM or `for_s` seconds. Returns whether readings came.

    Raises SourceError if the device cannot be opened.
    """
    with EventLoop() as loop:
        loop.create_task(device.run(probe))
        loop.every(_LOOK_S, probe.look)
        if for_s is not None:
            loop.call_later(for_s, loop.stop)
        with loop.on_signals((signal.SIGINT, signal.SIGTERM), loop.stop):
            loop.run()
    probe.end()
    return probe.diagnosis.readings > 0


# -- words -------------------------------------------------------------------------------------


def _kwh(wh: Decimal) -> str:
    return f"{wh.scaleb(-3):f} kWh"


def _of_device(reading: DeviceReading) -> Event:
    registers = {
        direction: _registers(each)
        for direction, each in (("import", reading.imported), ("export", reading.exported))
        if each
    }
    parts = [f"meter {reading.device or 'without an id'}"]
    parts += [f"{direction} of {', '.join(each)}" for direction, each in registers.items()]
    return Event(
        kind="device", text="; ".join(parts), record={"device": reading.device, "registers": registers}
    )


def _registers(registers: Mapping[str, Register]) -> list[str]:
    return [f"{name} (step {each.step_wh:f} Wh)" for name, each in registers.items()]


def _of_reading(reading: DeviceReading, arrived_s: float, sealed: Mapping[str, str]) -> Event:
    imported, exported = total_wh(reading.imported), total_wh(reading.exported)
    clock_s = None if reading.at_s is None else reading.at_s - arrived_s
    words = [datetime.fromtimestamp(arrived_s, UTC).strftime("%H:%M:%SZ")]
    words.append("import -" if imported is None else f"import {_kwh(imported)}")
    words.append("export -" if exported is None else f"export {_kwh(exported)}")
    if reading.power_w is not None:
        words.append(f"power {reading.power_w:f} W")
    if clock_s is not None:
        words.append(f"clock {round(clock_s):+d} s")
    if "unused" in sealed:
        words.append(f"not used: {sealed['unused']}")
    else:
        words.append(
            "sealed so far: " + ", ".join(f"{each} {sealed[each]}" for each in DIRECTIONS if each in sealed)
        )
    text = "  ".join(words) + (f"\n! {sealed['events']}" if "events" in sealed else "")
    return Event(
        kind="reading",
        text=text,
        record={
            "arrived_s": round(arrived_s, 3),
            "at_s": reading.at_s,
            "import_wh": None if imported is None else f"{imported:f}",
            "export_wh": None if exported is None else f"{exported:f}",
            "power_w": None if reading.power_w is None else f"{reading.power_w:f}",
            "locked": reading.locked,
            **sealed,
        },
    )


def _of_finding(finding: Finding) -> Event:
    return Event(
        kind="finding", text=f"! {finding.text}", record={"code": finding.code, "text": finding.text}
    )
