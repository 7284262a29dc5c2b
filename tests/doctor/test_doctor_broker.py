"""What the doctor says of a broker, and of credentials."""

import json
import socket
import threading
from pathlib import Path

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.embedded import EmbeddedBroker, Kind, available
from gridhe.broker.server.mosquitto_config import acl
from gridhe.config.settings import BrokerSettings, Settings
from gridhe.doctor.broker import Login, try_broker
from gridhe.wire.credential import DeviceCredential
from gridhe.wire.roster import RosterEntry
from gridhe.wire.signing import SigningKey
from gridhe_testing.doctor import examine

DEVICE = DeviceCredential(
    meter="m1",
    group="north/f1",
    password="the password of m1",
    ingest_key=bytes(32),
    guard_key=bytes(32),
    home_key=bytes(32),
    authority_key=SigningKey.generate().verify_key,
)


def test_no_broker_warns_where_none_is_configured_and_fails_where_one_is(
    capsys: pytest.CaptureFixture[str], unused_port: int
) -> None:
    code, found = examine(capsys, "--set", f"broker.url=mqtt://127.0.0.1:{unused_port}")
    assert code == 1
    assert found["broker"][0]["state"] == "fail"
    assert "Connection refused" in found["broker"][0]["text"]


def test_clear_text_to_another_machine_fails(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = examine(capsys, "--set", "broker.url=mqtt://broker.example")
    assert code == 1
    assert "in clear over the network" in found["broker"][0]["text"]


@pytest.mark.parametrize("kind", ["mosquitto", "iotcore"])
def test_repro_a_broker_that_lets_anybody_in_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: Kind, request: pytest.FixtureRequest
) -> None:
    if kind == "mosquitto":
        request.getfixturevalue("mosquitto")
    assert kind in available()
    DEVICE.save(tmp_path / "m1.json")
    with EmbeddedBroker(tmp_path / "broker", prefer=kind) as broker:
        url = f"broker.url={broker.url}"
        alone = examine(capsys, "--set", url)
        with_login = examine(capsys, "--set", url, "--credential", tmp_path / "m1.json")
    assert alone[0] == with_login[0] == 1
    (check,) = alone[1]["broker"]
    assert check["state"] == "fail"
    assert check["text"] == (
        f"{broker.url} accepts clients without a password and user authority with a wrong password"
    )
    assert "is another broker on this port?" in check["hint"]
    assert [each["state"] for each in with_login[1]["broker"]] == ["ok", "fail", "fail"]
    assert "user m1 with a wrong password" in with_login[1]["broker"][1]["text"]


def test_a_login_is_tried_and_no_login_is_no_fault(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, mosquitto: Path
) -> None:
    DEVICE.save(tmp_path / "m1.json")
    wrong = DeviceCredential(
        meter="m1",
        group="north/f1",
        password="another password",
        ingest_key=bytes(32),
        guard_key=bytes(32),
        home_key=bytes(32),
        authority_key=DEVICE.authority_key,
    )
    wrong.save(tmp_path / "wrong.json")
    rules = acl([RosterEntry("m1", "north/f1")], ["a1"])
    users = {"m1": DEVICE.password}
    with EmbeddedBroker(tmp_path / "broker", prefer="mosquitto", users=users, acl=rules) as broker:
        url = f"broker.url={broker.url}"
        none = examine(capsys, "--set", url)
        right = examine(capsys, "--set", url, "--credential", tmp_path / "m1.json")
        both = examine(
            capsys,
            "--set",
            url,
            "--credential",
            tmp_path / "wrong.json",
            "--credential",
            tmp_path / "m1.json",
        )
    assert none[0] == right[0] == 0
    assert [check["text"] for check in none[1]["broker"]] == [
        f"{broker.url} refuses clients without a password, and a wrong password"
    ]
    assert [check["text"] for check in right[1]["broker"]] == [
        f"{broker.url} accepts m1, MQTT 5",
        f"{broker.url} refuses clients without a password, and a wrong password",
        f"{broker.url} refuses m1 the topics of other roles",
    ]
    assert both[0] == 1
    assert [check["state"] for check in both[1]["broker"]] == ["fail", "ok", "ok", "ok"]
    assert "another password" not in json.dumps(both[1])


OPEN_TO_ALL = "user m1\ntopic readwrite gridhe/#\n"
ROSTER = "user m1\ntopic read gridhe/v1/roster/#\ntopic read gridhe/v1/plan/#\n"
WRITES = "user m1\ntopic write gridhe/v1/#\n"
PUTS = "user authority\ntopic write gridhe/#\n"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (None, "m1 can read gridhe/v1/"),
        (OPEN_TO_ALL, "m1 can read gridhe/v1/"),
        (ROSTER, "m1 can read gridhe/v1/roster/current at"),
        (WRITES, "m1 can publish on gridhe/v1/doctor/"),
    ],
)
def test_repro_a_broker_whose_access_rules_let_a_meter_out_of_its_topics_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, mosquitto: Path, rules: str | None, said: str
) -> None:
    DEVICE.save(tmp_path / "m1.json")
    users = {"m1": DEVICE.password, "authority": "secret"}
    with EmbeddedBroker(
        tmp_path / "broker", prefer="mosquitto", users=users, acl=rules and rules + PUTS
    ) as broker:
        settings = BrokerSettings(url=broker.url)
        with EventLoop() as loop:
            session = Session(
                settings=settings, client_id="a", username="authority", password="secret",
                on_message=lambda *_: None,
            )  # fmt: skip
            loop.add(session)
            assert loop.run_until(lambda: session.connected, 10)
            session.publish(Message(topic="gridhe/v1/roster/current", payload=b"all meters", retain=True))
            assert loop.run_until(lambda: session.in_flight == 0, 10)
            session.close()
        code, found = examine(
            capsys, "--set", f"broker.url={broker.url}", "--credential", tmp_path / "m1.json"
        )
    assert code == 1
    assert [check["state"] for check in found["broker"]] == ["ok", "ok", "fail"]
    assert found["broker"][2]["text"].startswith(said)


def test_repro_a_broker_without_mqtt_5_is_checked_with_3_1_1() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(2):  # with MQTT 5, then with 3.1.1
            connection, _ = server.accept()
            with connection:
                if connection.recv(4096)[8] == 5:
                    connection.sendall(bytes.fromhex("2003008400"))  # unsupported protocol version
                    continue
                connection.sendall(bytes.fromhex("20020000"))
                while connection.recv(4096):
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    broker = BrokerSettings(url=f"mqtt://127.0.0.1:{server.getsockname()[1]}")
    login = Login(user="m1", password="secret", foreign=())
    first = next(try_broker(Settings(broker=broker), login))
    server.close()
    assert (first.state, first.text) == ("ok", f"{broker.url} accepts m1, MQTT 3.1.1")
