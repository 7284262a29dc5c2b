"""`gridhe-meter`: one device, or a simulated fleet."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gridhe.base.commands import (
    CommonOptions,
    common_options,
    run_command,
    timings_option,
    trust_clock_option,
    version_option,
)
from gridhe.base.hangup import ignore_hangups
from gridhe.base.output import echo
from gridhe.base.timings import timings_to
from gridhe.config.load import Section
from gridhe.errors import ConfigError
from gridhe.meter_agent.cli_check import check
from gridhe.meter_agent.cli_sources import probe, sources
from gridhe.meter_agent.sources.registry import DRIVERS

if TYPE_CHECKING:
    from gridhe.config import Settings
    from gridhe.meter_agent.readings import SourceOptions
    from gridhe.meter_agent.sources.options import OpenedSource

__all__ = ["cli", "main"]


_REPEATABLE = ("synthetic", "replay")


class _Speed(click.ParamType[float | None]):
    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if value == "max" or value is None:
            return None
        try:
            speed = float(value)
        except ValueError:
            speed = 0.0
        if not 0 < speed < 1e9:
            self.fail(f"{value!r} is not a number above 0, or 'max'", param, ctx)
        return speed


class _Time(click.ParamType[int]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from gridhe.meter_agent.sources.files.moments import parse_time

        moment = parse_time(str(value))
        if moment is None or not moment.is_integer():
            self.fail(
                f"{value!r} is not a time: use 2024-01-31, 2024-01-31T12:00Z or seconds since 1970",
                param,
                ctx,
            )
        return int(moment)


def _source_options(function: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.option(
            "--state-dir",
            required=True,
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder of the outbox, the journal and the known plans. One process at a time.",
        ),
        click.option("--broker", metavar="URL", help="The same as --set broker.url=URL."),
        click.option(
            "--csv",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="File of readings to replay: one column a meter and one row an interval, or a portal's "
            "export "
            "(`gridhe-meter check FILE` shows what is read). Settings meter.on_negative, meter.on_too_large "
            "and "
            "meter.on_text decide about negative, too large and text cells. The last window waits until the "
            "file "
            "reaches its end; a file that grows is read again.",
        ),
        click.option(
            "--format",
            "file_format",
            default="auto",
            show_default=True,
            metavar="NAME",
            help="The format of --csv. auto: decided from the whole file.",
        ),
        click.option(
            "--quantity", metavar="NAME", help="The plan's quantity that the file holds. Default: the first."
        ),
        click.option("--loop", is_flag=True, help="Start the file again when it ends."),
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Random seed of the synthetic households."
        ),
        click.option(
            "--start",
            type=_Time(),
            metavar="TIME",
            help="The first window's start: ISO 8601 (UTC) or epoch seconds; row 0 of the file falls on it. "
            "Stored in the state directory. Default: the present window; with another --speed than 1, early "
            "enough that the last window is just over; for a file with time stamps, its first one.",
        ),
        click.option(
            "--windows", type=click.IntRange(1), metavar="N", help="Seal N windows of each meter, then stop."
        ),
        click.option(
            "--speed",
            type=_Speed(),
            default="1",
            show_default=True,
            metavar="X|max",
            help="Speed relative to real time, never ahead of the wall clock. 'max' seals as fast as "
            "receipts arrive.",
        ),
        click.option(
            "--stop-when-receipted/--keep-running",
            default=None,
            help="Exit 0 once every window is receipted or refused. Default with --windows.",
        ),
        click.option(
            "--json", "as_json", is_flag=True, help="Print a summary at the end, one JSON object on one line."
        ),
        trust_clock_option,
        timings_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _options(
    given: dict[str, Any], source: str, words: tuple[str, ...], live: OpenedSource | None = None
) -> SourceOptions:
    from gridhe.meter_agent.readings import SourceOptions
    from gridhe.meter_agent.sources.options import parse_options

    return SourceOptions(
        source=source,
        live=live,
        csv=given["csv"],
        format=given["file_format"],
        file_options=parse_options(words) if source == "replay" else {},
        quantity=given["quantity"],
        loop=given["loop"],
        seed=given["seed"],
        start_s=given["start"],
        windows=given["windows"],
        speed=given["speed"],
        partial=given.get("partial", False),
    )


def _source(
    common: CommonOptions, settings: Settings, chosen: str | None, words: tuple[str, ...]
) -> tuple[str, OpenedSource | None]:
    """The source's name, and its device if it has one. Raises ConfigError and SourceError."""
    from gridhe.meter_agent.sources.options import open_source

    if chosen is None and settings.source.driver is None:
        _refuse_a_section_without_driver(common.section("source"))
    source = chosen or settings.source.driver or "synthetic"
    if source not in _REPEATABLE:
        return source, open_source(source, words, common.section("source"))
    if words and source != "replay":
        raise ConfigError(f"--with {words[0]} is a device's setting, and --source {source} has no device")
    return source, None


def _refuse_a_section_without_driver(section: Section) -> None:
    """A device's settings without its driver would start a synthetic household in the meter's place."""
    for key in section.values:
        if key != "driver":
            raise ConfigError(
                f"source.{key} is set and source.driver is not: give driver, a name from "
                f"gridhe-meter sources ({section.origins[key]})"
            )


def _stops(given: dict[str, Any]) -> bool:
    chosen: bool | None = given["stop_when_receipted"]
    return given["windows"] is not None if chosen is None else chosen


