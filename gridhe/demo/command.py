"""`gridhe demo`: a whole grid on this machine, and the proof that its totals are exact."""

import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

import click

from gridhe.base.commands import CommonOptions, common_options
from gridhe.base.logs import set_up_logging
from gridhe.base.output import echo
from gridhe.config.settings import LoggingSettings, PlanSettings, QuantitySettings, Settings
from gridhe.demo.picture import draw
from gridhe.demo.progress import DemoProgress
from gridhe.demo.report import DemoOutcome, as_record, print_report, write_profile_csv, write_record
from gridhe.demo.run import DemoRun, RunOptions
from gridhe.demo.workload import from_csv, from_sample, live
from gridhe.errors import ConfigError
from gridhe.plan.names import ROOT_GROUP
from gridhe.plan.planner import choose

__all__ = ["demo"]

_LIVE_WINDOW_S = 5  # of --duration: five intervals of a second
_PORTS_WINDOW_S, _PORTS_INTERVAL_S = 20, 5  # of --source: two windows end within a minute
_PORTS_METERS, _PORTS_WINDOWS = 10, 2
_SESSION_EXPIRY_S = 600  # a demo needs its sessions for minutes, not for a week
# The sample homes stay below 10 kWh per hour. 25 bins of 400 Wh are finer than the default, and leave two
# thirds of the smallest ring that is exact to guards.
_SAMPLE_QUANTITY = QuantitySettings(largest=9_999, bins=25)
_PORTS_QUANTITY = QuantitySettings(largest=99, bins=25)  # Wh in 5 s: up to 70 kW
_LIVE_QUANTITY = QuantitySettings(name="import_w", unit="W", largest=9_999, bins=25)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--meters", type=click.IntRange(2), help="Meters. Default: 100; with --csv all columns.")
@click.option("--windows", type=click.IntRange(1), help="Windows of each meter. Default: 7.")
@click.option(
    "--groups",
    "--feeders",
    "groups",
    type=click.IntRange(1),
    help="Feeders, in two regions. Default: 4; with --source 1.",
)
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Your own readings, CSV or CSV.gz: a label or time, then one column per meter.",
)
@click.option(
    "--interval",
    type=click.IntRange(1),
    metavar="SECONDS",
    help="Seconds between two rows of --csv. Default: plan.interval_s.",
)
@click.option(
    "--duration",
    type=click.IntRange(_LIVE_WINDOW_S),
    metavar="SECONDS",
    help="Synthetic households in real time instead: a reading per second, windows of 5 s.",
)
@click.option(
    "--source",
    type=click.Choice(["p1"]),
    help="Simulated meters instead, with P1 ports (pseudo-terminals) that a gridhe-meter each reads: ten "
    "meters, a telegram a second, windows of 20 s. Default: 1 feeder and 2 windows.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the synthetic households.")
