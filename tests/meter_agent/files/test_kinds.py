"""Each kind of export on ordinary days and on those of 23 and 25 hours, in excerpts written here.

The layouts are those of the portals and data sets named (facts); all numbers are invented.
"""

import datetime as dt
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gridhe.meter_agent.sources.files.check import understood
from gridhe.meter_agent.sources.files.read import read_file

DAYS = {"winter": dt.date(2024, 1, 10), "spring": dt.date(2024, 3, 31), "autumn": dt.date(2024, 10, 27)}
US_DAYS = {"winter": dt.date(2024, 1, 10), "spring": dt.date(2024, 3, 10), "autumn": dt.date(2024, 11, 3)}
METER = "meter"


@dataclass
class Day:
    """A local day: the instants of its intervals, and energies for two flows."""

    name: str
    zone: str
    step_s: int
    days: dict[str, dt.date]

    def __post_init__(self) -> None:
        midnight = dt.datetime.combine(self.days[self.name], dt.time(), ZoneInfo(self.zone))
        following = dt.datetime.combine(midnight.date() + dt.timedelta(1), dt.time(), ZoneInfo(self.zone))
        first, last = int(midnight.timestamp()), int(following.timestamp())
        rng = random.Random(f"{self.name} {self.zone}")
        self.starts = list(range(first, last, self.step_s))
        self.wh = [rng.randrange(20, 900) for _ in self.starts]
        self.export = [rng.randrange(0, 400) for _ in self.starts]

    def local(self, at_s: int, form: str) -> str:
        return dt.datetime.fromtimestamp(at_s, ZoneInfo(self.zone)).strftime(form)

    def start(self, form: str) -> list[str]:
        return [self.local(at, form) for at in self.starts]

    def end(self, form: str) -> list[str]:
        return [self.local(at + self.step_s, form) for at in self.starts]

    def iso(self, shift_s: int = 0) -> list[str]:
        zone = ZoneInfo(self.zone)
        return [dt.datetime.fromtimestamp(at + shift_s, zone).isoformat() for at in self.starts]

    def kwh(self, mark: str = ".", places: int = 3) -> list[str]:
        return [f"{wh / 1000:.{places}f}".replace(".", mark) for wh in self.wh]

    def out(self, mark: str = ".") -> list[str]:
        return [f"{wh / 1000:.3f}".replace(".", mark) for wh in self.export]

    def kw(self, mark: str = ".") -> list[str]:
        return [f"{wh * 3600 / self.step_s / 1000:.3f}".replace(".", mark) for wh in self.wh]


def lines(header: str, *columns: Iterable[str], delimiter: str = ";", newline: str = "\n") -> str:
    return newline.join([header, *map(delimiter.join, zip(*columns, strict=True)), ""])


def day_24(day: Day, form: str) -> list[str]:
    """End stamps with midnight as 24:00 of the day before."""
    found = []
    for at in day.starts:
        end = day.local(at + day.step_s, form)
        if day.local(at + day.step_s, "%H:%M") == "00:00":
            end = day.local(at, form)[: -len("00:00")] + "24:00"
        found.append(end)
    return found


def hours(day: Day) -> str:
    """The header of 96 quarter-hours, and the cells of this day: those that clocks skip are empty."""
    names = [f"{m // 60:02}:{m % 60:02}-{(m + 15) // 60:02}:{(m + 15) % 60:02}" for m in range(0, 1440, 15)]
    cells = dict(zip(day.start("%H:%M"), day.kwh(","), strict=True))
    return "Giorno;" + ";".join(names) + "\n31/03/2024;" + ";".join(
        f'"{cells[name[:5]]}"' if name[:5] in cells else "" for name in names
    ) + "\n"  # fmt: skip


