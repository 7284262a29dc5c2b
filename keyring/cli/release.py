"""`gridhe-keyring release`."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gridhe.base.commands import CommonOptions, common_options, timings_option
from gridhe.base.hangup import ignore_hangups
from gridhe.base.output import echo
from gridhe.base.timings import timings_to
from gridhe.errors import ConfigError, ReleaseRefused, StateError
from gridhe.keyring.cli.shared import broker_option, home_option, open_home, passphrase_option

if TYPE_CHECKING:
    from gridhe.keyring.release.queue import ReleaseOutcome

__all__ = ["release"]


@click.command()
@common_options
@timings_option
@home_option
@passphrase_option
@broker_option
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="Only this group; repeatable.")
@click.option(
    "--window", "windows", multiple=True, metavar="WINDOW", help="Only this window, by index or start time."
)
@click.option(
    "--all", "released_too", is_flag=True, help="Also give out again every total that was released before."
)
@click.option(
    "--idle-s",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Release, and end, after this time without a new total.",
)
@click.option(
    "--follow", is_flag=True, help="Stay online and release totals as they arrive, until SIGTERM or Ctrl-C."
)
@click.option(
    "--offline", is_flag=True, help="Use no broker; release only totals that are already in the inbox."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append each total to this regular file as a JSON line, once over all runs.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout instead of a table.")
def release(
    common: CommonOptions,
    timings: Path | None,
    home: Path,
    passphrase_file: Path | None,
    broker: str | None,
    groups: tuple[str, ...],
    windows: tuple[str, ...],
    released_too: bool,
    idle_s: float,
    follow: bool,
    offline: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Receive totals from the broker, and decrypt to integers those that the policy allows.

    Without --group or --window every waiting total is tried; a refusal is shown with its rule. With them
    only those totals are given out (again, if they were released before), and the exit code is 8 if one was
    refused; the groups inside a wide group are released first, because its total needs them. After each round
    the run waits for the wider totals that follow. A JSON line has `intervals`, or `refused` and `message`.

    --out only appends: every released total gets one line, and the line is on the disk before the total
    counts as given out. Lines that a crash or a full disk prevented are written at the next start. The file
    may be moved away at any time. With --all, --group or --window FILE gets the lines that it lacks.

    \b
    Examples:
      gridhe-keyring release --home authority
      gridhe-keyring release --home authority --group grid --window 2026-01-31 --json
      gridhe-keyring release --home authority --follow --out released.jsonl
    """
    from gridhe.keyring.release.service import ReleaseService

    if follow and offline:
        raise ConfigError("--follow needs the broker; remove --offline")
    settings = common.load({"broker.url": broker})
    if follow:
        ignore_hangups()
    asked = bool(groups or windows)
    with ExitStack() as stack:
        stack.enter_context(timings_to(timings, "authority"))
        printer = _Printer(as_json=as_json, follow=follow)
        authority = open_home(stack, home, passphrase_file)
        service = stack.enter_context(
            ReleaseService(
                authority,
                settings,
                emit=printer.emit,
                groups=groups,
                windows=windows,
                released_too=released_too,
                out=out,
                complete=released_too or (asked and not follow),
            )
        )
        try:
            outcomes = service.offline() if offline else service.online(idle_s=idle_s, follow=follow)
        finally:
            printer.finish()  # an error must not hide the totals released before it
    if asked and not follow:
        if not outcomes:
            raise StateError(
                "no total that you asked for has arrived; is the aggregator running, is the window closed?"
            )
        if any(outcome.record is None for outcome in outcomes):
            click.get_current_context().exit(ReleaseRefused.exit_code)


class _Printer:
    """Shows outcomes: JSON lines as they come, or a table."""

    def __init__(self, *, as_json: bool, follow: bool) -> None:
        self._json, self._follow = as_json, follow
        self._rows: list[dict[str, str]] = []
        self._released = self._refused = 0

    def emit(self, outcome: ReleaseOutcome) -> None:
        from gridhe.keyring.release.report import summary_of, table

        if self._json:
            echo(json.dumps(outcome.to_json(), separators=(",", ":")))
            sys.stdout.flush()
        if outcome.record is None or outcome.plan is None:
            self._refused += 1
            echo(f"refused: {outcome.message}", err=True)
            return
        self._released += 1
        if self._json:
            return
        row = summary_of(outcome.record, outcome.plan)
        if self._follow:
            echo(table([row])[1])
        else:
            self._rows.append(row)

    def finish(self) -> None:
        from gridhe.keyring.release.report import table

        for line in table(self._rows):
            echo(line)
        noun = "total" if self._released == 1 else "totals"
        echo(f"{self._released} {noun} released, {self._refused} refused", err=self._json)
