"""Green Button exports: ESPI (NAESB REQ.21) in an Atom feed.

A MeterReading has a ReadingType and IntervalBlocks. They refer to each other by links; where a file leaves
links out, a block belongs to the last ReadingType above it. The energy of an IntervalReading is

    value * 10^powerOfTenMultiplier   in uom 72 (Wh), or in uom 38 (W): the mean power of the interval
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path

from gridhe.errors import SourceError
from gridhe.meter_agent.policy import TEXT
from gridhe.meter_agent.sources.files.collector import Collector
from gridhe.meter_agent.sources.files.scale import Kind, scaled
from gridhe.meter_agent.sources.files.table import Findings, Table
from gridhe.meter_agent.sources.files.xml_events import Event

__all__ = ["read_green_button"]

_WH, _W = "72", "38"
_REGISTERS = {"2", "3", "9"}  # accumulationBehaviour: continuous cumulative, cumulative, summation
_FLOWS = {"1": "import", "19": "export", "4": "net", "": "import"}
_ELECTRICITY = {"", "0", "1", "2"}  # commodity
_ESTIMATED = {"7", "8", "9", "12"}  # ReadingQuality: manually edited, estimated, projected
_READINGS_MAX = 20_000_000


@dataclass(slots=True)
class _Reading:
    start_s: int
    duration_s: int
    value: Decimal | None
    estimated: bool


@dataclass(slots=True)
class _Block:
    entry: int
    link: str
    type_above: str | None
    readings: list[_Reading] = field(default_factory=list)


class _Feed:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.types: dict[str, dict[str, str]] = {}  # by the link of its entry
        self.related: dict[str, str] = {}  # a MeterReading's link to its ReadingType's
        self.blocks: list[_Block] = []
        self._links: list[str] = []
        self._stack: list[str] = []
        self._fields: dict[str, str] = {}
        self._qualities: list[str] = []
        self._last_type: str | None = None
        self._entry = 0
        self._count = 0

    def take(self, event: Event) -> None:
        kind, name, text = event
        if kind == "start":
            self._stack.append(name)
            if name == "entry":
                self._links = []
                self._entry += 1
            elif name == "link" and text:
                self._links.append(text.rstrip("/"))
            elif name == "ReadingType":
                self._fields = {}
            elif name == "IntervalBlock":
                self.blocks.append(_Block(self._entry, self._self_link("IntervalBlock"), self._last_type))
            elif name == "IntervalReading":
                self._fields, self._qualities = {}, []
            return
        self._stack.pop()
        if name == "ReadingType":
            link = self._self_link("ReadingType") or f"#{self._entry}"
            self.types[link] = self._fields
            self._last_type = link
            self._fields = {}
        elif name == "MeterReading":
            own = self._self_link("MeterReading")
            other = next((link for link in self._links if "/ReadingType/" in f"/{link}"), None)
            if other is not None:
                self.related[own] = other
        elif name == "IntervalReading":
            self._reading()
        elif name == "quality":
            self._qualities.append(text)
        elif "ReadingType" in self._stack or "IntervalReading" in self._stack:
            self._fields[name] = text

    def _self_link(self, what: str) -> str:
        return next((link for link in self._links if f"/{what}" in f"/{link}"), "")

    def _reading(self) -> None:
        self._count += 1
        if self._count > _READINGS_MAX or not self.blocks:
            raise SourceError(f"{self._path} has readings outside of blocks, or too many for memory")
        start, duration = self._fields.get("start", ""), self._fields.get("duration", "")
        if not (start.isascii() and start.isdigit() and len(start) <= 11):
            start = "0"
        try:
            text = self._fields.get("value", "")
            value = Decimal(text) if len(text) <= 24 else None
            value = value if value is not None and value.is_finite() else None
        except InvalidOperation:
            value = None
        known = duration.isascii() and duration.isdigit() and len(duration) <= 8
        self.blocks[-1].readings.append(
            _Reading(
                int(start), int(duration) if known else 0, value, bool(_ESTIMATED & set(self._qualities))
            )
        )

    def type_of(self, block: _Block) -> dict[str, str] | None:
        meter_reading = block.link.partition("/IntervalBlock")[0]
        related = self.related.get(meter_reading)
        if related in self.types:
            return self.types[related]
        if related is not None:
            tail = related[related.find("ReadingType/") :]
            found = [each for link, each in self.types.items() if link.endswith(tail)]
            if len(found) == 1:
                return found[0]
        if len(self.types) == 1:
            return next(iter(self.types.values()))
        return None if block.type_above is None else self.types[block.type_above]


def read_green_button(path: Path, events: Iterable[Event]) -> Table:
    """The file's readings. Raises SourceError."""
    feed = _Feed(path)
    for event in events:
        feed.take(event)
    findings = Findings()
    kinds: set[Kind] = set()
    wanted = []
    for block in feed.blocks:
        kind_of = feed.type_of(block)
        if kind_of is None:
            raise SourceError(f"{path} has readings without a ReadingType: their unit is not known")
        uom = kind_of.get("uom", "")
        flow = _FLOWS.get(kind_of.get("flowDirection", ""))
        if kind_of.get("commodity", "") not in _ELECTRICITY or uom not in (_WH, _W) or flow is None:
            for _ in block.readings:
                findings.add(0, "", "is no electricity in Wh or W", settled=True)
            continue
        register = kind_of.get("accumulationBehaviour", "4") in _REGISTERS
        kind: Kind = "register" if register else "power" if uom == _W else "interval"
        kinds.add(kind)
        wanted.append((block, kind_of, flow))
    if len(kinds) > 1:
        raise SourceError(f"{path} holds {', '.join(sorted(kinds))} readings at once: export one of them")
    if not wanted:
        raise SourceError(f"{path} holds no readings of electricity in Wh or W")
    kind = kinds.pop()
    lengths = [each.duration_s for block, _, _ in wanted for each in block.readings if each.duration_s]
    step_s = max(set(lengths), key=lengths.count) if lengths and len(set(lengths)) < 100 else None
    out = Collector(path, findings, kind=kind, zone=None, end=False, step_s=step_s, unit_wh=1000)
    for block, kind_of, flow in wanted:
        power = kind_of.get("powerOfTenMultiplier", "0") or "0"
        if power.lstrip("-") not in {str(n) for n in range(13)}:
            raise SourceError(f"{path} has a powerOfTenMultiplier that is no power: {len(power)} characters")
        factor = Decimal(1).scaleb(int(power))
        meter = _meter(block.link)
        for each in block.readings:
            if each.start_s < 10**8 or each.value is None:
                findings.add(0, flow, "has no start or no value")
                continue
            if kind != "register" and each.duration_s not in (0, step_s):
                findings.add(0, flow, f"does not last {step_s} s")
                continue
            value = scaled(each.value * factor, 1, kind)
            if value == TEXT:
                findings.add(0, flow, "is larger than any meter counts")
            out.add(meter, flow, each.start_s, value, 0, estimated=each.estimated)
    return out.table(
        "us_green_button",
        [f"Green Button XML ({ {'power': 'mean W', 'register': 'a register'}.get(kind, 'Wh') })"],
    )


def _meter(link: str) -> str:
    """The usage point's number."""
    parts = link.split("/")
    if "UsagePoint" in parts[:-1]:
        return parts[parts.index("UsagePoint") + 1][:64] or "meter"
    return "meter"
