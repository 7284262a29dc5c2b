"""The formats that have a name: what exports of utilities, portals and data sets do not say themselves."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gridhe.errors import ConfigError
from gridhe.meter_agent.sources.files.format import FileFormat
from gridhe.meter_agent.sources.files.vocabulary import plain_words

__all__ = ["FORMATS", "NamedFormat", "named_format", "recognised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFormat:
    """An export that is recognised by its header line."""

    name: str
    title: str
    header: tuple[str, ...] = ()  # patterns; each is found in the words of another column's name
    columns: int | None = None  # exactly so many named columns
    settings: FileFormat = field(default_factory=FileFormat)
    # What a direction or category column's words mean: import, export, generation, ...
    directions: tuple[tuple[str, str], ...] = ()

    def matches(self, header: Sequence[str]) -> bool:
        """Whether the header line has all the columns."""
        words = [plain_words(name) for name in header]
        if self.columns is not None and sum(map(bool, words)) != self.columns:
            return False
        return bool(self.header) and all(
            any(re.search(pattern, name) for name in words) for pattern in self.header
        )


def _named(
    name: str, title: str, header: Sequence[str], columns: int | None = None, **settings: object
) -> NamedFormat:
    return NamedFormat(
        name=name,
        title=title,
        header=tuple(header),
        columns=columns,
        settings=FileFormat.model_validate(settings),
    )


_AUSGRID = NamedFormat(
    name="au_ausgrid",
    title="Ausgrid solar home data (a row a day and category; standard time)",
    header=("^customer$", "^consumption category$", "^date$"),
    settings=FileFormat(
        stamp="end", zone="+10:00", unit="kWh", layout="hours", date="dmy", meter_column="Customer",
        direction_column="Consumption Category",
    ),
    directions=(("gc", "import"), ("cl", "import_controlled_load"), ("gg", "generation")),
)  # fmt: skip

# Those with more columns first: the first that matches is taken.
FORMATS: tuple[NamedFormat, ...] = (
    _named(
        "gridhe", "one column a meter, one row an interval, whole Wh; times without an offset are UTC", ()
    ),
    _named("de_lastgang", "German load profile (date, from, to, mean kW)",
           ("^datum$", "^von$", "^bis$", "leistung"), zone="Europe/Berlin", kind="power"),
    _named("at_netz", "Austrian grid operators (date, from, to, kWh)",
           ("^datum$", "zeit von", "zeit bis", "verbrauch|einspeisung|wert"), zone="Europe/Vienna"),
    _named("de_portal", "German portals (date, time, value)",
           ("^datum$", "^(uhr)?zeit$", "wert|verbrauch|leistung"), zone="Europe/Berlin"),
    _named("ch_portal", "Swiss utilities (import and export columns)",
           ("timestamp|zeitstempel|zeit", "bezug", "ruckspeisung|einspeisung"), zone="Europe/Zurich"),
    _named("ch_werte", "Swiss utilities (time, value, unit)",
           ("zeitstempel", "^wert", "^einheit$"), zone="Europe/Zurich"),
    _named("fr_enedis_courbe", "Enedis load curve (mean W, end stamps)",
           ("^horodate$", "^valeur"), 2, zone="Europe/Paris", kind="power", unit="W", stamp="end"),
    _named("fr_enedis_2025", "Enedis load curve, layout of 2025 (start, end, mean kW)",
           ("^debut$", "^fin$", "valeur"), zone="Europe/Paris"),
    _named("es_datadis", "Datadis (hour numbers)", ("cups", "^fecha$", "^hora$", "consumo"),
           zone="Europe/Madrid", stamp="number", unit="kWh"),
    _named("es_distribuidora", "Spanish distributors (hour numbers)",
           ("cups", "^fecha$", "^hora$", "^a[es]( |$)"),
           zone="Europe/Madrid", stamp="number", unit="kWh"),
    _named("dk_eloverblik", "Eloverblik", ("fra dato", "til dato", "maengde"), zone="Europe/Copenhagen",
           date="dmy"),
    _named("fi_datahub", "Fingrid Datahub", ("alkuaika", "^maara"), zone="Europe/Helsinki"),
    _named("no_elhub", "Elhub", ("^fra$", "^til$", "forbruk"), zone="Europe/Oslo", date="dmy"),
    _named("se_portal", "Swedish grid operators (date, kWh)", ("datum|tid", "forbrukning"),
           zone="Europe/Stockholm"),
    _named("it_edistribuzione", "e-distribuzione (a row a day)",
           ("^giorno$|^data$", "^0?0 00 (00 15|00 30|01 00)$"),
           zone="Europe/Rome", unit="kWh", date="dmy", layout="hours"),
    _named("pl_tauron", "Polish operators (date and hour, end stamps)", ("^data", "wartosc", "rodzaj"),
           zone="Europe/Warsaw", stamp="end"),
    _named("uk_octopus", "Octopus Energy", ("consumption", "^start$", "^end$"), zone="Europe/London"),
    _named("uk_n3rgy", "n3rgy (end stamps in UTC)", ("timestamp utc", "energy consumption"), zone="UTC",
           stamp="end"),
    _named("uk_lcl", "Low Carbon London", ("lclid|lcl id", "date time", "kwh hh"), zone="UTC", unit="kWh"),
    _named("uk_lcl_block", "Low Carbon London, a row a day", ("lclid|lcl id", "^day$", "^hh 0$"), zone="UTC",
           unit="kWh", layout="hours"),
    _AUSGRID,
    _named("us_pecan_street", "Pecan Street Dataport (mean kW, net)", ("^dataid$", "local ", "^grid$"),
           kind="power", unit="kW", net_column="grid", meter_column="dataid"),
    _named("us_pge", "PG&E Green Button CSV", ("^type$", "^date$", "^start time$", "^end time$"),
           zone="America/Los_Angeles", date="mdy"),
    _named("us_sdge", "SDG&E (net kWh)",
           ("^meter number$", "^date$", "^start time$", "^duration$", "^consumed$"),
           zone="America/Los_Angeles", date="mdy", unit="kWh", net_column="Consumed"),
    _named("uci_household", "UCI household power consumption (mean kW a minute)",
           ("^date$", "^time$", "^global active power$"), zone="Europe/Paris", date="dmy", kind="power",
           unit="kW", import_column="Global_active_power", step_s=60, stamp="start"),
    _named("homeassistant", "Home Assistant history", ("^entity id$", "^state$", "^last (changed|updated)$"),
           kind="register", unit="kWh", zone="UTC", meter_column="entity_id", import_column="state"),
)  # fmt: skip

# These have a structure of their own, and no settings: their files say all of it.
STRUCTURED = {
    "au_nem12": "Australian NEM12",
    "us_green_button": "Green Button (ESPI) XML",
    "ch_sdat": "SDAT-CH E66 and E31 XML",
}


def recognised(header: Sequence[str]) -> NamedFormat | None:
    """The first format whose columns these are."""
    return next((each for each in FORMATS if each.matches(header)), None)


def named_format(name: str) -> NamedFormat:
    """The format of this name. Raises ConfigError with the names that there are."""
    for each in FORMATS:
        if each.name == name:
            return each
    names = ", ".join(["auto", *(each.name for each in FORMATS), *STRUCTURED])
    raise ConfigError(f"there is no file format {name!r}; there are {names}")
