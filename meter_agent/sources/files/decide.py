"""Decides a CSV file's format from its survey, a named format and single settings.

An answer comes from, in this order: the user's settings; the file's own words (header line, units in cells);
the named format; the cells themselves. What stays open is refused with the setting that settles it.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from gridhe.errors import SourceError
from gridhe.meter_agent.sources.files.format import FileFormat, with_options
from gridhe.meter_agent.sources.files.hours import hour_columns
from gridhe.meter_agent.sources.files.known import NamedFormat
from gridhe.meter_agent.sources.files.layout import Layout, TimeColumns, ValueColumn
from gridhe.meter_agent.sources.files.marking import find_marks
from gridhe.meter_agent.sources.files.numerals import UNITS, Unit, unit_of
from gridhe.meter_agent.sources.files.scale import Kind
from gridhe.meter_agent.sources.files.survey import Survey, unit_above
from gridhe.meter_agent.sources.files.timing import find_times, find_zone, row_length_s
from gridhe.meter_agent.sources.files.vocabulary import Role, direction_of, plain_words, role_of

__all__ = ["decide"]

_TARIFF = re.compile(
    r"\b(ht|nt|hp|hc|hph|hch|hpe|hce|t[1-4]|p[1-6]|f[1-3]|tarif\w*|peak|off peak|punta|llano|valle|tag"
    r"|nacht|jour"
    r"|nuit|day|night|dag|[12] 8 [1-4]|hochtarif|niedertarif|normal|laag|low|high)\b"
)
_STRONG = re.compile(
    r"\b(zahlerst\w*|zaehlerst\w*|register|meter readings?|cumul\w*|kumul\w*|stan licznika|lectura"
    r"|matarstallning"
    r"|malerstand|index)\b"
)
_EXPORT = re.compile(r"\b(export\w*|einspeis\w*|ruck\w*|vertida|produksjon|oddan\w*|immess\w*|2 8 [0-9])\b")


def decide(
    found: Survey, named: NamedFormat | None, given: Mapping[str, Any], kind: Kind | None = None
) -> Layout:
    """The layout of the file.

    `kind` overrules, after the values were seen. Raises SourceError and ConfigError.
    """
    settings = with_options(FileFormat() if named is None else named.settings, given)
    return _Decision(found, named, settings, given, kind).layout()


class _Decision:
    def __init__(
        self,
        found: Survey,
        named: NamedFormat | None,
        settings: FileFormat,
        given: Mapping[str, Any],
        kind: Kind | None,
    ) -> None:
        self._found, self._named, self._settings, self._given = found, named, settings, given
        self._kind_seen = kind
        self._path = found.path
        self._roles = [self._role(at) for at in range(len(found.header))]
        self._unit_at = next((at for at in range(len(found.header)) if self._says_units(at)), None)
        self._said: list[str] = []

    def _role(self, at: int) -> Role | None:
        """What the column's name says, seen together with the other columns."""
        name = self._found.header[at]
        role = role_of(name)
        if role in ("time", "from", "to", None) and unit_of(name) is not None:
            return "import"
        numeric = [other for other, column in enumerate(self._found.columns) if column.mostly("n")]
        return "register" if role == "sum" and numeric == [at] else role

    def _says_units(self, at: int) -> bool:
        """Whether the cells of a column are units."""
        column, role = self._found.columns[at], self._roles[at]
        words = {word.lower() for word in column.words}
        return (
            column.mostly("w") and bool(words) and words <= UNITS.keys() and role in ("unit", None, "import")
        )

    def _at(self, setting: str) -> int | None:
        """The index of the column that a setting names."""
        name = getattr(self._settings, setting)
        if name is None:
            return None
        for at, each in enumerate(self._found.header):
            if each == name or plain_words(each) == plain_words(name) != "":
                return at
        raise SourceError(f"{self._path} has no column {name!r} ({setting}){self._found.shown_columns}")

    def layout(self) -> Layout:
        """Decide."""
        found, settings = self._found, self._settings
        if not found.rows:
            raise SourceError(f"{self._path} has a header and no readings")
        hours = hour_columns(found.header, settings) if settings.layout in ("auto", "hours") else None
        if settings.layout == "hours" and hours is None:
            raise SourceError(f"{self._path} has no columns named after the hours of a day")
        hour_set = {at for at, _ in hours.columns} if hours else set()
        times = find_times(found, settings, self._roles, self._at, skip=hour_set)
        used = {times.date, times.time, times.end_date, times.end_time, times.number} | hour_set
        used |= {0} if times.clock == "rows" else set()
        meter, unit, quality, direction, directions = self._labels(used)
        used |= {meter, unit, quality, direction}
        shape = "hours" if hours else self._shape(used)
        values = self._values(shape, used, meter)
        ats = [*hour_set] if hours else [each.at for each in values]
        decimal, thousands = find_marks(found, settings, ats, values)
        zone, assumed = find_zone(found, settings, times, shape, self._said)
        kind, weak = self._kind(values)
        name = "own" if self._named is None else self._named.name
        if self._named is not None:
            self._said.insert(0, self._named.title)
        self._said.append(
            {"long": "a row a reading", "meters": "a column a meter", "hours": "a row a day"}[shape]
        )
        units = sorted({each.unit.name for each in values if each.unit is not None}) or ["units in the cells"]
        self._said.append(
            f"{' and '.join(units)} "
            f"({ {'power': 'mean power', 'register': 'a register'}.get(kind, 'energy') })"
        )
        mark = {"\t": "tab"}.get(found.delimiter, found.delimiter)
        self._said.append(
            f"delimiter {mark}, decimal {decimal}" + (f", thousands {thousands}" if thousands else "")
        )
        end = {"start": False, "end": True, "number": False, "rows": False}.get(settings.stamp)
        if hours is not None or (end is None and times.number is not None):
            end = False
        elif end is None:
            end = self._end(times)
        row_s = row_length_s(found, times) if times.clock == "text" else None
        return Layout(
            format=name,
            said=tuple(self._said),
            shape=shape,
            times=times,
            values=values,
            hours=() if hours is None else hours.columns,
            hours_by_clock=hours is not None and hours.by_clock,
            meter=meter,
            unit=unit,
            quality=quality,
            direction=direction,
            directions=directions,
            decimal=decimal,
            thousands=thousands,
            kind=kind,
            weak_kind=weak,
            zone=zone,
            zone_assumed=assumed,
            end=end,
            step_s=settings.step_s or (hours.step_s if hours else None) or row_s,
            row_step_s=row_s,
            negate=settings.sign == "export",
        )

    def _end(self, times: TimeColumns) -> bool | None:
        """Whether stamps are ends, if the columns show it."""
        found = self._found
        stamp = times.time if times.time is not None else times.date
        if times.end_time is not None or times.end_date is not None:
            return False
        if stamp is None:
            return None
        marks_of = [code for code in found.columns[stamp].codes if code.startswith("t")]
        if any(" 24" in code for code in marks_of):
            return True
        return {"to": True, "from": False}.get(str(self._roles[stamp]))

    # -- columns -------------------------------------------------------------------------------

    def _labels(
        self, used: set[int | None]
    ) -> tuple[int | None, int | None, int | None, int | None, dict[str, str]]:
        """The columns with the meter's id, the unit, the quality and the direction."""
        columns = self._found.columns
        meter, direction = self._at("meter_column"), self._at("direction_column")
        unit = quality = None
        directions: dict[str, str] = dict(self._named.directions) if self._named else {}
        chosen = {self._at(name) for name in ("import_column", "export_column", "net_column")} - {None}
        for at, column in enumerate(columns):
            if at in used or at in chosen or not column.filled:
                continue
            role = self._roles[at]
            if at == self._unit_at:
                unit = at
            elif (
                column.mostly("w")
                and direction is None
                and (understood := {word: to for word in column.words if (to := direction_of(word))})
            ):
                direction, directions = at, {plain_words(k) or k: v for k, v in understood.items()}
            elif role == "quality" and quality is None:
                quality = at
            elif role == "meter" and meter is None and self._is_label(at):
                meter = at
        named_sides = {self._roles[at] for at in range(len(columns)) if at not in used}
        if "export" in named_sides and "import" in named_sides and self._settings.direction_column is None:
            direction = None
        return meter, unit, quality, direction, directions

    def _is_label(self, at: int) -> bool:
        """A column of ids, not of readings: other columns hold the readings."""
        column = self._found.columns[at]
        others = [
            role for other, role in enumerate(self._roles)
            if other != at and role in ("import", "export", "net", "register", "generation")
        ]  # fmt: skip
        return bool(others) or column.mostly("w")

    def _shape(self, used: set[int | None]) -> str:
        settings, columns = self._settings, self._found.columns
        if settings.layout != "auto":
            return settings.layout
        if any(self._at(name) is not None for name in ("import_column", "export_column", "net_column")):
            return "long"
        rest = [at for at in range(len(columns)) if at not in used and columns[at].mostly("n")]
        sides = ("import", "export", "net", "register", "generation")
        if any(self._roles[at] in sides for at in rest) or not rest:
            return "long"
        texts = [at for at in range(len(columns)) if at not in used and columns[at].mostly("w")]
        if texts and self._found.certain:
            shown = ", ".join(repr(self._found.header[at]) for at in texts[:4])
            raise SourceError(
                f"{self._path} has columns of text ({shown}), so the others may be no meters; "
                "name the one with the readings: --with import_column=..., or give --with layout=meters"
            )
        return "meters"

    def _values(self, shape: str, used: set[int | None], meter: int | None) -> tuple[ValueColumn, ...]:
        columns = self._found.columns
        if shape == "hours":
            unit = self._unit("", None)
            return (ValueColumn(at=-1, quantity="import", unit=unit),)
        if shape == "meters":
            return self._meters(used)
        chosen: list[tuple[int, str]] = []
        for name, quantity in (
            ("import_column", "import"),
            ("export_column", "export"),
            ("net_column", "net"),
        ):
            at = self._at(name)
            if at is not None:
                chosen.append((at, quantity))
        if not chosen:
            chosen = self._by_role(used)
        values = []
        for at, quantity in chosen:
            if columns[at].filled == 0 and columns[at].codes["m"] == 0:
                self._said.append(f"column {self._found.header[at]!r} is empty")
                continue
            values.append(ValueColumn(at=at, quantity=quantity, unit=self._unit(self._found.header[at], at)))
        if not values:
            raise SourceError(f"{self._path} has no column of readings; name it: --with import_column=...")
        return tuple(values)

    def _by_role(self, used: set[int | None]) -> list[tuple[int, str]]:
        columns, header = self._found.columns, self._found.header
        by_quantity: dict[str, list[int]] = {}
        for at, column in enumerate(columns):
            role = self._roles[at]
            value = column.mostly("n") or (not column.filled and role in ("import", "export"))
            if at in used or not value or role not in ("import", "export", "net", "register", "generation"):
                continue
            quantity = "import" if role == "register" else str(role)
            if _EXPORT.search(plain_words(header[at])):
                quantity = "export"
            by_quantity.setdefault(quantity, []).append(at)
        chosen = []
        for quantity, ats in by_quantity.items():
            kept = [at for at in ats if columns[at].filled] or ats[:1]
            with_unit = [at for at in kept if unit_of(header[at])]
            kept = with_unit or kept
            if len(kept) > 1:
                whole = [at for at in kept if not _TARIFF.search(plain_words(header[at]))]
                if len(whole) == 1:
                    kept = whole
                elif whole:
                    shown = ", ".join(repr(header[at]) for at in kept[:4])
                    raise SourceError(
                        f"{self._path} has several columns of {quantity}: {shown}; choose one with --with "
                        f"{quantity}_column=..., or --with layout=meters if each is a meter"
                    )
            chosen += [(at, quantity) for at in kept]
        return chosen

    def _meters(self, used: set[int | None]) -> tuple[ValueColumn, ...]:
        header, columns = self._found.header, self._found.columns
        values = []
        names: Counter[str] = Counter()
        for at, name in enumerate(header):
            if at in used or (not name and not columns[at].filled):
                continue
            if self._roles[at] == "sum":
                self._said.append(f"column {name!r} is a sum and no meter")
                continue
            if not name:
                raise SourceError(f"{self._path} has an empty name: give every column a name of its own")
            names[name] += 1
            values.append(ValueColumn(at=at, quantity="import", unit=self._unit(name, at), meter=name))
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise SourceError(
                f"{self._path} has more than one column named {', '.join(twice[:5])}: give every column a "
                "name "
                "of its own"
            )
        if not values:
            raise SourceError(f"{self._path} has no columns of readings")
        return tuple(values)

    # -- values --------------------------------------------------------------------------------

    def _unit(self, name: str, at: int | None) -> Unit | None:
        """The unit of a column; None if the cells or another column say it."""
        settings, found = self._settings, self._found
        if "unit" in self._given and settings.unit != "auto":
            return UNITS[settings.unit.lower()]
        if at is not None:
            codes = found.columns[at].codes
            with_unit = sum(n for code, n in codes.items() if code.startswith("n ") and code.count(" ") == 2)
            if with_unit and with_unit == found.columns[at].count("n"):
                return None
        if self._unit_at is not None:
            return None
        own = unit_of(name) or (UNITS[settings.unit.lower()] if settings.unit != "auto" else None)
        if own is not None:
            return own
        above = unit_above(found.above)
        if above is not None:
            return UNITS[above]
        if at is not None and self._settings.layout != "long":
            numbers = {code for code in found.columns[at].codes if code.startswith("n ")}
            whole = {
                "n bare",
                *(f"n {what}{mark}" for what in ("amb", "tho") for mark in ".," if mark != settings.decimal),
            }
            if numbers <= whole and not any(r in ("import", "export", "net") for r in self._roles):
                return UNITS["wh"]
        raise SourceError(
            f"{self._path} does not say the unit of its readings"
            + (f" (column {name!r})" if name else "")
            + "; give --with unit=kWh (or Wh, W, kW: mean power)"
        )

    def _kind(self, values: tuple[ValueColumn, ...]) -> tuple[Kind, bool]:
        """interval, register or power; and whether only the values can confirm it."""
        settings = self._settings
        if self._kind_seen is not None:
            return self._kind_seen, False
        if settings.kind in ("interval", "register", "power"):
            if settings.kind == "interval" and any(
                each.unit is not None and each.unit.power for each in values
            ):
                raise SourceError(
                    f"{self._path}: a column in W or kW is a mean power; give --with kind=power"
                )
            return settings.kind, False
        powers = {each.unit.power for each in values if each.unit is not None}
        if self._cell_units_power():
            powers.add(True)
        if powers == {True}:
            return "power", False
        if len(powers) == 2:
            raise SourceError(
                f"{self._path} has columns of energy and of power; choose with --with import_column=..."
            )
        if any(at >= 0 and self._roles[at] == "register" for at in (each.at for each in values)):
            strong = any(_STRONG.search(plain_words(self._found.header[each.at])) for each in values)
            return "register", not strong
        return "interval", True

    def _cell_units_power(self) -> bool:
        """Whether units in cells or in a column of their own are those of power."""
        for column in self._found.columns:
            for code in column.codes:
                parts = code.split(" ")
                if parts[0] == "n" and len(parts) == 3 and UNITS[parts[2]].power:
                    return True
        if self._unit_at is None:
            return False
        return any(UNITS[word.lower()].power for word in self._found.columns[self._unit_at].words)
