"""`gridhe-keyring resume`."""

from pathlib import Path

import click

from gridhe.base.output import echo
from gridhe.keyring.cli.shared import home_option

__all__ = ["resume"]


@click.command()
@home_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def resume(home: Path, names: tuple[str, ...]) -> None:
    """Resume a suspended aggregator or group, or include an excluded meter again.

    Totals that failed have stopped them; find the cause first (`inspect` shows the failed totals and the
    suspects). A running `release --follow` takes this up within seconds, otherwise the next `release`
    does. The count starts again at zero, and totals that were refused as `suspended` are tried again. A
    meter counts in windows that begin after this. A stopped key cannot be resumed: rotate. Needs no
    passphrase.

    \b
    Examples:
      gridhe-keyring resume --home authority agg1
      gridhe-keyring resume --home authority north/f1
      gridhe-keyring resume --home authority anna bert
    """
    from gridhe.keyring.home.paths import HomePaths
    from gridhe.keyring.home.vault import check_private_dir
    from gridhe.keyring.release.resuming import ask_resume

    paths = HomePaths(home)
    paths.read_verify_key()
    check_private_dir(home)
    for kind, name in ask_resume(paths, names):
        echo(f"{kind} {name}: resumed when release runs next, or within seconds if it runs with --follow")
