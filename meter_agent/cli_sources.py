"""`gridhe-meter sources` and `gridhe-meter probe`: what there is to read, and what a device says."""

from __future__ import annotations

import json
import sys

import click

from gridhe.base.logs import set_up_logging
from gridhe.base.output import echo
from gridhe.config.settings import LoggingSettings
from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.sources.options import parse_options, source_settings
from gridhe.meter_agent.sources.registry import DRIVERS, Driver, driver

__all__ = ["probe", "sources"]

_BUILT_IN = (
    ("synthetic", "made-up households, for trials", "nothing"),
    ("replay", "recorded readings: a CSV or XML file of a portal or of your own", "--csv FILE"),
)


@click.command(context_settings={"max_content_width": 100})
@click.argument("name", required=False, metavar="[NAME]")
def sources(name: str | None) -> None:
    """List the sources of readings, or the settings of source NAME."""
    if name is None:
        _list_all()
    elif name in [built_in for built_in, _, _ in _BUILT_IN]:
        raise click.UsageError(f"source {name} has flags of its own: gridhe-meter run --help")
    else:
        _show(driver(name))


def _list_all() -> None:
    for name, summary, needs in _BUILT_IN:
        echo(f"{name:<12}{summary}\n{'':<12}needs {needs}; installed")
    for each in DRIVERS:
        missing = each.missing()
        echo(f"{each.name:<12}{each.summary}\n{'':<12}needs {each.needs}")
        echo(f"{'':<12}{_install(each) if missing else 'installed'}")
    echo("\nSettings of a source: gridhe-meter sources NAME; what a device says: gridhe-meter probe NAME ...")


def _install(each: Driver) -> str:
    return f"not installed: pip install 'gridhe[{each.extra}]'"


def _show(each: Driver) -> None:
    from gridhe.meter_agent.sources.describe import describe

    echo(f"{each.name}: {each.summary}\nNeeds {each.needs}.\n")
    settings = describe(each.settings())
    width = max(len(one.name) for one in settings) + 2
    for one in settings:
        echo(f"{one.name:<{width}}{one.default}  ({one.kind})\n{'':<{width}}{one.meaning}")
    for line in each.notes():
        echo(f"\n{line}")
    echo(
        f"\nTry it:  gridhe-meter probe {each.name} {each.example}"
        f"\nRun it:  gridhe-meter run --source {each.name} "
        + " ".join(f"--with {word}" for word in each.example.split())
        + " --credential FILE --state-dir DIR"
    )


@click.command(context_settings={"max_content_width": 100})
@click.argument("source")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--for", "for_s", type=click.FloatRange(0.1), metavar="SECONDS", help="End after this long.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")
def probe(source: str, settings: tuple[str, ...], for_s: float | None, as_json: bool) -> int:
    """Show what a device says, what would be sealed of it, and what is wrong, until Ctrl-C.

    Readings are shown in clear, on this terminal only; nothing is sent or stored. Settings are those of
    gridhe-meter sources SOURCE. Exit code 0 if readings came, 9 if none did.

    \b
    gridhe-meter probe p1 address=/dev/ttyUSB0
    gridhe-meter probe sml address=tcp://192.168.1.7:5000 --for 60
    """
    if not (as_json or for_s is not None or sys.stdout.isatty()):
        raise ConfigError(
            "probe shows readings in clear, and standard output is no terminal: give --for SECONDS or --json "
            "if that is meant"
        )
    if source in [built_in for built_in, _, _ in _BUILT_IN]:
        rest = "; gridhe-meter check FILE shows what is read from a file" if source == "replay" else ""
        raise ConfigError(f"source {source} has no device to probe{rest}")
    set_up_logging(LoggingSettings(level="error", format="text"))
    chosen = source_settings(source, parse_options(settings))
    from gridhe.meter_agent.probe import Event, Preview, Probe, run_probe

    def show(event: Event) -> None:
        echo(json.dumps({"event": event.kind, **event.record}) if as_json else event.text)
        sys.stdout.flush()

    came = run_probe(
        driver(source).open_device(chosen), Probe(source, show, preview=Preview(chosen)), for_s=for_s
    )
    return 0 if came else SourceError.exit_code
