"""`python -m faults`: run fault cases, one line each, and exit 1 if a promise was broken."""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from faults.cases import CASES
from faults.cases.full_disk import can_mount
from faults.options import Options
from faults.outcome import CaseOutcome
from gridhe.errors import GridHEError

__all__ = ["faults", "run_case"]


def run_case(name: str, options: Options) -> CaseOutcome:
    """One case; a failed process is a fault of the run, not an error of this program."""
    begun = time.monotonic()
    try:
        outcome = CASES[name](replace(options, say=lambda line: options.say(f"{name}: {line}")))
    except GridHEError as error:
        outcome = CaseOutcome.without_a_run(name, options.seed, faults=(str(error),))
    return replace(outcome, seconds=round(time.monotonic() - begun, 1))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("names", metavar="[CASE]...", nargs=-1)
@click.option(
    "--seed", type=int, default=1, show_default=True, help="Draws the schedule: the same again with it."
)
@click.option("--batches", type=click.IntRange(100), metavar="N", help="Instead of each case's own number.")
@click.option(
    "--scale",
    type=click.FloatRange(0.001, 1.0),
    default=1.0,
    show_default=True,
    help="Shrinks batches and repetitions: 0.1 is a quick look, 1 the figures of docs/reliability.md.",
)
@click.option("--minutes", type=float, default=60.0, show_default=True, help="How long `soak` takes.")
@click.option("--large-ring", is_flag=True, help="96 KB batches, as in the default plan, and not 24 KB.")
@click.option("--dir", "root", type=click.Path(path_type=Path), help="Where the runs have their folders.")
@click.option("--keep", is_flag=True, help="Leave the folders, with state and logs, for a look.")
@click.option("--all", "every", is_flag=True, help="Every case, and a soak of --minutes: well over an hour.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a case; a skipped one's passed is null."
)
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--list", "only_list", is_flag=True, help="Name the cases and exit.")
def faults(
    names: Sequence[str],
    seed: int,
    batches: int | None,
    scale: float,
    minutes: float,
    large_ring: bool,
    root: Path | None,
    keep: bool,
    every: bool,
    as_json: bool,
    quiet: bool,
    only_list: bool,
) -> None:
    """Kill, cut, fill, flip and delay; then check that every batch was counted exactly once.

    Real processes against a real Mosquitto (`apt install mosquitto`). Name the cases or give --all.

    \b
    Example:
      python -m faults everybody aggregator-kills --seed 7
    """
    if only_list:
        for name, case in CASES.items():
            click.echo(f"{name:<24} {(case.__doc__ or '').splitlines()[0]}")
        return
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise click.BadParameter(f"no case {unknown[0]!r}; they are {', '.join(CASES)}", param_hint="CASE")
    if every == bool(names):
        raise click.UsageError(
            "name the cases to run, or give --all alone for every case and the soak of "
            f"{minutes:g} minutes; --list names them"
        )
    logging.getLogger("gridhe").setLevel(logging.CRITICAL)  # the session logs much about killed brokers
    logging.getLogger("gridhe").addHandler(logging.NullHandler())
    options = Options(
        seed=seed,
        batches=batches,
        scale=scale,
        minutes=minutes,
        large_ring=large_ring,
        root=root,
        keep=keep,
        say=(lambda line: None) if quiet else (lambda line: click.echo(f"  {line}", err=True)),
    )
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for name in CASES if every else names:
        if name == "full-disk" and not can_mount():
            why = "it mounts small disks, and for that one has to be root"
            outcome = CaseOutcome.without_a_run(name, seed, skipped=why)
        else:
            outcome = run_case(name, options)
        click.echo(outcome.to_json() if as_json else outcome.line())
        for fault in outcome.faults:
            click.echo(f"     {fault}", err=True)
        counts["skipped" if outcome.skipped else "passed" if outcome.passed else "failed"] += 1
    # (With --json every line of the output is a case.)
    click.echo(", ".join(f"{count} {what}" for what, count in counts.items()), err=as_json)
    sys.exit(1 if counts["failed"] else 0)
