"""`gridhe`: the demo, the doctor and the default settings.

Demo and doctor are imported when they are used: `gridhe doctor` must run where the demo's extras are not
installed, since it is what tells so.
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

    LAZY: ClassVar[dict[str, tuple[str, str]]] = {  # name: (module, what its help says)
        "demo": (
            "gridhe.demo.command",
            "A whole grid on this machine: encrypt, add up, release, prove it exact.",
        ),
        "doctor": (
            "gridhe.doctor.command",
            "Check this machine and this configuration, and say how to mend it.",
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
    """Smart metering whose group totals are exact and whose households stay unreadable."""


@cli.command("config")
def print_config() -> None:
    """Print the default settings, each with its unit and reason.

    A start for your own: gridhe config > gridhe.yaml
    """
    echo(resources.files("gridhe.config").joinpath("gridhe.yaml").read_text(encoding="utf-8"), nl=False)


def main() -> None:
    """The `gridhe` command."""
    run_command(cli)


if __name__ == "__main__":
    main()
