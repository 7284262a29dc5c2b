"""Reads a file of readings of any known or described format, with the reader that it needs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.sources.files.collector import Collector
from gridhe.meter_agent.sources.files.decide import decide
from gridhe.meter_agent.sources.files.described import read_rows
from gridhe.meter_agent.sources.files.format import FileFormat, with_options
from gridhe.meter_agent.sources.files.green_button import read_green_button
from gridhe.meter_agent.sources.files.known import STRUCTURED, NamedFormat, named_format, recognised
from gridhe.meter_agent.sources.files.nem12 import read_nem12
from gridhe.meter_agent.sources.files.opening import encoding_of, opened
from gridhe.meter_agent.sources.files.plain import Choose, read_plain
from gridhe.meter_agent.sources.files.scale import Kind
from gridhe.meter_agent.sources.files.sdat import read_sdat
from gridhe.meter_agent.sources.files.survey import survey
from gridhe.meter_agent.sources.files.table import Table
from gridhe.meter_agent.sources.files.xml_events import xml_events

__all__ = ["read_file"]

_XML = re.compile(rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\s\x00]*<")
_NEM12 = re.compile(rb"(?:\xef\xbb\xbf)?(?:100,NEM12|200,[^,]{10},)", re.IGNORECASE)
_PLAIN_SETTINGS = {"unit": "Wh", "kind": "interval", "layout": "meters", "zone": "UTC", "stamp": "start"}


def read_file(
    path: Path,
    *,
    format_name: str = "auto",
    options: Mapping[str, Any] | None = None,
    choose: Choose | None = None,
    whole_lines: bool = False,
) -> Table:
    """The file's readings. `choose` picks meters by name; `options` are single settings (`FileFormat`).

    `whole_lines`: leave out a last line that has no end yet. Raises SourceError and ConfigError.
    """
    given = dict(options or {})
    with_options(FileFormat(), given)  # a wrong setting is refused before the file is looked at
    table = _read(path, format_name, given, choose, whole_lines)
    if choose is None or table.format == "gridhe":
        return table
    return _only(table, choose(table.columns))


def _read(
    path: Path, format_name: str, given: dict[str, Any], choose: Choose | None, whole_lines: bool
) -> Table:
    named: NamedFormat | None = None
    if format_name not in ("auto", *STRUCTURED):
        named = named_format(format_name)
    with opened(path) as file:
        head = file.peek(64)[:64]
    structured = _structured(path, format_name, head)
    if structured is not None:
        if given.keys() - {"encoding"}:
            raise ConfigError(f"{path} says all of its format itself: leave out {', '.join(sorted(given))}")
        return structured()
    settings = with_options(FileFormat() if named is None else named.settings, given)
    plain = named is None or named.name == "gridhe"
    if plain and all(_PLAIN_SETTINGS.get(key) == value for key, value in given.items() if key != "encoding"):
        table = read_plain(
            path,
            encoding_of(path, settings.encoding),
            choose,
            whole_lines=whole_lines,
            energies="kind" in given,
            utc="zone" in given,
        )
        if table is not None:
            return table
    return _described(path, settings, named, given, whole_lines)


def _structured(path: Path, format_name: str, head: bytes) -> Callable[[], Table] | None:
    if _XML.match(head):
        if format_name not in ("auto", "us_green_button", "ch_sdat"):
            raise ConfigError(f"{path} is XML, not {format_name}: leave --format out")
        return lambda: _xml(path)
    if format_name in ("us_green_button", "ch_sdat"):
        raise SourceError(f"{path} is no XML file, which {format_name} is")
    if _NEM12.match(head) or format_name == "au_nem12":
        return lambda: read_nem12(path, encoding_of(path))
    return None


def _xml(path: Path) -> Table:
    events = xml_events(path)
    first = list(islice(events, 1))
    root = first[0][1] if first else ""
    every = chain(first, events)
    if root in ("feed", "entry") or "UsagePoint" in root:
        return read_green_button(path, every)
    if re.fullmatch(r"(Validated|Aggregated)MeteredData\w{0,20}", root, re.ASCII):
        return read_sdat(path, every)
    shown = re.sub(r"[^A-Za-z0-9_.-]", "?", root)[:40]
    raise SourceError(
        f"{path} is XML of an unknown kind (<{shown}>); known are Green Button (ESPI) and SDAT-CH E66"
    )


def _described(
    path: Path, settings: FileFormat, named: NamedFormat | None, given: dict[str, Any], whole_lines: bool
) -> Table:
    found = survey(path, settings, whole_lines)
    if named is None:
        named = recognised(found.header)
    elif named.header and not named.matches(found.header):
        raise SourceError(f"{path} does not have the columns of {named.name}{found.shown_columns}")
    merged = with_options(FileFormat() if named is None else named.settings, given)
    kind: Kind | None = None
    for _ in range(2):
        layout = decide(found, named, given, kind)
        collector = read_rows(found, layout, merged, whole_lines)
        if layout.zone_assumed:
            collector.refuse_local_times()
        if not layout.weak_kind:
            break
        seen = _kind_of(path, collector, layout.kind)
        if seen == layout.kind:
            break
        kind = seen
    name = "described" if layout.format == "own" else layout.format
    table = collector.table(name, layout.said)
    if layout.times.clock == "rows":
        return replace(table, times_s=None, step_s=None)
    return table


def _kind_of(path: Path, collector: Collector, kind: Kind) -> Kind:
    """What the values show: those of a register never fall, and are larger than any energy of an interval."""
    rising, implausible, varied = collector.shape_of_values()
    if kind == "register":
        return "register" if rising else "interval"
    if rising and implausible:
        return "register"
    if implausible:
        raise SourceError(
            f"{path} has readings of more than 100 kW on average: give --with unit= or --with kind= as they "
            "are, or "
            "--with largest_w=..."
        )
    if rising and varied:
        raise SourceError(
            f"{path} has values that only rise: give --with kind=register if they are a meter's register, or "
            "--with kind=interval if they are energies"
        )
    return kind


def _only(table: Table, chosen: Sequence[str]) -> Table:
    at = [table.columns.index(name) for name in chosen]
    return replace(
        table,
        columns=tuple(chosen),
        values={name: np.ascontiguousarray(each[:, at]) for name, each in table.values.items()},
        flags={name: each[:, at] for name, each in table.flags.items()},
        samples={key: each for key, each in table.samples.items() if key[1] in chosen},
    )
