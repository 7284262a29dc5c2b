"""Where the generated configuration listens: TLS, address families, and as a drop-in of Debian's service."""

import os
import pwd
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.url import BrokerUrl
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.broker.server.mosquitto_config import (
    ServerTls,
    mosquitto_conf,
    write_server_files,
)
from gridhe.config.settings import BrokerSettings
from gridhe.errors import BrokerError, ConfigError
from gridhe.wire.roster import RosterEntry

ENTRIES = (RosterEntry("m1", "north/f1"), RosterEntry("m2", "north/f1"), RosterEntry("m3", "south"))
USERS = {
    name: f"password of {name}"
    for name in ("m1", "m2", "m3", "fleet", "aggregator-a1", "authority", "operator", "stranger")
}


def test_clear_text_off_loopback_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"passwords": USERS, "entries": ENTRIES, "largest_payload": 1_000}
    with pytest.raises(ConfigError, match="without TLS"):
        write_server_files(tmp_path / "s", settings=BrokerSettings(), **options)
    assert not (tmp_path / "s").exists()
    write_server_files(tmp_path / "s", settings=BrokerSettings(insecure=True), **options)
    with pytest.raises(ConfigError, match="only listen on loopback"):
        mosquitto_conf(
            settings=BrokerSettings(), port=1, largest_payload=1, bind="0.0.0.0",  # noqa: S104
            password_file=None, acl_file=None, data_dir=None,
        )  # fmt: skip


def test_tls_serves_those_who_know_its_ca_and_no_others(
    tmp_path: Path, mosquitto: Path, client: Callable[..., Any], loop: EventLoop, pki: Any
) -> None:
    tls = ServerTls(cert_file=pki.cert, key_file=pki.key)
    with EmbeddedBroker(tmp_path / "b", prefer="mosquitto", tls=tls) as broker:
        assert broker.url.startswith("mqtts://")
        settings = BrokerSettings(url=broker.url, ca_file=str(pki.ca))
        reader = client(settings, "reader", subscriptions=["gridhe/v1/#"]).connected()
        writer = client(settings, "writer").connected()
        for number in range(40):  # many records at once: some are decrypted before anybody waits for them
            writer.publish("gridhe/v1/x", bytes([number]) * 300_001)
        inbox = reader.receives(40, 20.0)
        assert [(payload[0], len(payload)) for _, payload in inbox] == [(n, 300_001) for n in range(40)]
        writer.session.close()
        client(BrokerSettings(url=broker.url), "unknowing")
        with pytest.raises(BrokerError, match=r"not trusted.*broker\.ca_file"):
            loop.run_until(lambda: False, 10.0)
        plain = client(f"mqtt://127.0.0.1:{broker.port}", "plain")
        assert not loop.run_until(lambda: plain.session.connected, 0.3)


def test_tls_can_ask_for_the_clients_certificate(
    tmp_path: Path, mosquitto: Path, client: Callable[..., Any], loop: EventLoop, pki: Any
) -> None:
    tls = ServerTls(cert_file=pki.cert, key_file=pki.key, ca_file=pki.ca)
    with EmbeddedBroker(tmp_path / "b", prefer="mosquitto", tls=tls) as broker:
        settings = BrokerSettings(
            url=broker.url, ca_file=str(pki.ca), client_cert_file=str(pki.cert), client_key_file=str(pki.key)
        )
        client(settings, "known").connected()
        unknown = client(BrokerSettings(url=broker.url, ca_file=str(pki.ca)), "unknown")
        assert not loop.run_until(lambda: unknown.session.connected, 0.5)
        assert "certificate" in str(unknown.session.last_error).lower()


def test_tls_files_that_cannot_be_used_are_named(
    tmp_path: Path, client: Callable[..., Any], pki: Any
) -> None:
    url = "mqtts://127.0.0.1"
    with pytest.raises(ConfigError, match=r"ca_file.*absent"):
        client(BrokerSettings(url=url, ca_file=str(tmp_path / "absent.pem")), "m1")
    with pytest.raises(ConfigError, match="client_cert_file"):
        client(BrokerSettings(url=url, ca_file=str(pki.ca), client_cert_file=str(pki.ca)), "m1")
    with pytest.raises(ConfigError, match=r"without broker\.client_cert_file"):
        client(BrokerSettings(url=url, ca_file=str(pki.ca), client_key_file=str(pki.key)), "m1")
    locked = BrokerSettings(
        url=url, ca_file=str(pki.ca), client_cert_file=str(pki.cert), client_key_file=str(pki.locked_key)
    )
    with pytest.raises(ConfigError, match="passphrase"):
        client(locked, "m1")


