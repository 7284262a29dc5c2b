"""`gridhe-bench`: run suites, and read their timings back."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from gridhe.bench import suites
from gridhe.bench.compare import compare, shown
from gridhe.bench.influx_store import InfluxSettings, InfluxStore
from gridhe.bench.local_store import LocalStore, default_folder
from gridhe.bench.record import Record
from gridhe.bench.recorder import Progress, Recorder, Setup
from gridhe.bench.steps import add_steps
from gridhe.bench.store import new_run
from gridhe.bench.stores import BothStores, open_store, push
from gridhe.bench.table import HEADINGS, aligned, rows_of
from gridhe.commands import run_command, version_option
from gridhe.config.settings import LoggingSettings
from gridhe.logs import set_up_logging

__all__ = ["cli", "main"]

_SEED = 1
_REGRESSED = 3
P = ParamSpec("P")
R = TypeVar("R")


def _store_options(function: Callable[P, R]) -> Callable[P, R]:
    """--store, --home and where InfluxDB is; a command gets them as `where: dict`."""
    options = [
        click.option(
            "--store",
            type=click.Choice(["local", "influx"]),
            default="local",
            show_default=True,
            help="Where the timings are.",
        ),
        click.option(
            "--home",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            help="The local store. Default: $GRIDHE_BENCH_HOME, else the user's data folder.",
        ),
        click.option("--influx-url", metavar="URL", help="Default: $INFLUXDB_V2_URL."),
        click.option("--influx-org", metavar="ORG", help="Default: $INFLUXDB_V2_ORG."),
        click.option(
            "--influx-bucket",
            metavar="BUCKET",
            help="Default: $INFLUXDB_V2_BUCKET; of InfluxDB 1.8: database/retention-policy. "
            "The token comes from $INFLUXDB_V2_TOKEN only.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


class _Lazy(click.Group):
    """`faults` is loaded when it is asked for: it brings brokers, processes and a secret key with it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "faults"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "faults":
            return super().get_command(ctx, cmd_name)
        from gridhe.bench.faults.command import faults

        return faults


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@version_option
def cli() -> None:
    """Measure what encryption costs and how far the pipeline carries, and compare runs."""
    set_up_logging(LoggingSettings(level="warning", format="text"))


@cli.command("run")
@click.argument("names", metavar="[SUITE]...", nargs=-1)
@click.option("--quick", is_flag=True, help="Fewer cases and repeats: everything in under 3 minutes.")
@click.option("--seed", type=int, default=_SEED, show_default=True, help="Draws readings and orders.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write the report there, as `gridhe-bench report` does.",
)
@_store_options
def run_suites(
    names: Sequence[str],
    quick: bool,
    seed: int,
    out: Path | None,
    store: str,
    home: Path | None,
    influx_url: str | None,
    influx_org: str | None,
    influx_bucket: str | None,
) -> None:
    """Run suites, all of them by default, keep their timings and print the run's name.

    With --store influx the timings go to the local store as well, so that a run loses nothing when
    InfluxDB is away; `gridhe-bench push RUN` sends it later.

    \b
    Suites:
      micro, peers, security, batch-size, service, scale, meters, intervals
    Examples:
      gridhe-bench run --quick
      gridhe-bench run micro service --out report
    """
    chosen = suites.load(names)
    kept = _open_to_write(store, home, _influx(influx_url, influx_org, influx_bucket))
    run = new_run(time.time())
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gridhe-bench-") as folder, Progress() as progress:
        setup = Setup(
            recorder=Recorder(kept, run), progress=progress, quick=quick, seed=seed, folder=Path(folder)
        )
        with contextlib.closing(kept):
            for suite in chosen:
                suite.run(setup)
        progress.say(f"{time.monotonic() - started:.0f} s; gridhe-bench show {run}")
    _warn_of_missed(kept, run)
    click.echo(run)
    if out is not None:
        _write_report([kept.read(run)], out)


@cli.command("list")
@_store_options
def list_runs(
    store: str, home: Path | None, influx_url: str | None, influx_org: str | None, influx_bucket: str | None
) -> None:
    """List the runs, the newest first."""
    with contextlib.closing(
        open_store(store, home, _influx(influx_url, influx_org, influx_bucket))
    ) as opened:
        found = opened.runs()
    rows = [(one.run, one.host, one.version, str(one.records), ", ".join(one.suites)) for one in found]
    click.echo(aligned(("run", "host", "version", "records", "suites"), rows, 5))


