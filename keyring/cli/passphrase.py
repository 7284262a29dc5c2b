"""`gridhe-keyring passphrase`: change the vault's passphrase."""

from contextlib import ExitStack
from pathlib import Path

import click

from gridhe.base.commands import CommonOptions, common_options
from gridhe.base.output import echo
from gridhe.keyring.cli.shared import home_option, open_home, passphrase_option

__all__ = ["passphrase"]


@click.command()
@common_options
@home_option
@passphrase_option
@click.option(
    "--new-passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File (0600) with the new passphrase. Default: a prompt.",
)
def passphrase(
    common: CommonOptions, home: Path, passphrase_file: Path | None, new_passphrase_file: Path | None
) -> None:
    """Change the vault's passphrase; its keys stay the same.

    A running `release --follow` continues with the keys it has. Restart it before you make a new key.
    Backups of the old vault still open with the old passphrase.

    \b
    Examples:
      gridhe-keyring passphrase --home authority
      gridhe-keyring passphrase --home authority --passphrase-file old --new-passphrase-file new
    """
    from gridhe.keyring.home.passphrase import ask_passphrase

    common.load()
    with ExitStack() as stack:
        authority = open_home(stack, home, passphrase_file)
        # Not from the environment: that holds the old passphrase.
        new = ask_passphrase(file=new_passphrase_file, environ={}, confirm=True)
        authority.vault.change_passphrase(new)
    echo(f"the vault of {home} has a new passphrase; delete copies of the old vault")
