"""The command `gridhe-keyring`, one module for each group of sub-commands."""
