"""`gridhe-meter check`: what would be read from a file of readings."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import click

from gridhe.base.output import echo
from gridhe.errors import SourceError

__all__ = ["check"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--format",
    "format_name",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="The file's format; a wrong name shows all. auto: decided from the whole file.",
)
@click.option(
    "--with",
    "words",
    multiple=True,
    metavar="KEY=VALUE",
    help="One setting of the format, such as unit=kWh or zone=Europe/Zurich; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object on one line.")
@click.option("--readings", is_flag=True, help="Print every interval as CSV instead of the report.")
def check(file: Path, format_name: str, words: tuple[str, ...], as_json: bool, readings: bool) -> None:
    """Show what would be read from FILE (CSV, XML, also gzip or zip): meters, times, gaps, cells set aside.

    Exit code 0 only if all of the file is understood, else 9. Nothing is sent, and text above a table's
    header line, which may hold names and addresses, is never shown.
    """
    from gridhe.meter_agent.sources.files.check import as_lines, as_record, understood
    from gridhe.meter_agent.sources.files.read import read_file
    from gridhe.meter_agent.sources.options import parse_options

    try:
        table = read_file(file, format_name=format_name, options=parse_options(words))
    except SourceError as error:
        if as_json:
            echo(json.dumps({"file": str(file), "understood": False, "error": str(error)}))
        raise
    if readings:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["start_utc", "end_utc", "meter", "quantity", "wh", "flag"])
        for each in table.intervals():
            times = (
                datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                for s in (each.start_s, each.end_s)
            )
            writer.writerow(
                [*times, each.meter, each.quantity, "" if each.wh is None else each.wh, each.flag]
            )
        echo(out.getvalue(), nl=False)
    elif as_json:
        echo(json.dumps(as_record(table), separators=(",", ":")))
    else:
        for line in as_lines(table):
            echo(line)
    if not understood(table):
        count = sum(table.findings.open_counts.values())
        raise SourceError(
            f"{file}: {count} cells or rows are set aside and not understood: correct them, or read the file "
            "without them"
        )
