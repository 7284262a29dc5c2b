"""`gridhe-keyring enrol`."""

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import click

from gridhe.base.clock import check_clock
from gridhe.base.commands import CommonOptions, common_options
from gridhe.base.output import echo
from gridhe.errors import ConfigError
from gridhe.keyring.cli.shared import home_option, open_home, passphrase_option

__all__ = ["enrol"]


@click.command()
@common_options
@home_option
@passphrase_option
@click.argument("meters", nargs=-1)
@click.option("--group", metavar="GROUP", help="The meters' group, such as north/f1.")
@click.option(
    "--count",
    type=click.IntRange(1, 1_000_000),
    help="Enrol this many meters, named by --prefix and a number.",
)
@click.option("--prefix", default="m", show_default=True, help="With --count: the beginning of each name.")
@click.option(
    "--start", default=1, show_default=True, type=click.IntRange(0), help="With --count: the first number."
)
@click.option(
    "--from-csv",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Enrol the meters of a CSV file with the columns meter,group.",
)
@click.option(
    "--fleet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write all credentials into this one file (0600), for gridhe-meter fleet.",
)
@click.option("--aggregator", metavar="ID", help="Enrol an aggregator instead. Repeating it makes new keys.")
@click.option(
    "--from",
    "from_time",
    metavar="TIME",
    help="Count the meters in windows that start at or after this time. Default: all.",
)
@click.option("--move", is_flag=True, help="Move meters that are enrolled in another group.")
@click.option(
    "--renew",
    is_flag=True,
    help="Give enrolled meters new broker passwords; with --fleet also user `fleet`, "
    "whose password is in every fleet file.",
)
@click.option("--revoke", is_flag=True, help="Revoke the named meters or aggregators.")
def enrol(
    common: CommonOptions,
    home: Path,
    passphrase_file: Path | None,
    meters: tuple[str, ...],
    group: str | None,
    count: int | None,
    prefix: str,
    start: int,
    from_csv: Path | None,
    fleet: Path | None,
    aggregator: str | None,
    from_time: str | None,
    move: bool,
    renew: bool,
    revoke: bool,
) -> None:
    """Enrol meters or an aggregator: write credentials to HOME/credentials and the broker's files anew.

    Repeating a meter's enrolment writes the same credential again. After a change send the broker a SIGHUP.

    \b
    Examples:
      gridhe-keyring enrol --home authority --group north/f1 anna bert
      gridhe-keyring enrol --home authority --group north/f1 --count 25 --prefix n1- --fleet north.json
      gridhe-keyring enrol --home authority --from-csv meters.csv
      gridhe-keyring enrol --home authority --aggregator agg1
      gridhe-keyring enrol --home authority --revoke anna
    """
    settings = common.load()
    wanted = [] if revoke or aggregator else _wanted_meters(meters, group, count, prefix, start, from_csv)
    if revoke and not meters:
        raise ConfigError("--revoke needs the names of meters or aggregators")
    if aggregator and (meters or group or count or from_csv or revoke):
        raise ConfigError("--aggregator enrols one aggregator; enrol or revoke meters in a separate command")
    from_s = _from_s(from_time)
    with ExitStack() as stack:
        authority = open_home(stack, home, passphrase_file)
        if revoke:
            echo(f"revoked {authority.revoke(meters, settings)}")
        elif aggregator:
            echo(f"aggregator {aggregator}: {authority.enrol_aggregator(aggregator, settings)}")
        else:
            paths = authority.enrol_meters(
                wanted,
                settings,
                from_s=from_s,
                move=move,
                renew=renew,
                fleet_file=fleet,
                now_s=check_clock(time.time()),
            )
            where = fleet if fleet is not None else paths[0] if len(paths) == 1 else paths[0].parent
            echo(f"{len(wanted)} meters: {where}")
        echo(f"the broker's files are written anew: {authority.paths.broker}")
        echo(f"user operator reads release/#, status/#, plan/#: {authority.paths.operator_password}")


def _wanted_meters(
    meters: tuple[str, ...],
    group: str | None,
    count: int | None,
    prefix: str,
    start: int,
    from_csv: Path | None,
) -> list[tuple[str, str]]:
    from gridhe.keyring.home.enrolment import read_meters_csv

    if from_csv is not None:
        if meters or group or count:
            raise ConfigError("--from-csv names meters and groups; remove METERS, --group and --count")
        return read_meters_csv(from_csv)
    if group is None:
        raise ConfigError("the meters need a group: add --group, for example --group north/f1")
    if count is not None:
        if meters:
            raise ConfigError("give names or --count, not both")
        width = len(str(start + count - 1))
        return [(f"{prefix}{number:0{width}d}", group) for number in range(start, start + count)]
    return [(meter, group) for meter in meters]


def _from_s(text: str | None) -> int:
    if text is None:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--from {text[:40]!r} is not a time: use 2026-01-31 or 2026-01-31T12:00Z"
        ) from None
    return max(0, int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()))