@cli.command("show")
@click.argument("run", metavar="RUN")
@_store_options
def show(
    run: str,
    store: str,
    home: Path | None,
    influx_url: str | None,
    influx_org: str | None,
    influx_bucket: str | None,
) -> None:
    """Print a run's figures."""
    click.echo(_shown(_read([run], store, home, _influx(influx_url, influx_org, influx_bucket))[0]))


@cli.command("report")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench-report"),
    show_default=True,
    metavar="DIR",
    help="Gets report.html, report.md and the plots.",
)
@_store_options
def report(
    runs: Sequence[str],
    out: Path,
    store: str,
    home: Path | None,
    influx_url: str | None,
    influx_org: str | None,
    influx_bucket: str | None,
) -> None:
    """Write one page of plots and tables; a metric measured in several runs is the last one's."""
    _write_report(_read(runs, store, home, _influx(influx_url, influx_org, influx_bucket)), out)


@cli.command("compare")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--fail-on-regression", is_flag=True, help=f"Exit with {_REGRESSED} when B is worse anywhere.")
@_store_options
def compare_runs(
    before: str,
    after: str,
    fail_on_regression: bool,
    store: str,
    home: Path | None,
    influx_url: str | None,
    influx_org: str | None,
    influx_bucket: str | None,
) -> int:
    """Print how run B differs from run A, and what of it is more than noise."""
    old, new = _read([before, after], store, home, _influx(influx_url, influx_org, influx_bucket))
    changes = compare(old, new)
    click.echo(shown(changes))
    regressions = sum(change.verdict == "regression" for change in changes)
    click.echo(f"\n{len(changes)} metrics compared, {regressions} regressions")
    return _REGRESSED if regressions and fail_on_regression else 0


@cli.command("push")
@click.argument("run", metavar="RUN")
@_store_options
def push_run(
    run: str,
    store: str,
    home: Path | None,
    influx_url: str | None,
    influx_org: str | None,
    influx_bucket: str | None,
) -> None:
    """Send a run of the local store to InfluxDB; again does no harm."""
    settings = InfluxSettings.load(_influx(influx_url, influx_org, influx_bucket))
    with contextlib.closing(InfluxStore(settings)) as influx:
        sent = push(run, LocalStore(home or default_folder()), influx)
    click.echo(f"{sent} records are in {settings.url}, bucket {settings.bucket}")


@cli.command("import")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False)
)
@_store_options
def import_steps(
    files: Sequence[Path],
    store: str,
    home: Path | None,
    influx_url: str | None,
    influx_org: str | None,
    influx_bucket: str | None,
) -> None:
    """Keep what processes of the pipeline wrote with their --timings, as a run of its own."""
    run = new_run(time.time())
    kept = _open_to_write(store, home, _influx(influx_url, influx_org, influx_bucket))
    with contextlib.closing(kept):
        for file in files:
            add_steps(Recorder(kept, run), file, suite="pipeline")
    _warn_of_missed(kept, run)
    click.echo(run)


def _open_to_write(store: str, home: Path | None, influx: dict[str, str | None]) -> LocalStore | BothStores:
    local = LocalStore(home or default_folder())
    if store == "local":
        return local
    return BothStores(local, InfluxStore(InfluxSettings.load(influx)))


def _warn_of_missed(kept: LocalStore | BothStores, run: str) -> None:
    if isinstance(kept, BothStores) and kept.missed is not None:
        text = f"warning: {kept.missed}\nwarning: send it later with: gridhe-bench push {run}"
        click.echo(text, err=True)


def _influx(url: str | None, org: str | None, bucket: str | None) -> dict[str, str | None]:
    return {"url": url, "org": org, "bucket": bucket}


def _read(
    runs: Sequence[str], store: str, home: Path | None, influx: dict[str, str | None]
) -> list[list[Record]]:
    with contextlib.closing(open_store(store, home, influx)) as opened:
        return [opened.read(run) for run in runs]


def _write_report(runs: list[list[Record]], out: Path) -> None:
    # Here, since it draws: the other commands start without matplotlib.
    from gridhe.bench.report import write_report

    click.echo(str(write_report(runs, out)), err=True)


def _shown(records: list[Record]) -> str:
    lines = [f"run {records[0].run}, gridhe {records[0].version}, on {records[0].host}", records[0].machine]
    for suite in dict.fromkeys(record.suite for record in records):
        lines += ["", suite, aligned(HEADINGS, rows_of(r for r in records if r.suite == suite), 4)]
    return "\n".join(lines)


def main() -> None:
    """The console script."""
    run_command(cli)


if __name__ == "__main__":
    main()
