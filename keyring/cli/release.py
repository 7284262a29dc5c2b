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
@click.option("--all", "released_too", is_flag=True, help="Give out again what was released before, too.")
@click.option(
    "--idle-s",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Quiet time that ends the taking in.",
)
@click.option(
    "--follow", is_flag=True, help="Stay online and release as totals come, until SIGTERM or Ctrl-C."
)
@click.option("--offline", is_flag=True, help="Only what has arrived before; no broker.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append each total here as a JSON line, once over all runs; a regular file.",
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
    """Take totals in from the broker, and turn those the policy allows into integers.

    Without --group or --window everything that waits is tried; refusals are told with their rule. With them
    exactly those are given out (again, if they were before), and the exit code is 8 if one was refused. A
    JSON line has `intervals`, or `refused` and `message`.

    --out appends and never empties: every released total gets one line, on the disk before it counts as given
    out. What a crash or a full disk kept out of the file is written at the next start. The file may be moved
    away at any time. With --all, --group or --window FILE gets what it does not hold yet.

    \b
    Examples:
      gridhe-keyring release --home authority
      gridhe-keyring release --home authority --group grid --window 2026-01-31 --json
      gridhe-keyring release --home authority --follow --out released.jsonl
    """
    from gridhe.keyring.release.service import ReleaseService

    if follow and offline:
        raise ConfigError("--follow needs the broker; leave --offline away")
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
            printer.finish()  # also of what was released before an error
    if asked and not follow:
        if not outcomes:
            raise StateError(
                "nothing that was asked for has arrived; is the aggregator running, the window closed?"
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
        echo(f"{self._released} totals released, {self._refused} refused", err=self._json)
