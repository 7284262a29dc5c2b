"""The generated files, in a real Mosquitto: who may do what, and who may not even connect."""

import os
import pwd
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.broker.server.mosquitto_config import (
    acl,
    aggregator_user,
    mosquitto_conf,
    password_line,
    write_server_files,
)
from gridhe.config.settings import BrokerSettings
from gridhe.errors import BrokerError, ConfigError, StateError
from gridhe.wire.roster import RosterEntry

ENTRIES = (RosterEntry("m1", "north/f1"), RosterEntry("m2", "north/f1"), RosterEntry("m3", "south"))
USERS = {
    name: f"password of {name}"
    for name in ("m1", "m2", "m3", "fleet", "aggregator-a1", "authority", "operator", "stranger")
}


@pytest.fixture
def guarded(tmp_path: Path, mosquitto: Path) -> Iterator[EmbeddedBroker]:
    """A Mosquitto with passwords and the ACL of ENTRIES, aggregator a1 and a fleet that runs m2 and m3."""
    rules = acl(ENTRIES, ["a1"], {"fleet": ["m2", "m3"]})
    with EmbeddedBroker(tmp_path / "broker", prefer="mosquitto", users=USERS, acl=rules) as started:
        yield started


@pytest.fixture
def user(guarded: EmbeddedBroker, client: Callable[..., Any]) -> Callable[..., Any]:
    def connect(name: str, *filters: str) -> Any:
        made = client(guarded.url, name, username=name, password=USERS[name], subscriptions=filters)
        return made.connected()

    return connect


# who, a topic they may publish on, who may read it there
MAY = [
    ("m1", "batch/north/f1/m1", "aggregator-a1"),
    ("m1", "status/m1", "aggregator-a1"),
    ("m1", "status/m1", "authority"),
    ("fleet", "batch/south/m3", "aggregator-a1"),
    ("fleet", "status/m2", "authority"),
    ("aggregator-a1", "receipt/m1", "m1"),
    ("aggregator-a1", "receipt/m2", "fleet"),
    ("aggregator-a1", "total/north/f1", "authority"),
    ("aggregator-a1", "status/aggregator/a1", "m1"),
    ("aggregator-a1", "status/aggregator/a1", "fleet"),
    ("authority", "plan/current", "m1"),
    ("authority", "plan/p0123456789abcdef", "aggregator-a1"),
    ("authority", "roster/current", "aggregator-a1"),
    ("authority", "receipt/a1", "aggregator-a1"),
    ("authority", "status/authority", "aggregator-a1"),
    ("authority", "release/north/f1", "operator"),
    ("authority", "plan/current", "operator"),
    ("m1", "status/m1", "operator"),
    ("aggregator-a1", "status/aggregator/a1", "operator"),
]

MAY_NOT_PUBLISH = [
    ("m1", "batch/north/f1/m2"),
    ("m1", "batch/south/m1"),
    ("m1", "status/m2"),
    ("m1", "status/aggregator/a1"),
    ("m1", "plan/current"),
    ("m1", "roster/current"),
    ("m1", "receipt/m1"),
    ("m1", "total/north/f1"),
    ("fleet", "batch/north/f1/m1"),
    ("fleet", "plan/current"),
    ("aggregator-a1", "plan/current"),
    ("aggregator-a1", "roster/current"),
    ("aggregator-a1", "batch/north/f1/m1"),
    ("aggregator-a1", "status/aggregator/a2"),
    ("aggregator-a1", "status/authority"),
    ("authority", "batch/north/f1/m1"),
    ("authority", "total/north/f1"),
    ("operator", "release/north/f1"),
    ("operator", "status/operator"),
    ("operator", "status/m1"),
    ("operator", "plan/current"),
    ("operator", "roster/current"),
    ("operator", "batch/north/f1/m1"),
    ("operator", "total/north/f1"),
    ("operator", "receipt/m1"),
    ("stranger", "batch/north/f1/m1"),
    ("stranger", "anything"),
]

