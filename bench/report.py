"""The report: one self-contained page, its plots as files, and the tables in Markdown."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from gridhe.bench.plots import Plot, draw
from gridhe.bench.record import Record
from gridhe.bench.record_table import HEADINGS, markdown_records, noted_rows
from gridhe.errors import StoreError

__all__ = ["write_report"]

_ABOUT = {
    "micro": "Each step of a batch alone, in the same rounds as what it is compared with.",
    "peers": (
        "512 readings, each with a presence flag: the same 1,024 numbers for every peer. gridhe's "
        "load+add also opens the envelope and checks sizes and residue ranges."
    ),
    "security": "Plain TenSEAL on one thread: the cost of a larger ring.",
    "batch-size": "A ciphertext has the same size full or nearly empty, so fill it.",
    "service": "One gridhe-aggregate, durable and with receipts, against subscribers that only count.",
    "scale": "Distinct meters replayed through the engine: time and memory must not grow with their number.",
    "meters": "The whole pipeline in real time: fleet, broker, aggregator and authority on this machine.",
    "pipeline": "Times of the steps of the pipeline's processes, from their --timings.",
    "intervals": "The whole pipeline, a reading every 1 to 30 seconds, in real time and at full speed.",
}
_ABOUT_RATIOS = (
    "Both sides were measured in the same rounds of the same run, so these are more reliable than times. "
    "time / other: how many times longer (less is better); rate / other: the share of its rate."
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { margin: 2.5rem 0 .2rem; font-size: 1.2rem }
p.machine, p.about { color: #4b5563; margin: .2rem 0 1rem } img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: .2rem .5rem; border-bottom: 1px solid #e5e7eb; text-align: left; white-space: nowrap }
th.n, td.n { text-align: right } td.w { white-space: normal }
summary { cursor: pointer; color: #1b6ca8; margin: .5rem 0 }
"""
_NUMBERS_FROM = 4


def write_report(runs: Sequence[Sequence[Record]], out: Path) -> Path:
    """Write report.html, report.md and the plots to `out`; return the page's path. Raises StoreError."""
    records = list({record.key: record for run in runs for record in run}.values())
    try:
        out.mkdir(parents=True, exist_ok=True)
        plots = draw([record for record in records if record.unit != "note"], out)
        origins = _origins(runs)
        (out / "report.md").write_text(_markdown(origins, records, plots), encoding="utf-8")
        page = out / "report.html"
        page.write_text(_page(origins, records, plots), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write the report to {out}: {error.strerror or error}") from error
    return page


def _suites(records: Sequence[Record]) -> list[str]:
    names = dict.fromkeys(record.suite for record in records)
    return [suite for suite in _ABOUT if suite in names] + [suite for suite in names if suite not in _ABOUT]


def _ratios(records: Sequence[Record]) -> list[Record]:
    """The ratios, which are comparable between machines."""
    return [record for record in records if record.unit == "x"]


def _origins(runs: Sequence[Sequence[Record]]) -> list[str]:
    """A line for each run, and warnings if hosts or versions differ."""
    firsts = list({run[0].run: run[0] for run in runs}.values())
    lines = [f"Run {one.run}, gridhe {one.version}, on {one.host}: {one.machine}." for one in firsts]
    for what, values in (
        ("hosts", dict.fromkeys(first.host for first in firsts)),
        ("versions of gridhe", dict.fromkeys(first.version for first in firsts)),
    ):
        if len(values) > 1:
            lines.append(
                f"Warning: these runs are of different {what} ({', '.join(values)}); their figures are not "
                "comparable."
            )
    return lines


def _markdown(origins: Sequence[str], records: Sequence[Record], plots: Sequence[Plot]) -> str:
    parts = list(origins)
    ratios = _ratios(records)
    if ratios:
        parts += ["## Ratios", _ABOUT_RATIOS, markdown_records(ratios, suite=True)]
    for suite in _suites(records):
        parts += [f"## {suite}", _ABOUT.get(suite, "")]
        parts += [f"![{plot.title}]({plot.path.name})" for plot in plots if plot.suite == suite]
        parts.append(markdown_records([record for record in records if record.suite == suite]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _page(origins: Sequence[str], records: Sequence[Record], plots: Sequence[Plot]) -> str:
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>gridhe bench</title>",
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style></head><body>",
        f"<h1>gridhe bench</h1><p class=machine>{'<br>'.join(html.escape(line) for line in origins)}</p>",
    ]
    ratios = _ratios(records)
    if ratios:
        parts.append(
            f"<h2 id=ratios>Ratios</h2><p class=about>{html.escape(_ABOUT_RATIOS)}</p>{_table(ratios)}"
        )
    for suite in _suites(records):
        parts.append(f"<h2 id={suite}>{suite}</h2><p class=about>{html.escape(_ABOUT.get(suite, ''))}</p>")
        for plot in plots:
            if plot.suite == suite:
                data = base64.b64encode(plot.path.read_bytes()).decode()
                parts.append(f"<img alt='{html.escape(plot.title)}' src='data:image/png;base64,{data}'>")
        mine = [record for record in records if record.suite == suite]
        parts.append(f"<details><summary>{len(mine)} figures</summary>{_table(mine)}</details>")
    return "\n".join(parts) + "\n</body></html>\n"


def _table(records: Sequence[Record]) -> str:
    head = "".join(
        f"<th{' class=n' if i >= _NUMBERS_FROM else ''}>{name}</th>" for i, name in enumerate(HEADINGS)
    )
    cells_of_rows, notes = noted_rows(records)
    rows = [f"<table><thead><tr>{head}</tr></thead><tbody>"]
    for record, row in zip(records, cells_of_rows, strict=True):
        wide = "w" if record.unit == "note" else "n"
        cells = "".join(
            f"<td{f' class={wide}' if i >= _NUMBERS_FROM else ''}>{html.escape(cell)}</td>"
            for i, cell in enumerate(row)
        )
        rows.append(f"<tr>{cells}</tr>")
    below = [f"<p class=about>{html.escape(note)}</p>" for note in notes]
    return "".join([*rows, "</tbody></table>", *below])