def _finish(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo(json.dumps(summary, separators=(",", ":")))
    else:
        from gridhe.meter_agent.process import odd_samples

        echo(
            f"sealed {summary['sealed']}, receipted {summary['receipted']}, refused {summary['refused']}, "
            f"resent {summary['resent']}, dropped {summary['dropped']}, waiting {summary['waiting']} "
            f"in {summary['seconds']:.1f} s; {summary['ms_per_batch']:.2f} ms a batch"
            f"{odd_samples(summary['samples'])}",
            err=True,
        )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def cli() -> None:
    """Encrypt a meter's readings, publish them, and keep each batch on disk until its receipt."""


@cli.command()
@click.option(
    "--credential",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="This device's credential, from gridhe-keyring enrol (0600).",
)
@click.option(
    "--column", metavar="NAME", help="The file's column. Default: the meter's name, else the first."
)
@click.option(
    "--source",
    type=click.Choice([*_REPEATABLE, *(driver.name for driver in DRIVERS)]),
    help="Synthetic households, recorded ones from --csv, or a device (`gridhe-meter sources` lists them). "
    "Default: source.driver in the settings, else synthetic.",
)
@click.option(
    "--with",
    "words",
    multiple=True,
    metavar="KEY=VALUE",
    help="One setting of the device, such as address=/dev/ttyUSB0, which overrides section source of the "
    "settings; "
    "or of --csv's format, such as unit=kWh. Repeatable. Secrets are in files that only their owner can "
    "read.",
)
@click.option("--partial", is_flag=True, help="When the source ends, also seal its last, incomplete window.")
@_source_options
@common_options
def run(
    common: CommonOptions,
    credential: Path,
    state_dir: Path,
    broker: str | None,
    words: tuple[str, ...],
    **given: Any,
) -> None:
    """Run one device until SIGTERM, or with --windows until all is receipted.

    Survives power cuts and weeks offline: --state-dir holds a journal of the readings and every sealed
    batch until its receipt. A sealed window is always published with the same bytes.
    """
    settings = common.load({"broker.url": broker})
    ignore_hangups()
    from gridhe.meter_agent.process import MeterProcess
    from gridhe.wire.credential import load_device

    source, live = _source(common, settings, given["source"], words)
    options = _options(given, source, words, live)
    device = load_device(credential)
    with timings_to(given["timings"], "meter"):
        summary = MeterProcess(
            credentials=[device],
            state_dir=state_dir,
            settings=settings,
            options=options,
            devices=True,
            stop_when_receipted=_stops(given),
            trust_clock=given["trust_clock"],
            column=given["column"],
        ).run()
    _finish(summary, given["as_json"])


@cli.command()
@click.option(
    "--credentials",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The fleet's credential, from gridhe-keyring enrol (0600).",
)
@click.option(
    "--connections",
    type=click.Choice(["each", "shared"]),
    default="each",
    show_default=True,
    help="One MQTT connection for each meter, or one for all (broker user 'fleet').",
)
@click.option(
    "--source",
    type=click.Choice(_REPEATABLE),
    default="synthetic",
    show_default=True,
    help="Synthetic households, or recorded ones from --csv.",
)
@click.option(
    "--with",
    "words",
    multiple=True,
    metavar="KEY=VALUE",
    help="One setting of --csv's format, such as unit=kWh or zone=Europe/Zurich; repeatable.",
)
@click.option(
    "--skip-columns",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="If columns are assigned by order and not by name: skip the first N.",
)
@_source_options
@common_options
def fleet(
    common: CommonOptions,
    credentials: Path,
    state_dir: Path,
    broker: str | None,
    words: tuple[str, ...],
    **given: Any,
) -> None:
    """Simulate many meters in one process, with one outbox and one encryption context.

    A replayed meter reads the column with its name. If no column has the name of a meter, columns are
    assigned in order.
    """
    settings = common.load({"broker.url": broker})
    ignore_hangups()
    from gridhe.meter_agent.process import MeterProcess
    from gridhe.wire.credential import load_fleet

    if words and given["source"] != "replay":
        raise ConfigError(f"--with {words[0]} is a setting of a file: it goes with --source replay")
    options = _options(given, given["source"], words)
    loaded = load_fleet(credentials)
    with _Bar() as bar, timings_to(given["timings"], "fleet"):
        summary = MeterProcess(
            credentials=loaded.devices,
            state_dir=state_dir,
            settings=settings,
            options=options,
            devices=False,
            connections=given["connections"],
            shared_password=loaded.password,
            stop_when_receipted=_stops(given),
            trust_clock=given["trust_clock"],
            skip_columns=given["skip_columns"],
            on_progress=bar.show if bar.wanted else None,
        ).run()
    _finish(summary, given["as_json"])


class _Bar:
    """A progress bar, on a terminal only; otherwise progress is logged."""

    def __init__(self) -> None:
        self.wanted = sys.stderr.isatty()
        self._bar: Any = None
        self._shown = 0

    def show(self, settled: int, expected: int | None) -> None:
        """`settled` of `expected` batches are receipted."""
        if expected is None:
            return
        if self._bar is None:
            self._bar = click.progressbar(
                length=max(1, expected), label="receipted", file=sys.stderr, show_pos=True
            )
            self._bar.__enter__()
        self._bar.update(max(0, min(settled, expected) - self._shown))
        self._shown = max(self._shown, min(settled, expected))

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


cli.add_command(sources)
cli.add_command(probe)
cli.add_command(check)


def main() -> None:
    """The `gridhe-meter` command."""
    run_command(cli)


if __name__ == "__main__":
    main()
