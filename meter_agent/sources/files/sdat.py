"""Swiss SDAT-CH exports (E66 ValidatedMeteredData): a start, a resolution, numbered observations. UTC."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, TEXT
from gridhe.meter_agent.sources.files.collector import Collector
from gridhe.meter_agent.sources.files.moments import parse_stamp
from gridhe.meter_agent.sources.files.numerals import UNITS, parse_number
from gridhe.meter_agent.sources.files.scale import scaled
from gridhe.meter_agent.sources.files.table import Findings, Table
from gridhe.meter_agent.sources.files.xml_events import Event

__all__ = ["read_sdat"]

_SECONDS = {"MIN": 60, "HOUR": 3600, "HUR": 3600, "H": 3600, "DAY": 86_400, "SEC": 1}
_SUBSTITUTE = "21"
_FIELDS = frozenset({"StartDateTime", "EndDateTime", "Resolution", "Unit", "MeasureUnit", "VSENationalID"})
_OBSERVATIONS_MAX = 10_000_000


@dataclass(slots=True)
class _Data:
    """One MeteringData element."""

    fields: dict[str, str] = field(default_factory=dict)
    production: bool = False
    observations: list[tuple[int, Decimal | None, bool]] = field(default_factory=list)


def read_sdat(path: Path, events: Iterable[Event]) -> Table:
    """The file's readings. Raises SourceError."""
    stack: list[str] = []
    data: list[_Data] = []
    observation: dict[str, str] = {}
    count = 0
    for kind, name, text in events:
        if kind == "start":
            stack.append(name)
            if name == "MeteringData":
                data.append(_Data())
            elif name == "Observation":
                observation = {}
            elif name == "ProductionMeteringPoint" and data:
                data[-1].production = True
            continue
        stack.pop()
        if not data:
            continue
        if name == "Observation":
            count += 1
            if count > _OBSERVATIONS_MAX:
                raise SourceError(f"{path} has more observations than fit in memory: cut it into pieces")
            number = observation.get("Sequence", "")
            value = parse_number(observation.get("Volume", ""), ".", "")
            at = int(number) if number.isascii() and number.isdigit() and len(number) < 9 else 0
            data[-1].observations.append(
                (at, None if value is None else value[0], observation.get("Condition") == _SUBSTITUTE)
            )
        elif "Observation" in stack:
            observation[name] = text
        elif text and stack and name in _FIELDS:
            data[-1].fields[f"{stack[-1]}/{name}"] = text
    if not data:
        raise SourceError(f"{path} has no MeteringData")
    findings = Findings()
    out: Collector | None = None
    for each in data:
        out = _one(path, each, findings, out)
    assert out is not None  # noqa: S101 - data is not empty
    return out.table("ch_sdat", ["SDAT-CH XML (energy)"])


def _one(path: Path, data: _Data, findings: Findings, out: Collector | None) -> Collector:
    def value_of(*names: str) -> str:
        return next((data.fields[name] for name in names if name in data.fields), "")

    start, end = (
        parse_stamp(value_of("Interval/StartDateTime")),
        parse_stamp(value_of("Interval/EndDateTime")),
    )
    length, unit = value_of("Resolution/Resolution"), UNITS.get(value_of("Product/MeasureUnit").lower())
    seconds = _SECONDS.get(value_of("Resolution/Unit").upper())
    if start is None or start.day is None or start.offset_s is None:
        raise SourceError(f"{path} has no StartDateTime with an offset from UTC")
    if not (length.isascii() and length.isdigit() and len(length) < 6) or seconds is None or not int(length):
        raise SourceError(f"{path} has no Resolution in minutes or hours")
    if unit is None or unit.power:
        raise SourceError(f"{path} has no MeasureUnit of energy")
    step_s, start_s = int(length) * seconds, start.local_s - start.offset_s
    if out is None:
        out = Collector(path, findings, kind="interval", zone=None, end=False, step_s=step_s)
    meter = value_of(
        "ConsumptionMeteringPoint/VSENationalID", "ProductionMeteringPoint/VSENationalID"
    ) or "meter"  # fmt: skip
    quantity = "export" if data.production else "import"
    known = end is not None and end.day is not None and end.offset_s is not None
    length_s = end.local_s - end.offset_s - start_s if known else None  # type: ignore[union-attr,operator]
    seen = set()
    for number, value, substitute in data.observations:
        if not number or value is None:
            findings.add(number, quantity, "has no sequence number or no volume")
            continue
        if length_s is not None and number * step_s > length_s:
            findings.add(number, quantity, "is after the end of the interval")
            continue
        seen.add(number)
        amount = scaled(value, unit.factor, "interval")
        if amount == TEXT:
            findings.add(number, quantity, "is larger than any meter counts")
        out.add(meter[:64], quantity, start_s + (number - 1) * step_s, amount, number, estimated=substitute)
    if length_s is not None and 0 < length_s // step_s <= _OBSERVATIONS_MAX // 100:
        for number in set(range(1, length_s // step_s + 1)) - seen:
            out.add(meter[:64], quantity, start_s + (number - 1) * step_s, ABSENT, number)
    return out