Make = Callable[[Day], str]
BERLIN, PARIS = ("Europe/Berlin", 900), ("Europe/Paris", 1800)
# name: (zone, step), what the file has ("i" import, "e" export, "n" net), the text
KINDS: dict[str, tuple[tuple[str, int], str, Make]] = {
    "german load profile": (BERLIN, "i", lambda d: "Lastgang;DE00\n" + lines(
        "Datum;von;bis;Leistung [kW];Status", d.start("%d.%m.%Y"), d.start("%H:%M"), d.end("%H:%M"),
        d.kw(","), ["W"] * len(d.wh)) + "Summe kWh;;;10,041;\n"),
    "german portal, end stamps, 24:00": (BERLIN, "i", lambda d: lines(
        "Datum/Zeit;Wert (kWh)", day_24(d, "%d.%m.%Y %H:%M"), d.kwh(","))),
    "german portal, end stamps, next day": (BERLIN, "i", lambda d: lines(
        "Zeitstempel;Verbrauch (kWh)", d.end("%d.%m.%Y %H:%M"), d.kwh(","))),
    "german portal, newest first": (BERLIN, "i", lambda d: lines(
        "Zeitstempel;Verbrauch (kWh)", d.start("%d.%m.%Y %H:%M")[::-1], d.kwh(",")[::-1])),
    "swiss, two flows": (("Europe/Zurich", 900), "ie", lambda d: lines(
        "Timestamp;Bezug (kWh);Rückspeisung (kWh);Tarif", d.start("%d.%m.%Y %H:%M:%S"), d.kwh(), d.out(),
        ["NT"] * len(d.wh))),
    "austrian": (("Europe/Vienna", 900), "i", lambda d: lines(
        "Datum;Zeit von;Zeit bis;Verbrauch [kWh];", d.start("%d.%m.%Y"), d.start("%H:%M:%S"),
        d.end("%H:%M:%S"), d.kwh(","), [""] * len(d.wh))),
    "enedis, mean W": (PARIS, "i", lambda d: lines(
        "Horodate;Valeur", d.iso(1800), [str(wh * 2) for wh in d.wh])),
    "enedis 2025": (PARIS, "i", lambda d: lines(
        "Début;Fin;Valeur (en kW)", d.start("%d/%m/%Y %H:%M:%S"), d.end("%d/%m/%Y %H:%M:%S"), d.kw(","))),
    "datadis": (("Europe/Madrid", 3600), "ie", lambda d: lines(
        "fecha;hora;consumo_kWh;metodoObtencion;energiaVertida_kWh".replace("fecha", "cups;fecha"),
        [METER] * len(d.wh), d.start("%Y/%m/%d"), [f"{n + 1:02}:00" for n in range(len(d.wh))], d.kwh(","),
        ["Real"] * len(d.wh), d.out(","))),
    "spanish distributor": (("Europe/Madrid", 3600), "i", lambda d: lines(
        "CUPS;Fecha;Hora;AE_kWh;REAL/ESTIMADO", [METER] * len(d.wh), d.start("%d/%m/%Y"),
        [str(n + 1) for n in range(len(d.wh))], d.kwh(","), ["R"] * len(d.wh))),
    "danish": (("Europe/Copenhagen", 3600), "i", lambda d: lines(
        "\ufeffMålepunktsID;Fra_dato;Til_dato;Mængde;Måleenhed;Kvalitet;Type", [METER] * len(d.wh),
        d.start("%d-%m-%Y %H:%M:%S"), d.end("%d-%m-%Y %H:%M:%S"), d.kwh(","), ["KWH"] * len(d.wh),
        ["Målt"] * len(d.wh), ["Tidsserie"] * len(d.wh))),
    "norwegian": (("Europe/Oslo", 3600), "ie", lambda d: lines(
        "Fra;Til;KWH 60 Forbruk;KWH 60 Produksjon", d.start("%d.%m.%Y %H:%M"), d.end("%d.%m.%Y %H:%M"),
        d.kwh(","), d.out(","))),
    "finnish": (("Europe/Helsinki", 3600), "i", lambda d: lines(
        "\ufeffMittauspisteen tunnus;Resoluutio;Yksikkötyyppi;Alkuaika;Määrä;Laatu", [METER] * len(d.wh),
        ["PT1H"] * len(d.wh), ["kWh"] * len(d.wh),
        [f"{dt.datetime.fromtimestamp(at, dt.UTC):%Y-%m-%dT%H:%M:%SZ}" for at in d.starts], d.kwh(",", 6),
        ["OK"] * len(d.wh))),
    "swedish": (("Europe/Stockholm", 3600), "i", lambda d: lines(
        "Datum\tFörbrukning (kWh)\t", d.start("%Y-%m-%d %H:%M"), d.kwh(","), [""] * len(d.wh),
        delimiter="\t")),
    "polish": (("Europe/Warsaw", 3600), "ie", lambda d: lines(
        "Data;Wartość kWh;Rodzaj", [f"{text[:11]}{int(text[11:13]) + 1}:00" for text in
        d.start("%Y-%m-%d %H:%M")] * 2, d.kwh(",") + d.out(","),
        ["pobór"] * len(d.wh) + ["oddanie"] * len(d.wh))),
    "octopus": (("Europe/London", 1800), "i", lambda d: lines(
        "Consumption (kWh), Estimated Cost Inc. Tax (p), Start, End", d.kwh(), ["3.5"] * len(d.wh), d.iso(),
        d.iso(1800), delimiter=", ")),
    "dutch": (("Europe/Amsterdam", 900), "ie", lambda d: lines(
        "OpnameDatum;Verbruik (kWh);Teruglevering (kWh)", d.start("%Y-%m-%d %H:%M"), d.kwh(","), d.out(","))),
    "belgian": (("Europe/Brussels", 900), "i", lambda d: lines(
        "Van (datum);Van (tijdstip);Tot (datum);Tot (tijdstip);Register;Volume;Eenheid", d.start("%d-%m-%Y"),
        d.start("%H:%M:%S"), d.end("%d-%m-%Y"), d.end("%H:%M:%S"), ["Afname Dag"] * len(d.wh), d.kwh(","),
        ["kWh"] * len(d.wh))),
    "epoch milliseconds": (BERLIN, "i", lambda d: lines(
        "time,kWh", [str(at * 1000) for at in d.starts], d.kwh(), delimiter=",")),
    "register": (BERLIN, "ie", lambda d: lines(
        "Datum;Zeit;Zählerstand 1.8.0 [kWh];Zählerstand 2.8.0 [kWh]",
        [*d.start("%d.%m.%Y"), d.end("%d.%m.%Y")[-1]], [*d.start("%H:%M"), d.end("%H:%M")[-1]],
        [f"{1234.5 + sum(d.wh[:n]) / 1000:.3f}".replace(".", ",") for n in range(len(d.wh) + 1)],
        [f"{sum(d.export[:n]) / 1000:.3f}".replace(".", ",") for n in range(len(d.wh) + 1)])),
    "registers of two tariffs": (BERLIN, "i", lambda d: lines(
        "Date;Index HP (kWh);Index HC (kWh)", [*d.iso(), d.iso(900)[-1]],
        [f"{77 + sum(wh // 3 for wh in d.wh[:n]) / 1000:.3f}" for n in range(len(d.wh) + 1)],
        [f"{5 + sum(wh - wh // 3 for wh in d.wh[:n]) / 1000:.3f}" for n in range(len(d.wh) + 1)])),
    "united states, 12-hour clock": (("America/Los_Angeles", 3600), "n", lambda d: '"JANE DOE",,,,\n' + lines(
        '"Meter Number","Date","Start Time","Duration","Consumed"', [METER] * len(d.wh), d.start("%m/%d/%Y"),
        d.start("%I:%M:%S %p"), ["Hour"] * len(d.wh), d.kwh(places=14), delimiter=",")),
    "pg&e": (("America/Los_Angeles", 3600), "i", lambda d: 'Name,JANE DOE\nAddress,"1 X ST, Y"\n\n' + lines(
        "TYPE,DATE,START TIME,END TIME,USAGE (kWh),COST,NOTES", ["Electric usage"] * len(d.wh),
        d.start("%Y-%m-%d"), d.start("%H:%M"), d.start("%H:59"), d.kwh(), ["$0.10"] * len(d.wh),
        [""] * len(d.wh), delimiter=",")),
    "hours as columns": (("Europe/Madrid", 3600), "i", lambda d:
        "CUPS;Fecha;" + ";".join(f"H{n} kWh"[:3].strip() for n in range(1, 26)) + f"\n{METER};"
        + d.start("%d/%m/%Y")[0] + ";" + ";".join(d.kwh(",") + [""] * (25 - len(d.wh))) + "\n"),
}  # fmt: skip


