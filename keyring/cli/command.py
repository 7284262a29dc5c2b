"""`gridhe-keyring`: the key authority's command line.

Modules that need TenSEAL or the vault are imported when a command runs, so `--help` and `plan` stay fast.
"""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from gridhe.base.clock import check_clock
from gridhe.base.commands import CommonOptions, common_options, run_command, version_option
from gridhe.base.output import echo
from gridhe.base.times import iso
from gridhe.errors import ConfigError, StateError
from gridhe.keyring.cli.ca import ca
from gridhe.keyring.cli.enrol import enrol
from gridhe.keyring.cli.passphrase import passphrase
from gridhe.keyring.cli.release import release
from gridhe.keyring.cli.resume import resume
from gridhe.keyring.cli.shared import broker_option, home_option, open_home, passphrase_option

__all__ = ["cli", "main"]


@click.group()
@version_option
def cli() -> None:
    """The key authority: plans, keys, enrolment and the release of totals.

    \b
    A first grid:
      gridhe-keyring plan
      gridhe-keyring init --home authority
      gridhe-keyring enrol --home authority --aggregator agg1
      gridhe-keyring enrol --home authority --group north/f1 --count 25 --prefix n1-
      gridhe-keyring bundle --home authority --publish
      gridhe-keyring release --home authority
    """


@cli.command()
@common_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def plan(common: CommonOptions, as_json: bool) -> None:
    """Print the ring that the planner picks for the settings, and the reasons. Writes nothing.

    \b
    Examples:
      gridhe-keyring plan
      gridhe-keyring plan --set plan.largest_rollup=100000 --set plan.interval_s=900
    """
    from gridhe.plan.planner import choose

    explanation = choose(common.load()).explain()
    if as_json:
        echo(json.dumps(explanation))
        return
    for name, value in explanation.items():
        values = value if name == "rejected" else [value]
        for each in values or ["none"]:
            echo(f"{name.replace('_', ' '):<24} {_plain(each)}")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


@cli.command()
@common_options
@home_option
@passphrase_option
@click.option(
    "--first-window",
    default="0",
    metavar="WINDOW",
    help="The plan's first window, by index or start time. Default: 0.",
)
def init(common: CommonOptions, home: Path, passphrase_file: Path | None, first_window: str) -> None:
    """Make an authority: its signing key, its vault, the first key and plan.

    The passphrase protects the vault. Without it no total can be released, and it cannot be recovered.

    \b
    Examples:
      gridhe-keyring init --home authority
      gridhe-keyring init --home authority --config gridhe.yaml --first-window 2026-01-01
    """
    from gridhe.keyring.home.authority import AuthorityHome
    from gridhe.keyring.home.passphrase import ask_passphrase
    from gridhe.keyring.release.report import parse_window
    from gridhe.plan.planner import choose

    settings = common.load()
    first = parse_window(first_window, settings.plan.window_s)
    choose(settings)  # refuse a plan that cannot be exact before asking for a passphrase
    authority = AuthorityHome.init(
        home, settings, ask_passphrase(file=passphrase_file, confirm=True), first_window=first
    )
    made = authority.bundle().plan
    authority.close()
    echo(f"authority {made.authority} in {home}: plan {made.plan_id}, key {made.key_id}, {made.parameters}")
    echo(f"the broker's files are in {home / 'broker'}; enrol aggregators and meters next")


@cli.command()
@common_options
@home_option
@passphrase_option
@broker_option
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the bundle here."
)
@click.option("--publish", is_flag=True, help="Publish all plans and the roster on the broker, retained.")
def bundle(
    common: CommonOptions,
    home: Path,
    passphrase_file: Path | None,
    broker: str | None,
    out: Path | None,
    publish: bool,
) -> None:
    """Write the current bundle (plan and public key, signed) to a file, publish it, or both.

    \b
    Examples:
      gridhe-keyring bundle --home authority --out current.bundle
      gridhe-keyring bundle --home authority --publish
    """
    from gridhe.keyring.home.paths import HomePaths

    settings = common.load({"broker.url": broker})
    current, data = list(HomePaths(home).read_bundles().values())[-1]
    if out is not None:
        try:
            out.write_bytes(data)
        except OSError as error:
            raise StateError(f"cannot write {out}: {error.strerror or error}") from None
    if publish:
        from gridhe.keyring.release.service import publish_bundles

        with ExitStack() as stack:
            count = publish_bundles(open_home(stack, home, passphrase_file), settings)
        plans = "1 plan" if count == 1 else f"{count} plans"
        echo(f"published {plans} and the roster on {settings.broker.url}")
    echo(
        f"plan {current.plan.plan_id}, key {current.plan.key_id}, {len(data)} bytes"
        + (f": {out}" if out else "")
    )


@cli.command()
@common_options
@home_option
@passphrase_option
@click.option(
    "--first-window",
    metavar="WINDOW",
    help="The new plan's first window, by index or start time. Default: soon, with time to publish it.",
)
@click.option("--retire", metavar="KEY", help="Instead of making a key, delete this old secret key for ever.")
@click.option("--give-up", is_flag=True, help="With --retire: delete the key even if it is still needed.")
def rotate(
    common: CommonOptions,
    home: Path,
    passphrase_file: Path | None,
    first_window: str | None,
    retire: str | None,
    give_up: bool,
) -> None:
    """Make a new key and a plan for it, valid from a later window; or retire an old key.

    The old plan ends where the new one begins. Old keys stay in the vault, to release the totals encrypted
    under them, until you retire them. Afterwards run `bundle --publish`; a running `release --follow`
    publishes the change by itself.

    \b
    Examples:
      gridhe-keyring rotate --home authority
      gridhe-keyring rotate --home authority --first-window 2026-07-01
      gridhe-keyring rotate --home authority --retire k0123456789abcdef
    """
    from gridhe.keyring.release.report import parse_window

    settings = common.load()
    if first_window is not None and retire is not None:
        raise ConfigError("give --first-window (a new key) or --retire (an old key), not both")
    if give_up and retire is None:
        raise ConfigError("--give-up needs --retire")
    now_s = check_clock(time.time())
    with ExitStack() as stack:
        authority = open_home(stack, home, passphrase_file)
        if retire is not None:
            authority.retire(retire, now_s=now_s, give_up=give_up)
            echo(f"key {retire} is deleted: totals under it that were not released can never be decrypted")
            return
        first = None if first_window is None else parse_window(first_window, settings.plan.window_s)
        made = authority.rotate(settings, first, now_s=now_s).plan
        echo(f"plan {made.plan_id}, key {made.key_id}, {made.parameters}, from {iso(made.start_s)}")


@cli.command()
@home_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def inspect(home: Path, as_json: bool) -> None:
    """Show the contents of a home and verify its ledger. Needs no passphrase, changes nothing."""
    from gridhe.keyring.home.inspection import inspect_home, lines_of
    from gridhe.keyring.home.paths import HomePaths

    inspection = inspect_home(HomePaths(home))
    echo(json.dumps(inspection) if as_json else "\n".join(lines_of(inspection)))


cli.add_command(ca)
cli.add_command(enrol)
cli.add_command(passphrase)
cli.add_command(release)
cli.add_command(resume)


def main() -> None:
    """The `gridhe-keyring` command."""
    run_command(cli)
