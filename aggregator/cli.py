"""`gridhe-aggregate`: run one aggregator."""

import gc
import importlib.util
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from gridhe.aggregator.service import AggregatorService
from gridhe.aggregator.state.database import Database
from gridhe.aggregator.state.quarantine import Quarantine
from gridhe.aggregator.view import LiveView, LogView
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
from gridhe.config.settings import Settings
from gridhe.wire.credential import AggregatorCredential, load_aggregator

__all__ = ["cli", "main"]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--credential",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="This aggregator's credential, from `gridhe-keyring enrol --aggregator ID`.",
)
@click.option(
    "--state-dir",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the running totals; created if absent, used by one process at a time.",
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="FILTER",
    help="Topic filter of the batches to fold; repeatable. Default: gridhe/v1/batch/#. A group that the "
    "filters cover only partly is not rolled up.",
)
@click.option("--broker", "broker_url", metavar="URL", help="The same as --set broker.url=URL.")
@click.option("--no-live", is_flag=True, help="Log lines instead of the live table, even on a terminal.")
@trust_clock_option
@click.option("--quarantine", is_flag=True, help="List the newest rejected payloads and exit.")
@timings_option
@version_option
@common_options
def cli(
    credential: Path,
    state_dir: Path,
    filters: tuple[str, ...],
    broker_url: str | None,
    no_live: bool,
    trust_clock: bool,
    quarantine: bool,
    timings: Path | None,
    common: CommonOptions,
) -> None:
    """Fold meters' encrypted batches into group totals that this machine cannot decrypt.

    Subscribes to the batches of all enrolled meters (or those of --filter), checks and adds them,
    commits about once a second, sends receipts, closes windows and publishes signed totals. Stop it with
    SIGTERM or Ctrl-C at any time: receipted batches are on disk, and meters send the others again.

    \b
    Example:
      gridhe-aggregate --credential aggregator-main.json --state-dir /var/lib/gridhe \\
          --broker mqtts://broker.example:8883 --set broker.ca_file=ca.pem
    """
    overrides = {"broker.url": broker_url, "aggregator.filters": list(filters) or None}
    settings = common.load(overrides)
    ignore_hangups()
    loaded = load_aggregator(credential)
    if quarantine:
        _list_quarantine(loaded, state_dir)
        return
    with timings_to(timings, "aggregator"):
        service = AggregatorService(
            settings=settings, credential=loaded, state_dir=state_dir, trust_clock=trust_clock
        )
        _run(service, settings, no_live=no_live)


def _run(service: AggregatorService, settings: Settings, *, no_live: bool) -> None:
    live = sys.stdout.isatty() and not no_live and settings.logging.format != "json"
    view = LiveView() if live and importlib.util.find_spec("rich") is not None else LogView()
    # Processing a batch makes no reference cycles. Searching the caches for cycles after every 700
    # allocations took 3 % of the time.
    gc.set_threshold(50_000, 20, 20)
    with view.opened():
        service.run(view.show, view.interval_s)


def _list_quarantine(credential: AggregatorCredential, state_dir: Path) -> None:
    database = Database(state_dir, authority=credential.authority, aggregator=credential.aggregator)
    try:
        for one in Quarantine(database, maximum=1, maximum_bytes=1).newest():
            at = datetime.fromtimestamp(one.at, UTC).isoformat(timespec="seconds")
            echo(f"{at}  {one.reason:<12} {len(one.payload):>8} B  {one.topic[:100]!r}")
    finally:
        database.close()


def main() -> None:
    """The console script."""
    run_command(cli)


if __name__ == "__main__":
    main()