# who, and a topic they must not see, whatever filter they ask for
MAY_NOT_READ = [
    ("m1", "batch/north/f1/m2", "m2"),
    ("m1", "receipt/m2", "aggregator-a1"),
    ("m1", "roster/current", "authority"),
    ("m1", "total/north", "aggregator-a1"),
    ("m1", "status/m2", "m2"),
    ("m1", "release/north", "authority"),
    ("fleet", "receipt/m1", "aggregator-a1"),
    ("authority", "batch/north/f1/m2", "m2"),
    ("authority", "receipt/m1", "aggregator-a1"),
    ("operator", "batch/north/f1/m2", "m2"),
    ("operator", "total/north", "aggregator-a1"),
    ("operator", "roster/current", "authority"),
    ("operator", "receipt/m1", "aggregator-a1"),
    ("stranger", "release/north", "authority"),
    ("stranger", "plan/current", "authority"),
]


def test_everybody_can_do_their_part(user: Callable[..., Any]) -> None:
    names = sorted({name for row in MAY for name in (row[0], row[2])})
    clients = {name: user(name, "gridhe/v1/#") for name in names}
    for number, (writer, topic, reader) in enumerate(MAY):
        clients[writer].publish(f"gridhe/v1/{topic}", b"%d" % number)
        clients[writer].flushed()
        clients[reader].sees(f"gridhe/v1/{topic}", b"%d" % number)
    for one in clients.values():
        assert one.session.refused == 1  # the `probe` of the fixture, which nobody may publish


def test_nobody_can_publish_as_another(user: Callable[..., Any]) -> None:
    for number, (writer, topic) in enumerate(MAY_NOT_PUBLISH):
        one = user(writer)
        one.publish(f"gridhe/v1/{topic}", b"forged")
        assert one.flushed().session.refused == 2, (number, writer, topic)
        one.session.close()


def test_nobody_can_read_what_is_not_theirs(user: Callable[..., Any]) -> None:
    names = {name for name, _, _ in MAY_NOT_READ}
    readers = {name: user(name, "gridhe/v1/#", "#", "gridhe/v1/+/+") for name in sorted(names)}
    others = {name for _, _, name in MAY_NOT_READ} - names
    writers = readers | {name: user(name) for name in sorted(others)}
    for _, topic, writer in MAY_NOT_READ:
        writers[writer].publish(f"gridhe/v1/{topic}", b"private")
        writers[writer].flushed()
    # What they may read comes after, in order: then the rest would have come before.
    writers["authority"].publish("gridhe/v1/plan/end", b"end")
    writers["aggregator-a1"].publish("gridhe/v1/status/aggregator/a1", b"end")
    for name, reader in readers.items():
        if name != "stranger":
            seen_by_all = "plan/end" if name != "authority" else "status/aggregator/a1"
            reader.sees(f"gridhe/v1/{seen_by_all}", b"end")
    for name, topic, _ in MAY_NOT_READ:
        assert (f"gridhe/v1/{topic}", b"private") not in readers[name].inbox
    assert readers["stranger"].inbox == []


def test_nobody_is_anonymous(guarded: EmbeddedBroker, client: Callable[..., Any], loop: EventLoop) -> None:
    client(guarded.url, "m1")
    with pytest.raises(BrokerError, match="Not authorized"):
        loop.run_until(lambda: False, 10.0)