@pytest.mark.parametrize("when", ["winter", "spring", "autumn"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_day_is_read_to_the_watt_hour(kind: str, when: str, tmp_path: Path) -> None:
    (zone, step_s), flows, make = KINDS[kind]
    day = Day(when, zone, step_s, US_DAYS if zone.startswith("America") else DAYS)
    encoding = "utf-16" if kind == "swedish" else "iso-8859-1" if "load profile" in kind else "utf-8"
    path = tmp_path / "x.csv"
    path.write_bytes(make(day).encode(encoding))
    table = read_file(path, options={"unit": "kWh"} if kind == "hours as columns" else None)
    found = {
        quantity: [(each.start_s, each.wh) for each in table.intervals() if each.quantity == quantity]
        for quantity in table.values
    }
    main = "net" if flows == "n" else "import"
    assert found.pop(main) == list(zip(day.starts, day.wh, strict=True))
    if "e" in flows:
        assert found.pop("export") == list(zip(day.starts, day.export, strict=True))
    assert found == {}
    assert understood(table)
    assert {each.end_s - each.start_s for each in table.intervals()} == {step_s}


def test_a_row_of_96_cells_skips_the_hour_that_is_not(tmp_path: Path) -> None:
    day = Day("spring", "Europe/Rome", 900, DAYS)
    path = tmp_path / "x.csv"
    path.write_text(hours(day))
    assert [(e.start_s, e.wh) for e in read_file(path).intervals()] == list(
        zip(day.starts, day.wh, strict=True)
    )


def test_repro_a_repeated_hour_that_is_there_once_is_missing(tmp_path: Path) -> None:
    day = Day("autumn", "Europe/Berlin", 3600, DAYS)
    stamps, kwh = day.start("%d.%m.%Y %H:%M"), day.kwh(",")
    path = tmp_path / "x.csv"
    path.write_text(lines("Zeitstempel;Verbrauch (kWh)", stamps[:3] + stamps[4:], kwh[:3] + kwh[4:]))
    table = read_file(path)
    found = {each.start_s: each.wh for each in table.intervals()}
    assert found == {at: None if n in (2, 3) else day.wh[n] for n, at in enumerate(day.starts)}
    assert not understood(table)
