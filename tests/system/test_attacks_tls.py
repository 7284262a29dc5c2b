"""The whole pipeline over TLS, with the files of `gridhe-keyring ca`, against a real Mosquitto."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.config.settings import BrokerSettings
from gridhe.errors import BrokerError
from gridhe_testing.commands import Shell, free_port, wait_for

pytestmark = pytest.mark.system


def has_mosquitto_user() -> bool:
    try:
        pwd.getpwnam("mosquitto")
    except KeyError:
        return False
    return True


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach, as /srv is; pytest's own are their maker's alone."""
    folder = Path(tempfile.mkdtemp(prefix="gridhe-tls-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def shell(open_folder: Path) -> Shell:
    (open_folder / "passphrase").touch(mode=0o600)
    (open_folder / "passphrase").write_text("correct horse battery staple\n")
    return Shell(
        open_folder,
        {
            "GRIDHE_PASSPHRASE_FILE": str(open_folder / "passphrase"),
            "GRIDHE_BROKER__URL": f"mqtts://127.0.0.1:{free_port()}",
            "GRIDHE_BROKER__CA_FILE": str(open_folder / "authority/ca/ca.crt"),
            "GRIDHE_PLAN__WINDOW_S": "3600",
            "GRIDHE_PLAN__INTERVAL_S": "900",
            "GRIDHE_PLAN__MINIMUM_METERS": "5",
            "GRIDHE_PLAN__SMALL_GROUPS": "accepted",
        },
    )


def certificate(shell: Shell, user: str) -> dict[str, str]:
    """The variables with which a party shows its certificate."""
    path = shell.folder / "authority/credentials"
    return {
        "GRIDHE_BROKER__CLIENT_CERT_FILE": str(path / f"{user}.crt"),
        "GRIDHE_BROKER__CLIENT_KEY_FILE": str(path / f"{user}.key"),
    }


@contextmanager
def mosquitto_of(shell: Shell, mosquitto: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The broker, started as the operator does, and answering."""
    port = int(shell.environment["GRIDHE_BROKER__URL"].rpartition(":")[2])
    with shell.running(
        str(mosquitto), "-c", "authority/broker/mosquitto.conf", log="mosquitto.log"
    ) as broker:
        wait_for(port, broker)
        yield broker


def enrol_everybody(shell: Shell, *ca_options: str) -> None:
    shell.run("gridhe-keyring", "init", "--home", "authority")
    shell.run("gridhe-keyring", "enrol", "--home", "authority", "--aggregator", "main")
    shell.run(
        *("gridhe-keyring", "enrol", "--home", "authority", "--group", "north/f1"),
        *("--count", "6", "--fleet", "fleet.json"),
    )
    shell.run("gridhe-keyring", "ca", "--home", "authority", *ca_options)


def released(shell: Shell, *, mutual: bool) -> list[dict[str, object]]:
    """Publish, aggregate, send two windows and release."""

    def of(user: str) -> dict[str, str]:
        return certificate(shell, user) if mutual else {}

    said = shell.run(
        "gridhe-keyring", "bundle", "--home", "authority", "--publish", variables=of("authority")
    )
    assert "published 1 plan and the roster on mqtts://" in said
    aggregate = [
        *("gridhe-aggregate", "--credential", "authority/credentials/aggregator-main.json"),
        *("--state-dir", "aggregator", "--set", "aggregator.commit_interval_s=0.2"),
    ]
    with shell.running(*aggregate, log="aggregator.log", variables=of("aggregator-main")):
        shell.run(
            *("gridhe-meter", "fleet", "--credentials", "fleet.json", "--state-dir", "fleet"),
            *("--windows", "2", "--speed", "max", "--connections", "shared"),
            variables=of("fleet"),
        )
        shell.run(
            *("gridhe-keyring", "release", "--home", "authority", "--out", "released.jsonl"),
            variables=of("authority"),
        )
    return [json.loads(line) for line in (shell.folder / "released.jsonl").read_text().splitlines()]


def user_of(process: int) -> int:
    return Path(f"/proc/{process}").stat().st_uid


def test_a_grid_works_over_tls_with_the_ca_that_the_keyring_made_and_an_unprivileged_broker(
    shell: Shell, mosquitto: Path
) -> None:
    enrol_everybody(shell)
    with mosquitto_of(shell, mosquitto) as broker:
        found = released(shell, mutual=False)
        if os.geteuid() != 0 or has_mosquitto_user():
            assert user_of(broker.pid) != 0
        stays_away_from_a_broker_it_cannot_trust(shell)
    assert {(one["group"], one["meters"]) for one in found} == {("north/f1", 6), ("north", 6), ("grid", 6)}
    assert len(found) == 6


def test_with_client_certificates_the_certificates_name_is_the_identity(
    shell: Shell, mosquitto: Path
) -> None:
    shell.environment["GRIDHE_BROKER__CLIENT_CERTIFICATES"] = "true"
    enrol_everybody(shell, "--clients")
    conf = (shell.folder / "authority/broker/mosquitto.conf").read_text()
    assert "use_identity_as_username true" in conf
    with mosquitto_of(shell, mosquitto) as broker:
        assert len(released(shell, mutual=True)) == 6
        refused_without_a_fitting_certificate(shell)
        revoked_though_its_certificate_is_still_valid(shell, broker)


def refused_without_a_fitting_certificate(shell: Shell) -> None:
    settings = BrokerSettings(
        url=shell.environment["GRIDHE_BROKER__URL"],
        ca_file=shell.environment["GRIDHE_BROKER__CA_FILE"],
    )
    tls = shell.folder / "authority/broker/tls"
    own = shell.folder / "authority/credentials"
    stolen = shell.folder / "stolen.key"  # the broker's group may read the original, so we would refuse it
    stolen.write_bytes((tls / "server.key").read_bytes())
    stolen.chmod(0o600)
    cases = {
        "none": {},
        "the broker's own": {"cert_file": tls / "server.crt", "key_file": stolen},
        "m1's": {"cert_file": own / "m1.crt", "key_file": own / "m1.key"},
    }
    heard: list[str] = []
    with EventLoop() as loop:
        for what, files in cases.items():
            fresh = settings.model_copy(update={f"client_{name}": str(path) for name, path in files.items()})
            # It says that it is the authority, with a password that would be fine; its certificate decides.
            session = Session(
                settings=fresh,
                client_id=f"thief-{what.partition(' ')[0]}",
                username="authority",
                password="x",
                on_message=lambda topic, _: heard.append(topic),
                subscriptions=["gridhe/v1/total/#", "gridhe/v1/batch/#", "gridhe/v1/plan/#"],
            )
            loop.add(session)
            connected = False
            with suppress(BrokerError):
                connected = loop.run_until(lambda s=session: s.connected, 2)
            assert connected == (what == "m1's"), what
            if connected:
                for topic in ("gridhe/v1/total/north/f1", "gridhe/v1/batch/north/f1/m2"):
                    session.publish(Message(topic=topic, payload=b"forged"))
                loop.run_until(lambda s=session: s.in_flight == 0, 5)
                assert session.refused == 2
            loop.remove(session)
    assert set(heard) <= {"gridhe/v1/plan/current"} | {t for t in heard if t.startswith("gridhe/v1/plan/p")}


def revoked_though_its_certificate_is_still_valid(shell: Shell, broker: "subprocess.Popen[bytes]") -> None:
    own = shell.folder / "authority/credentials"
    settings = BrokerSettings(
        url=shell.environment["GRIDHE_BROKER__URL"],
        ca_file=shell.environment["GRIDHE_BROKER__CA_FILE"],
        client_cert_file=str(own / "m2.crt"),
        client_key_file=str(own / "m2.key"),
    )
    mine = Message(topic="gridhe/v1/batch/north/f1/m2", payload=b"x")
    with EventLoop() as loop:
        session = Session(settings=settings, client_id="m2", on_message=lambda *_: None)
        loop.add(session)
        assert loop.run_until(lambda: session.connected, 5)
        assert session.publish(mine)
        assert loop.run_until(lambda: session.in_flight == 0, 5)
        assert session.refused == 0
        shell.run("gridhe-keyring", "enrol", "--home", "authority", "--revoke", "m2")
        broker.send_signal(signal.SIGHUP)

        def refused() -> bool:  # by then it has been thrown off, or its messages are not taken
            return session.connected and session.publish(mine) and session.refused > 0

        assert loop.run_until(refused, 10) or not session.connected


def stays_away_from_a_broker_it_cannot_trust(shell: Shell) -> None:
    url, ca = shell.environment["GRIDHE_BROKER__URL"], shell.environment["GRIDHE_BROKER__CA_FILE"]
    for settings in (
        BrokerSettings(url=url),  # the system's CAs
        BrokerSettings(url=url.replace("127.0.0.1", "localhost"), ca_file=ca),  # not the certificate's name
    ):
        session = Session(settings=settings, client_id="careful", on_message=lambda *_: None)
        with EventLoop() as loop:
            loop.add(session)
            with pytest.raises(BrokerError, match="certificate that is not trusted"):
                loop.run_until(lambda s=session: s.connected, 10)


def test_plain_mqtt_to_another_machine_needs_an_explicit_setting(shell: Shell) -> None:
    far = {"GRIDHE_BROKER__URL": "mqtt://192.0.2.1:1883", "GRIDHE_BROKER__CA_FILE": ""}
    said = shell.run("gridhe-keyring", "init", "--home", "authority", code=2, variables=far)
    assert "in clear" in said
    assert not (shell.folder / "authority").exists()
    shell.run("gridhe-keyring", "init", "--home", "authority", "--set", "broker.insecure=true", variables=far)
    shell.run(
        *("gridhe-keyring", "enrol", "--home", "authority", "--group", "north", "m1"),
        *("--set", "broker.insecure=true"),
        variables=far,
    )
    said = shell.run(
        *("gridhe-meter", "run", "--credential", "authority/credentials/m1.json", "--state-dir", "m1"),
        code=2,
        variables=far,
    )
    assert "in clear" in said


def test_client_certificates_without_tls_are_refused(shell: Shell) -> None:
    said = shell.run(
        *("gridhe-keyring", "init", "--home", "authority", "--set", "broker.client_certificates=true"),
        *("--set", "broker.url=mqtt://127.0.0.1:1883"),
        code=2,
    )
    assert "needs TLS" in said
