"""`python -m gridhe.keyring.cli` is `gridhe-keyring`."""

from gridhe.keyring.cli.command import main

main()
