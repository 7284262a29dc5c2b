"""`gridhe`: the demo, the doctor and the default settings.

Demo and doctor are imported when they are used: `gridhe doctor` reports missing packages, so it must run
without the demo's extras.
"""

import importlib
from importlib import resources
from typing import ClassVar

import click

from gridhe.base.commands import run_command, version_option
from gridhe.base.output import echo
from gridhe.errors import ConfigError

__all__ = ["cli", "main"]


class _LazyGroup(click.Group):
    """A group that imports some of its commands when they are used."""

    LAZY: ClassVar[dict[str, tuple[str, str]]] = {  # name: (module, help text)
        "demo": (
            "gridhe.demo.command",
            "A whole grid on this machine: encrypt, add up, release, prove it exact.",
        ),
        "doctor": (
            "gridhe.doctor.command",
            "Check this machine and this configuration, with a hint for each fault.",
        ),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.LAZY])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.LAZY:
            return super().get_command(ctx, cmd_name)
        module, _ = self.LAZY[cmd_name]
        try:
            command: click.Command = getattr(importlib.import_module(module), cmd_name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] == "gridhe":
                raise
            raise ConfigError(
                f"gridhe {cmd_name} needs {error.name}, which is not installed: pip install 'gridhe[demo]'"
            ) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        eager = {name: command.get_short_help_str(80) for name, command in self.commands.items()}
        lazy = {name: text for name, (_, text) in self.LAZY.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted({**eager, **lazy}.items()))


@click.group(cls=_LazyGroup)
@version_option
def cli() -> None:
    """Smart metering with exact group totals and unreadable households."""


@cli.command("config")
def print_config() -> None:
    """Print the default settings, each with its unit and reason.

    To start your own file: gridhe config > gridhe.yaml
    """
    echo(resources.files("gridhe.config").joinpath("gridhe.yaml").read_text(encoding="utf-8"), nl=False)


def main() -> None:
    """The `gridhe` command."""
    run_command(cli)


if __name__ == "__main__":
    main()
