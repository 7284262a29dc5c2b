"""Options that the commands of `gridhe-keyring` share, and opening a home."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gridhe.keyring.home.authority import AuthorityHome

__all__ = ["broker_option", "home_option", "open_home", "passphrase_option"]

home_option = click.option(
    "--home",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The authority's home: vault, plans, enrolment, ledger.",
)
passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File (0600) with the passphrase. Default: GRIDHE_PASSPHRASE_FILE, GRIDHE_PASSPHRASE or a prompt.",
)
broker_option = click.option("--broker", metavar="URL", help="Short for --set broker.url=URL.")


def open_home(stack: ExitStack, home: Path, passphrase_file: Path | None) -> AuthorityHome:
    """The home with its vault open, closed with `stack`. Raises StateError, VaultError."""
    from gridhe.keyring.home.authority import AuthorityHome
    from gridhe.keyring.home.passphrase import ask_passphrase
    from gridhe.keyring.home.paths import HomePaths

    HomePaths(home).read_verify_key()  # report a missing home before asking for a passphrase
    authority = AuthorityHome.open(home, ask_passphrase(file=passphrase_file))
    stack.callback(authority.close)
    return authority
