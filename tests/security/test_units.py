"""The systemd units in docs/operations.md: what a reader copies runs, unprivileged, and ends in time."""

import configparser
import re
import shlex
from pathlib import Path

import click
import pytest

from gridhe.aggregator.cli import cli as aggregate
from gridhe.errors import ConfigError, PlanError, SourceError, StateError, TrustError, VaultError
from gridhe.keyring.cli.command import cli as keyring
from gridhe.meter_agent.cli import cli as meter

OPERATIONS = Path(__file__).resolve().parents[2] / "docs/operations.md"
PROGRAMS: dict[str, click.Command] = {
    "gridhe-aggregate": aggregate,
    "gridhe-keyring": keyring,
    "gridhe-meter": meter,
}
UNMENDABLE = {
    error.exit_code for error in (ConfigError, PlanError, TrustError, VaultError, StateError, SourceError)
}


def services() -> dict[str, configparser.SectionProxy]:
    """[Service] of every unit, by its program."""
    found = {}
    for block in re.findall(r"```ini\n(.*?)```", OPERATIONS.read_text(encoding="utf-8"), re.DOTALL):
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(block)
        found[Path(unit["Service"]["ExecStart"].split()[0]).name] = unit["Service"]
    return found


SERVICES = services()


def test_every_role_has_a_unit_and_a_user_of_its_own() -> None:
    assert SERVICES.keys() == PROGRAMS.keys()
    assert len({service["User"] for service in SERVICES.values()}) == len(SERVICES)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_unit_runs_without_privileges_and_can_gain_none(program: str) -> None:
    service = SERVICES[program]
    assert service["User"] not in ("root", "")
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["ProtectHome"] == "yes"
    assert service["PrivateTmp"] == "yes"
    assert service["LimitCORE"] == "0"
    assert service["StateDirectoryMode"] == "0700"
    assert "passphrase" not in service["ExecStart"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_unit_is_not_started_again_for_what_a_restart_cannot_mend(program: str) -> None:
    service = SERVICES[program]
    assert service["Restart"] == "on-failure"
    assert {int(code) for code in service["RestartPreventExitStatus"].split()} == UNMENDABLE
    assert service["SuccessExitStatus"] == "143"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_units_command_line_is_one_that_the_program_takes(program: str) -> None:
    _, *arguments = shlex.split(SERVICES[program]["ExecStart"])
    command: click.Command = PROGRAMS[program]
    if isinstance(command, click.Group) and arguments[0] in command.commands:
        command = command.commands[arguments.pop(0)]
    command.make_context(program, arguments)  # raises where an option is unknown or missing


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_unit_writes_only_into_its_state_directory(program: str) -> None:
    service = SERVICES[program]
    state = f"/var/lib/{service['StateDirectory']}"
    written = re.findall(r"--(?:state-dir|home|out) (\S+)", service["ExecStart"])
    assert written
    assert all(path == state or path.startswith(f"{state}/") for path in written)


def test_the_authority_gets_its_passphrase_from_systemd() -> None:
    service = SERVICES["gridhe-keyring"]
    assert service["LoadCredential"].startswith("passphrase:/")
    assert service["Environment"] == "GRIDHE_PASSPHRASE_FILE=%d/passphrase"
