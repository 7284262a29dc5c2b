"""`gridhe-bench`: run suites and read their timings."""

import contextlib
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from gridhe.base.commands import run_command, version_option
from gridhe.base.logs import set_up_logging
from gridhe.base.output import echo
from gridhe.base.table import aligned
from gridhe.bench import suites
from gridhe.bench.compare import compare, coverage, differences, shown
from gridhe.bench.extras import check_extra, needs_extra
from gridhe.bench.local_store import LocalStore, default_folder
from gridhe.bench.record import Record
from gridhe.bench.record_table import aligned_records
from gridhe.bench.recorder import Recorder, Setup, Suite, SuiteProgress
from gridhe.bench.steps import add_steps
from gridhe.bench.store import FAILED, new_run
from gridhe.bench.stores import BothStores, open_influx, open_store, push
from gridhe.config.settings import LoggingSettings
from gridhe.errors import GridHEError, StoreError

__all__ = ["cli", "main"]

_SEED = 1
_FAILED = 1
_REASON = 300  # the most characters of a failure's reason
_REGRESSED = 3
P = ParamSpec("P")
R = TypeVar("R")


def _store_options(function: Callable[P, R]) -> Callable[P, R]:
    """Add the options --store, --home and --influx-* to a command."""
    options = [
        click.option(
            "--store",
            type=click.Choice(["local", "influx"]),
            default="local",
            show_default=True,
            help="The store of the timings.",
        ),
        click.option(
            "--home",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            help="The local store's folder. Default: $GRIDHE_BENCH_HOME, else the user's data folder.",
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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@version_option
def cli() -> None:
    """Measure the cost of encryption and the throughput of the pipeline, and compare runs."""
    set_up_logging(LoggingSettings(level="warning", format="text"))


@cli.command("run")
@click.argument("names", metavar="[SUITE]...", nargs=-1)
@click.option("--quick", is_flag=True, help="Fewer cases and repeats: all suites in under 3 minutes.")
@click.option(
    "--seed",
    type=int,
    default=_SEED,
    show_default=True,
    help="Seed of the readings and of the order of measuring.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write the report to DIR, as `gridhe-bench report` does.",
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
) -> int:
    """Run suites (default: all), store their timings and print the run's name.

    If a suite fails, its reason is recorded, the next suites still run, and the exit code is 1. After Ctrl-C
    the timings measured so far are stored.

    With --store influx the timings go to the local store as well, so that a run loses nothing if InfluxDB
    is not reachable; `gridhe-bench push RUN` sends it later.

    \b
    Suites:
      micro, peers, security, batch-size, service, scale, meters, intervals
    Examples:
      gridhe-bench run --quick
      gridhe-bench run micro service --out report
    """
    with needs_extra("gridhe-bench run"):
        chosen = suites.load(names)
    if out is not None:
        # Not imported yet: it would add to the memory that is measured.
        check_extra("gridhe-bench run --out", "matplotlib")
    target = _open_to_write(store, home, _influx(influx_url, influx_org, influx_bucket))
    run = new_run(time.time())
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="gridhe-bench-") as folder, SuiteProgress() as progress:
            progress.say(f"run {run}")
            setup = Setup(
                recorder=Recorder(target, run), progress=progress, quick=quick, seed=seed, folder=Path(folder)
            )
            with contextlib.closing(target):
                failed = [suite.NAME for suite in chosen if not _succeeds(suite, setup)]
            progress.say(f"{time.monotonic() - started:.0f} s; gridhe-bench show {run}")
    except KeyboardInterrupt:
        _warn_of_missed(target, run)
        echo(_interrupted(target, run), err=True)
        raise
    _warn_of_missed(target, run)
    echo(run)
    if out is not None:
        _write_report([target.read(run)], out)
    if failed:
        echo(f"error: {len(failed)} of {len(chosen)} suites failed: {', '.join(failed)}", err=True)
    return _FAILED if failed else 0


@cli.command("list")
@_store_options
def list_runs(
    store: str, home: Path | None, influx_url: str | None, influx_org: str | None, influx_bucket: str | None
) -> None:
    """List the runs, the newest first."""
    with contextlib.closing(
        open_store(store, home, _influx(influx_url, influx_org, influx_bucket))
    ) as opened:
        runs = opened.runs()
    rows = [(one.run, one.host, one.version, str(one.records), ", ".join(one.suites)) for one in runs]
    echo(aligned(("run", "host", "version", "records", "suites"), rows, right=()))


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
    echo(_shown(_read([run], store, home, _influx(influx_url, influx_org, influx_bucket))[0]))


@cli.command("report")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench-report"),
    show_default=True,
    metavar="DIR",
    help="Folder for report.html, report.md and the plots.",
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
    """Write one page of plots and tables. If several runs have a metric, the last run counts."""
    _write_report(_read(runs, store, home, _influx(influx_url, influx_org, influx_bucket)), out)


@cli.command("compare")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--fail-on-regression", is_flag=True, help=f"Exit with {_REGRESSED} if a metric of B is worse.")
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
    """Print how run B differs from run A, and which differences are larger than noise.

    It is an error if the runs have no metric in common.
    """
    old, new = _read([before, after], store, home, _influx(influx_url, influx_org, influx_bucket))
    changes = compare(old, new)
    echo(shown(changes))
    regressions = sum(change.verdict == "regression" for change in changes)
    echo(f"\n{len(changes)} metrics compared, {regressions} regressions")
    for line in coverage(old, new, changes):
        echo(line)
    for line in differences(old, new):
        echo(f"warning: {line}", err=True)
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
    """Send a run of the local store to InfluxDB. Repeating it is harmless."""
    with contextlib.closing(open_influx(_influx(influx_url, influx_org, influx_bucket))) as influx:
        sent = push(run, LocalStore(home or default_folder()), influx)
        echo(f"{sent} records are in {influx.settings.url}, bucket {influx.settings.bucket}")


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
    """Store the --timings files of pipeline processes as a new run."""
    run = new_run(time.time())
    target = _open_to_write(store, home, _influx(influx_url, influx_org, influx_bucket))
    with contextlib.closing(target):
        if not sum([add_steps(Recorder(target, run), file, suite="pipeline") for file in files]):
            raise StoreError(
                f"there are no steps in {', '.join(map(str, files))}: a process writes them when it ends"
            )
    _warn_of_missed(target, run)
    echo(run)


def _open_to_write(store: str, home: Path | None, influx: dict[str, str | None]) -> LocalStore | BothStores:
    local = LocalStore(home or default_folder())
    if store == "local":
        return local
    return BothStores(local, open_influx(influx))


def _succeeds(suite: Suite, setup: Setup) -> bool:
    """Run a suite. A failure becomes a note of the run, so that the other suites still run."""
    try:
        suite.run(setup)
    except Exception as error:
        if _holds_interrupt(error):
            # Ctrl-C also ends the suite's processes, and an error of the cleanup can hide it.
            raise KeyboardInterrupt from error
        reason = _reason(error)
        setup.progress.say(f"{suite.NAME}: failed: {reason}")
        setup.recorder.add(suite.NAME, "suite", FAILED, 1.0, "note", better="neither", note=reason)
        return False
    return True


def _holds_interrupt(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _reason(error: Exception) -> str:
    """The error in one line; for an unexpected one also its place, because no traceback is printed."""
    text = " ".join(str(error).split())
    if isinstance(error, GridHEError):
        return text[:_REASON]
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f" ({Path(last.filename).name}, line {last.lineno})"
    return f"{type(error).__name__}: {text}"[: _REASON - len(where)] + where


def _interrupted(target: LocalStore | BothStores, run: str) -> str:
    try:
        count = len(target.read(run))
    except StoreError:
        return f"run {run}: nothing was measured yet"
    return f"run {run}: {count} records are stored; gridhe-bench show {run}"


def _warn_of_missed(target: LocalStore | BothStores, run: str) -> None:
    if isinstance(target, BothStores) and target.missed is not None:
        text = f"warning: {target.missed}\nwarning: send it later with: gridhe-bench push {run}"
        echo(text, err=True)


def _influx(url: str | None, org: str | None, bucket: str | None) -> dict[str, str | None]:
    return {"url": url, "org": org, "bucket": bucket}


def _read(
    runs: Sequence[str], store: str, home: Path | None, influx: dict[str, str | None]
) -> list[list[Record]]:
    with contextlib.closing(open_store(store, home, influx)) as opened:
        return [opened.read(run) for run in runs]


def _write_report(runs: list[list[Record]], out: Path) -> None:
    # Imported here, so that the other commands start without matplotlib.
    with needs_extra("the report"):
        from gridhe.bench.report import write_report

    echo(str(write_report(runs, out)), err=True)


def _shown(records: list[Record]) -> str:
    lines = [f"run {records[0].run}, gridhe {records[0].version}, on {records[0].host}", records[0].machine]
    for suite in dict.fromkeys(record.suite for record in records):
        lines += ["", suite, aligned_records([record for record in records if record.suite == suite])]
    return "\n".join(lines)


def main() -> None:
    """The console script."""
    run_command(cli)


if __name__ == "__main__":
    main()
