"""The systemd units in docs/operations.md: what a reader copies runs, unprivileged, and ends in time."""

import configparser
import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from gridhe.aggregator.cli import cli as aggregate
from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Session
from gridhe.config.settings import BrokerSettings, Settings
from gridhe.errors import ConfigError, PlanError, SourceError, StateError, TrustError, VaultError
from gridhe.keyring.cli.command import cli as keyring
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.home.vault import Kdf
from gridhe.meter_agent.cli import cli as meter
from gridhe.wire.credential import load_device
from gridhe_testing.commands import free_port, wait_for

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


BROKER = "mosquitto"


def test_every_role_has_a_unit_and_a_user_of_its_own() -> None:
    assert SERVICES.keys() == {*PROGRAMS, BROKER}
    assert len({service["User"] for service in SERVICES.values()}) == len(SERVICES)


@pytest.mark.parametrize("program", SERVICES)
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
def test_a_unit_is_not_restarted_for_an_error_that_a_restart_cannot_fix(program: str) -> None:
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


@pytest.mark.parametrize("program", SERVICES)
def test_a_unit_writes_only_into_its_state_directory(program: str) -> None:
    service = SERVICES[program]
    state = f"/var/lib/{service['StateDirectory']}"
    written = re.findall(r"(?:--state-dir|--home|--out|-c) (\S+)", service["ExecStart"])
    assert written
    assert all(path == state or path.startswith(f"{state}/") for path in written)


def test_the_authority_gets_its_passphrase_from_systemd() -> None:
    service = SERVICES["gridhe-keyring"]
    assert service["LoadCredential"].startswith("passphrase:/")
    assert service["Environment"] == "GRIDHE_PASSPHRASE_FILE=%d/passphrase"


def test_the_brokers_unit_runs_the_files_that_enrolment_writes_for_its_folder(
    tmp_path: Path, mosquitto: Path
) -> None:
    """Its command line, in a folder in place of /var/lib: the files are copied there and it answers."""
    service = SERVICES[BROKER]
    program, flag, conf = shlex.split(service["ExecStart"])
    place = Path(conf).parent
    assert (program, flag, str(place)) == (
        "/usr/sbin/mosquitto",
        "-c",
        f"/var/lib/{service['StateDirectory']}",
    )
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert f"broker.server_dir: {place}" in OPERATIONS.read_text(encoding="utf-8")
    port, there = free_port(), tmp_path / place.name
    url = f"mqtt://127.0.0.1:{port}"
    settings = Settings(broker=BrokerSettings(url=url, server_dir=str(there)))
    authority = AuthorityHome.init(tmp_path / "home", settings, b"correct horse battery", kdf=Kdf(n=2**14))
    authority.enrol_meters([("anna", "north/f1")], settings)
    authority.close()
    (tmp_path / "home/broker").rename(there)
    if os.geteuid() == 0:  # the unit's user cannot enter pytest's folders, so the broker stays root here
        with (there / Path(conf).name).open("a") as made:
            made.write("user root\n")
    device = load_device(tmp_path / "home/credentials/anna.json")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([str(mosquitto), flag, str(there / Path(conf).name)], stderr=log)
    try:
        wait_for(port, process)
        with EventLoop() as loop:
            session = Session(
                settings=settings.broker, client_id="anna", username="anna", password=device.password,
                on_message=lambda *_: None,
            )  # fmt: skip
            loop.add(session)
            assert loop.run_until(lambda: session.connected, 10), session.last_error
            session.close()
    finally:
        process.terminate()
        process.wait(10)
    assert (there / "data" / "mosquitto.db").exists()
