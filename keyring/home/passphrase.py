"""Reads the vault's passphrase from a file, the environment or a prompt, never from the command line."""

import os
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import click

from gridhe.base.files import read_private
from gridhe.errors import CredentialError, VaultError

__all__ = ["ENV", "ENV_FILE", "MINIMUM_CHARACTERS", "ask_passphrase"]

ENV = "GRIDHE_PASSPHRASE"
ENV_FILE = "GRIDHE_PASSPHRASE_FILE"
MINIMUM_CHARACTERS = 8  # against typing slips only; scrypt makes each guess expensive
_FILE_BYTES_MAX = 4096


def ask_passphrase(
    *, file: Path | None = None, environ: Mapping[str, str] | None = None, confirm: bool = False
) -> bytes:
    """The passphrase as NFKC UTF-8: the same characters on any keyboard are the same bytes.

    The first of these that exists: `file`, the file named by GRIDHE_PASSPHRASE_FILE, GRIDHE_PASSPHRASE,
    a hidden prompt on a terminal (asked twice with `confirm`). Files must be 0600 or stricter, or a
    credential from systemd (`gridhe.base.files`); a line break at the end is not part of the passphrase.
    Raises VaultError; its message never contains the passphrase.
    """
    environ = os.environ if environ is None else environ
    named = file if file is not None else Path(environ[ENV_FILE]) if environ.get(ENV_FILE) else None
    if named is not None:
        text = _from_file(named)
    elif environ.get(ENV):
        text = environ[ENV]
    elif sys.stdin.isatty():
        text = click.prompt("Passphrase of the vault", hide_input=True, confirmation_prompt=confirm, err=True)
    else:
        raise VaultError(
            f"no passphrase, and no terminal for a prompt: set {ENV_FILE} (a 0600 file), {ENV}, or "
            "give --passphrase-file"
        )
    if confirm and len(text) < MINIMUM_CHARACTERS:
        raise VaultError(f"the passphrase is too short: use at least {MINIMUM_CHARACTERS} characters")
    if not text:
        raise VaultError("the passphrase is empty")
    return unicodedata.normalize("NFKC", text).encode()


def _from_file(path: Path) -> str:
    try:
        return read_private(path, maximum_bytes=_FILE_BYTES_MAX).decode().rstrip("\r\n")
    except CredentialError as error:
        raise VaultError(f"passphrase file: {error}") from None
    except UnicodeDecodeError:
        raise VaultError(f"passphrase file {path} is not UTF-8 text") from None