def test_the_files_run_a_server_and_a_later_enrolment_is_read_on_sighup(
    tmp_path: Path, mosquitto: Path, client: Callable[..., Any], free_port: int
) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    directory = tmp_path / "server"

    def write(*meters: str) -> Path:
        return write_server_files(
            directory,
            settings=BrokerSettings(),
            passwords={name: USERS[name] for name in (*meters, "aggregator-a1", "authority")},
            entries=[entry for entry in ENTRIES if entry.meter in meters],
            aggregators=["a1"],
            largest_payload=1_000_000,
            port=free_port,
            bind="127.0.0.1",
            owner=me,
        )

    conf = write("m1")
    modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert modes == {
        "mosquitto.conf": 0o644,
        "gridhe.conf": 0o644,
        "passwords": 0o600,
        "acl": 0o600,
        "data": 0o700,
    }
    assert "password of" not in "".join(path.read_text() for path in directory.iterdir() if path.is_file())
    url = f"mqtt://127.0.0.1:{free_port}"
    process = subprocess.Popen([str(mosquitto), "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        reader = client(url, "a1", username="aggregator-a1", password=USERS["aggregator-a1"],
                        subscriptions=["gridhe/v1/batch/#"]).connected()  # fmt: skip
        write("m1", "m3")
        process.send_signal(signal.SIGHUP)
        meter = client(url, "m3", username="m3", password=USERS["m3"])
        try:
            meter.connected()
        except BrokerError:  # it was faster than the signal
            meter = client(url, "m3", username="m3", password=USERS["m3"]).connected()
        meter.publish("gridhe/v1/batch/south/m3", b"new")
        assert reader.receives(1) == [("gridhe/v1/batch/south/m3", b"new")]
    finally:
        process.terminate()
        process.wait(10)


def test_password_lines_are_salted_and_never_the_password() -> None:
    lines = {password_line("m1", "secret-1") for _ in range(3)}
    assert len(lines) == 3
    for line in lines:
        user, _, rest = line.partition(":")
        assert user == "m1"
        assert rest.startswith("$7$101$")
        assert rest.endswith("\n")
        assert "secret-1" not in line


@pytest.mark.parametrize("name", ["", "m 1", "m:1", "m1\nuser authority", "M1", "../m1"])
def test_a_name_that_could_forge_a_line_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        password_line(name, "password")
    with pytest.raises(ConfigError):
        acl([RosterEntry(name, "north")])
    with pytest.raises(ConfigError):
        acl([], [name])
    with pytest.raises(ConfigError):
        acl([RosterEntry("m1", f"north/{name}")])


def test_an_empty_password_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty password"):
        password_line("m1", "")


def test_names_that_would_mix_up_two_parties_are_refused() -> None:
    with pytest.raises(ConfigError, match="enrolled twice"):
        acl([RosterEntry("m1", "north"), RosterEntry("m1", "south")])
    with pytest.raises(ConfigError, match="a meter and an aggregator"):
        acl([RosterEntry("a1", "north")], ["a1"])
    with pytest.raises(ConfigError, match="'m9' is not enrolled"):
        acl(ENTRIES, [], {"fleet": ["m1", "m9"]})
    with pytest.raises(ConfigError, match="name of a meter"):
        acl(ENTRIES, [], {"m1": ["m2"]})
    assert aggregator_user("a1") == "aggregator-a1"


@pytest.mark.parametrize("path", [Path("relative"), Path("/srv/a\nlistener 1"), Path("/srv/ends with ")])
def test_a_path_that_mosquitto_would_misread_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="misread"):
        mosquitto_conf(
            settings=BrokerSettings(),
            port=1,
            largest_payload=1,
            password_file=path,
            acl_file=None,
            data_dir=None,
        )


def test_a_user_that_does_not_exist_cannot_own_the_files(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    with pytest.raises(StateError, match="no-such-user"):
        write_server_files(
            tmp_path / "s", settings=BrokerSettings(insecure=True), passwords={}, entries=(),
            largest_payload=1, owner="no-such-user",
        )  # fmt: skip


def test_docs_wire_has_the_access_rules_of_each_user() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
    names = {"m1": "a meter", "aggregator-main": "`aggregator-<id>`"}
    places = {"north/f1/m1": "<group>/<meter>", "m1": "<meter>", "main": "<id>"}
    blocks = acl([RosterEntry("m1", "north/f1")], ["main"]).split("user ")[1:]
    assert len(blocks) == 4
    for block in blocks:
        user = names.get(block.split("\n")[0], f"`{block.split()[0]}`")
        row = re.search(rf"^\| {re.escape(user)} \| (.*?) \|(.*)\|$", page, re.M)
        assert row is not None, user
        for cell, access in zip(row.groups(), ("read", "write"), strict=True):
            rules = re.findall(rf"^topic {access} gridhe/v1/(.*)$", block, re.M)
            for real, place in places.items():
                rules = [re.sub(rf"\b{real}$", place, rule) for rule in rules]
            assert sorted(re.findall(r"`(.*?)`", cell)) == sorted(rules), (user, access)