@pytest.mark.parametrize(
    ("url", "bind"),
    [
        ("mqtt://127.0.0.1", "127.0.0.1"),
        ("mqtt://127.0.0.3", "127.0.0.3"),
        ("mqtt://localhost", "127.0.0.1"),
        ("mqtt://[::1]:1884", "::1"),
        ("mqtts://10.0.0.5", "0.0.0.0"),  # noqa: S104
        ("mqtts://[2001:db8::5]", "::"),
        ("mqtts://broker.example", None),
    ],
)
def test_repro_the_broker_listens_on_the_address_family_of_its_url(url: str, bind: str | None) -> None:
    assert BrokerUrl.parse(url).bind == bind


@pytest.fixture
def has_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")


@pytest.mark.parametrize(
    ("bind", "reached"), [("::1", ("::1",)), ("::", ("::1",)), (None, ("::1", "127.0.0.1"))]
)
def test_repro_a_broker_on_ipv6_is_reached_there(
    tmp_path: Path, mosquitto: Path, client: Callable[..., Any], free_port: int, has_ipv6: None,
    bind: str | None, reached: tuple[str, ...],
) -> None:  # fmt: skip
    conf = write_server_files(
        tmp_path / "s", settings=BrokerSettings(insecure=True), passwords=USERS, entries=ENTRIES,
        aggregators=["a1"], largest_payload=1_000, port=free_port, bind=bind,
        owner=pwd.getpwuid(os.geteuid()).pw_name,
    )  # fmt: skip
    process = subprocess.Popen([str(mosquitto), "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        for host in reached:
            url = f"mqtt://[{host}]:{free_port}" if ":" in host else f"mqtt://{host}:{free_port}"
            settings = BrokerSettings(url=url, reconnect_min_s=0.05, reconnect_max_s=0.2)
            one = client(settings, "m1", username="m1", password=USERS["m1"])
            assert one.loop.run_until(lambda s=one.session: s.connected, 10.0), one.session.last_error
            one.session.close()
    finally:
        process.terminate()
        process.wait(10)


DEBIAN = """\
pid_file {folder}/mosquitto.pid
persistence true
persistence_location {folder}/lib/
log_dest file {folder}/mosquitto.log
include_dir {folder}/conf.d
"""


def test_repro_the_configuration_is_a_drop_in_of_the_distributions_service(
    tmp_path: Path, mosquitto: Path, client: Callable[..., Any], free_port: int
) -> None:
    for name in ("lib", "conf.d"):
        (tmp_path / name).mkdir()
    conf = tmp_path / "mosquitto.conf"
    # Debian's becomes `mosquitto` where root starts it; this one stays, since pytest's folder is private.
    me = pwd.getpwuid(os.geteuid()).pw_name
    conf.write_text(DEBIAN.format(folder=tmp_path) + f"user {me}\n")
    write_server_files(
        tmp_path / "made", settings=BrokerSettings(server_dir=str(tmp_path / "there")), passwords=USERS,
        entries=ENTRIES, aggregators=["a1"], largest_payload=1_000, port=free_port, bind="127.0.0.1",
    )  # fmt: skip
    (tmp_path / "made").rename(tmp_path / "there")  # copied to the broker's machine
    (tmp_path / "conf.d" / "gridhe.conf").symlink_to(tmp_path / "there" / "gridhe.conf")
    process = subprocess.Popen([str(mosquitto), "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        url = f"mqtt://127.0.0.1:{free_port}"
        one = client(url, "m1", username="m1", password=USERS["m1"])
        assert one.loop.run_until(lambda: one.session.connected, 10.0), one.session.last_error
        with pytest.raises(BrokerError, match="Not authorized"):
            client(url, "m2").loop.run_until(lambda: False, 10.0)
    finally:
        process.terminate()
        process.wait(10)
    assert "rror" not in (tmp_path / "mosquitto.log").read_text()


def test_both_configurations_allow_the_same_users(tmp_path: Path) -> None:
    conf = write_server_files(
        tmp_path / "s", settings=BrokerSettings(), passwords=USERS, entries=ENTRIES, aggregators=["a1"],
        largest_payload=1_000, bind="127.0.0.1", owner=pwd.getpwuid(os.geteuid()).pw_name,
    )  # fmt: skip
    whole, part = conf.read_text(), (tmp_path / "s/gridhe.conf").read_text()
    options = {line.split()[0] for line in part.splitlines() if line and not line.startswith("#")}
    own = {"user", "persistence", "persistence_location", "autosave_interval", "log_dest", "log_type"}
    assert set(part.splitlines()) < set(whole.splitlines())
    assert not options & (own | {"pid_file", "connection_messages"})
    assert {"listener", "allow_anonymous", "password_file", "acl_file"} <= options
    with pytest.raises(ConfigError, match="misread"):
        write_server_files(
            tmp_path / "t", settings=BrokerSettings(server_dir="/srv/a b\nlistener 1"), passwords=USERS,
            entries=ENTRIES, aggregators=["a1"], largest_payload=1_000, bind="127.0.0.1",
        )  # fmt: skip