@click.option(
    "--preset",
    type=click.Choice(["auto", "light", "medium", "strong", "maximum"]),
    help="CKKS parameters. Default: ckks.preset; auto is the smallest exact ring.",
)
@click.option(
    "--broker",
    "broker_url",
    metavar="URL",
    help="Your own broker; it must accept all clients. Default: start one on loopback.",
)
@click.option(
    "--prefer-broker",
    type=click.Choice(["auto", "mosquitto", "iotcore"]),
    default="auto",
    show_default=True,
    help="The broker to start; auto: mosquitto if it is installed.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out"),
    show_default=True,
    metavar="DIR",
    help="Folder for tables, picture and released totals.",
)
@click.option("--keep", is_flag=True, help="Keep the processes' state, keys included, and print its folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; progress goes to stderr.")
@common_options
def demo(
    common: CommonOptions,
    meters: int | None,
    windows: int | None,
    groups: int | None,
    csv_file: Path | None,
    interval: int | None,
    duration: int | None,
    source: str | None,
    seed: int,
    preset: str | None,
    broker_url: str | None,
    prefer_broker: Literal["auto", "mosquitto", "iotcore"],
    out: Path,
    keep: bool,
    as_json: bool,
) -> int:
    """A whole grid on this machine: encrypt, add up, release, and prove it exact.

    Starts a key authority, a broker, an aggregator and a fleet of meters as separate processes, replays
    real households, and compares every released integer with the sum of the plaintext, which only this
    command has. Exit code 0: everything was released, and every integer is equal.

    \b
    Examples:
      gridhe demo
      gridhe demo --meters 537 --csv readings.csv.gz --interval 900 --groups 6
      gridhe demo --duration 30
      gridhe demo --source p1
    """
    if sum(each is not None for each in (csv_file, duration, source)) > 1:
        raise ConfigError(
            "--csv replays recorded readings, --duration makes synthetic ones, --source reads simulated "
            "meters: give one of them"
        )
    if interval is not None and csv_file is None:
        raise ConfigError("--interval is the time between two rows of --csv; give it only with --csv")
    flags: dict[str, Any] = {"ckks.preset": preset, "plan.interval_s": interval, "broker.url": broker_url}
    settings = _settings(
        common.load(flags, logging=False),
        csv=csv_file is not None,
        live=duration is not None,
        ports=source is not None,
    )
    # This command prints progress and a report; the logs of its processes are files.
    set_up_logging(LoggingSettings(level="warning", format="text"))
    plan = settings.plan
    shape: dict[str, Any] = {
        "groups": groups or (4 if source is None else 1),
        "minimum_meters": plan.minimum_meters,
        "window_s": plan.window_s,
        "interval_s": plan.interval_s,
    }
    if source is not None:
        meters, windows = meters or _PORTS_METERS, windows or _PORTS_WINDOWS
        workload = live(meters=meters, windows=windows, first=0, kind="meters with P1 ports", **shape)
    elif duration is not None:
        workload = live(meters=meters or 100, windows=windows or duration // plan.window_s, first=0, **shape)
    elif csv_file is not None:
        workload = from_csv(csv_file, meters=meters, windows=windows or 7, now_s=time.time(), **shape)
    else:
        workload = from_sample(meters=meters or 100, windows=windows or 7, now_s=time.time(), **shape)
    settings = _fitted(settings, len(workload.meters))
    choose(settings)  # a plan that cannot be exact is refused before anything is started
    out.mkdir(parents=True, exist_ok=True)
    options = RunOptions(
        broker_url=broker_url,
        prefer_broker=prefer_broker,
        live=duration is not None or source is not None,
        ports=source is not None,
        seed=seed,
        keep=keep,
    )
    totals = len(workload.members()) * workload.windows
    with DemoProgress(workload.batches, totals) as progress:
        outcome = DemoRun(
            settings=settings, workload=workload, options=options, out=out, progress=progress
        ).run()
        progress.step("drawing the load profile")
        outputs = _write(outcome, out)
    if as_json:
        echo(json.dumps(as_record(outcome)))
    else:
        print_report(outcome, outputs, sys.stdout)
    return 0 if outcome.proof.exact else 1


def _settings(settings: Settings, *, csv: bool, live: bool, ports: bool) -> Settings:
    """The user's settings, with the demo's plan if the user has not set one."""
    plan = settings.plan
    update: dict[str, Any] = {}
    if plan.quantities == PlanSettings().quantities and not csv:
        update["quantities"] = (_PORTS_QUANTITY if ports else _LIVE_QUANTITY if live else _SAMPLE_QUANTITY,)
    if ports:
        update |= {"window_s": _PORTS_WINDOW_S, "interval_s": _PORTS_INTERVAL_S}
    if live:
        update |= {"window_s": _LIVE_WINDOW_S, "interval_s": 1}
    return settings.model_copy(
        update={
            "plan": plan.model_copy(update=update),
            "broker": settings.broker.model_copy(update={"session_expiry_s": _SESSION_EXPIRY_S}),
            "logging": settings.logging.model_copy(update={"format": "json"}),
        }
    )


def _fitted(settings: Settings, meters: int) -> Settings:
    """The settings with largest_group and largest_rollup of at least `meters`."""
    plan = settings.plan
    update = {
        "largest_group": max(plan.largest_group, meters),
        "largest_rollup": max(plan.largest_rollup, meters),
    }
    return settings.model_copy(update={"plan": plan.model_copy(update=update)})


def _write(outcome: DemoOutcome, out: Path) -> list[Path]:
    """Write the output files; returns their paths."""
    profiles = outcome.profiles
    leaves = [profiles[group] for group in dict.fromkeys(outcome.workload.groups)]
    picture, table, record = out / "load_profile.png", out / "load_profile.csv", out / "report.json"
    smallest = min(profile.meters for profile in leaves)
    draw(
        picture,
        profiles[ROOT_GROUP],
        leaves,
        title=f"Load of {len(outcome.workload.meters)} meters in {len(leaves)} feeders, added up encrypted",
        note=f"{outcome.workload.origin}. Every number is a total over at least {smallest} meters, "
        f"released by the key authority; exact: {str(outcome.proof.exact).lower()}.",
    )
    write_profile_csv(table, list(profiles.values()))
    write_record(record, outcome)
    return [record, out / "releases.jsonl", table, picture]
