"""`gridhe-bench`: run suites, and read their timings back."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from gridhe.bench import suites
from gridhe.bench.local_store import LocalStore, default_folder
from gridhe.bench.record import Record
from gridhe.bench.recorder import Progress, Recorder, Setup
from gridhe.bench.store import new_run
from gridhe.bench.table import HEADINGS, aligned, rows_of
from gridhe.commands import run_command, version_option

__all__ = ["cli", "main"]

_SEED = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@version_option
def cli() -> None:
    """Measure what encryption costs and how far the pipeline carries, and compare runs."""


_home = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the local store keeps runs. Default: $GRIDHE_BENCH_HOME, else the user's data folder.",
)


@cli.command("run")
@click.argument("names", metavar="[SUITE]...", nargs=-1)
@click.option("--quick", is_flag=True, help="Fewer cases and repeats: everything in under 3 minutes.")
@click.option("--seed", type=int, default=_SEED, show_default=True, help="Draws readings and orders.")
@_home
def run_suites(names: Sequence[str], quick: bool, seed: int, home: Path | None) -> None:
    """Run suites (all of them by default) and keep their timings.

    \b
    Example:
      gridhe-bench run micro --quick
    """
    chosen = suites.load(names)
    store = LocalStore(home or default_folder())
    run = new_run(time.time())
    with tempfile.TemporaryDirectory(prefix="gridhe-bench-") as folder, Progress() as progress:
        setup = Setup(
            recorder=Recorder(store, run), progress=progress, quick=quick, seed=seed, folder=Path(folder)
        )
        try:
            for suite in chosen:
                suite.run(setup)
        finally:
            store.close()
    click.echo(run)


@cli.command("list")
@_home
def list_runs(home: Path | None) -> None:
    """List the runs, the newest first."""
    found = LocalStore(home or default_folder()).runs()
    rows = [(one.run, one.host, one.version, str(one.records), ", ".join(one.suites)) for one in found]
    click.echo(aligned(("run", "host", "version", "records", "suites"), rows, 5))


@cli.command("show")
@click.argument("run", metavar="RUN")
@_home
def show(run: str, home: Path | None) -> None:
    """Print a run's figures."""
    click.echo(_shown(LocalStore(home or default_folder()).read(run)))


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
