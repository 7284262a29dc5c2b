"""The home's broker: real Mosquittos that come late, restart, refuse, or are none."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Session
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.broker.server.mosquitto_config import ServerTls
from gridhe.config.settings import BrokerSettings
from gridhe.errors import SourceError
from gridhe.meter_agent.sources.mqtt import Settings, open_device
from gridhe.meter_agent.sources.mqtt import device as driver
from gridhe.meter_agent.sources.reading import total_wh
from gridhe_testing.home import HomeDevices, HomeSink, in_loop, listening
from gridhe_testing.home_certificate import HomeCertificate

PLUG: dict[str, Any] = {"format": "zigbee2mqtt", "topic": "z/plug"}
PASSWORD = "correct horse 0471"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver tries again at once."""
    monkeypatch.setattr(driver, "_FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(driver, "_LONGEST_WAIT_S", 0.1)


@pytest.fixture
def broker(tmp_path: Path, mosquitto: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path / "home", prefer="mosquitto") as started:
        yield started


@pytest.fixture
def guarded(tmp_path: Path, mosquitto: Path) -> Iterator[EmbeddedBroker]:
    """A broker with users; `reader` may read z/#."""
    acl = "user reader\ntopic read z/#\n\nuser plug\ntopic write z/#\n"
    users = {"reader": PASSWORD, "plug": "plug"}
    with EmbeddedBroker(tmp_path / "home", prefer="mosquitto", users=users, acl=acl) as started:
        yield started


def password_file(tmp_path: Path, text: str = PASSWORD + "\n", mode: int = 0o600) -> str:
    path = tmp_path / "password"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def imports(sink: HomeSink) -> list[Decimal | None]:
    return [total_wh(reading.imported) for reading in sink.readings]


@in_loop
async def test_messages_of_the_topic_become_readings_dated_by_their_arrival(broker: EmbeddedBroker) -> None:
    sink = HomeSink()
    async with listening(broker.url, sink, wall=lambda: 1_736_510_400.0, **PLUG):
        assert sink.names == [f"{broker.url}, z/plug"]
        with HomeDevices(broker.url) as devices:
            devices.publish("z/other", '{"energy":1}')
            for energy in ("5.25", "5.26"):
                devices.publish("z/plug", f'{{"energy":{energy}}}')
        await sink.until(lambda: len(sink.readings) == 2)
    assert imports(sink) == [5_250, 5_260]
    assert sink.arrivals == [1_736_510_400.0] * 2
    assert sink.faults == {}


@in_loop
async def test_repro_a_message_that_the_broker_kept_is_no_reading(broker: EmbeddedBroker) -> None:
    sink = HomeSink()
    with HomeDevices(broker.url) as devices:
        devices.publish("z/plug", '{"energy":5.25}', retain=True)
        async with listening(broker.url, sink, **PLUG):
            await sink.until(lambda: sink.faults["retained"] == 1)
            assert sink.readings == []
            assert sink.hint == "a usable value (retained)"
            # Published with the flag while the driver listens: new.
            devices.publish("z/plug", '{"energy":5.26}', retain=True)
            await sink.until(lambda: len(sink.readings) == 1)
    assert imports(sink) == [5_260]


@in_loop
async def test_repro_messages_of_the_time_without_a_connection_are_not_read_later(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = HomeSink()
    settings = Settings(address=broker.url, **PLUG)
    device = open_device(settings)  # with one client id, as across a loss of the network
    with HomeDevices(broker.url) as devices:
        for at, missed in enumerate((None, '{"energy":5.30}')):
            if missed is not None:
                devices.publish("z/plug", missed)
            task = asyncio.ensure_future(device.run(sink))
            await sink.until(lambda at=at: len(sink.names) > at)  # type: ignore[misc]
            devices.publish("z/plug", f'{{"energy":5.4{at}}}')
            await sink.until(lambda at=at: len(sink.messages) > at)  # type: ignore[misc]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert imports(sink) == [5_400, 5_410]


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
@in_loop
async def test_readings_go_on_after_the_broker_was_away(killed: bool, broker: EmbeddedBroker) -> None:
    sink = HomeSink()
    async with listening(broker.url, sink, **PLUG) as task:
        for at in range(3):
            await sink.until(lambda at=at: len(sink.names) > at)  # type: ignore[misc]
            with HomeDevices(broker.url) as devices:
                devices.publish("z/plug", f'{{"energy":5.2{at}}}')
                await sink.until(lambda at=at: len(sink.readings) > at)  # type: ignore[misc]
            losses = len(sink.losses)
            if killed:
                broker.kill()
            else:
                broker.stop()
            await sink.until(lambda losses=losses: len(sink.losses) > losses + 1)  # type: ignore[misc]
            assert sink.losses[losses].startswith(f"lost {broker.url}: ")
            assert sink.losses[-1] == f"cannot reach {broker.url}: Connection refused; check address"
            await asyncio.to_thread(broker.start)
        assert not task.done()
    assert imports(sink) == [5_200, 5_210, 5_220]


@in_loop
async def test_a_broker_that_is_not_there_yet_is_told_and_waited_for(
    tmp_path: Path, mosquitto: Path, broker: EmbeddedBroker
) -> None:
    broker.stop()
    sink = HomeSink()
    task = asyncio.ensure_future(open_device(Settings(address=broker.url, **PLUG)).run(sink))
    await sink.until(lambda: len(sink.losses) > 1)
    assert set(sink.losses) == {f"cannot reach {broker.url}: Connection refused; check address"}
    await asyncio.to_thread(broker.start)
    await sink.until(lambda: bool(sink.names))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@in_loop
async def test_a_name_that_does_not_exist_is_told() -> None:
    sink = HomeSink()
    device = open_device(Settings(address="mqtt://broker.invalid", **PLUG))
    task = asyncio.ensure_future(device.run(sink))
    await sink.until(lambda: bool(sink.losses))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sink.losses[0].startswith("cannot reach mqtt://broker.invalid:1883: ")
    assert sink.losses[0].endswith("; check address")


@in_loop
async def test_a_port_that_is_no_brokers_is_told() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    sink = HomeSink()
    task = asyncio.ensure_future(open_device(Settings(address=url, **PLUG)).run(sink))
    await sink.until(lambda: len(sink.losses) > 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()
    assert all(loss.startswith(f"{url} does not answer as a broker: ") for loss in sink.losses)


@in_loop
async def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1() -> None:
    """A broker of few words: it refuses MQTT 5, then accepts, and publishes one message."""
    seen: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connect = await reader.read(200)
        seen.append(connect[8])
        if connect[8] == 5:
            writer.write(bytes.fromhex("20020001"))  # CONNACK: unacceptable protocol version
        else:
            assert connect[9] & 2, "a clean session"
            writer.write(bytes.fromhex("20020000"))
            subscribe = await reader.read(200)
            writer.write(b"\x90\x03" + subscribe[2:4] + b"\x01")
            payload = b"\x00\x06z/plug" + b'{"energy":5.25}'
            writer.write(b"\x30" + bytes([len(payload)]) + payload)
            await writer.drain()
            await reader.read(1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    sink = HomeSink()
    async with listening(url, sink, **PLUG):
        await sink.until(lambda: len(sink.readings) == 1)
    server.close()
    assert seen == [5, 4]
    assert imports(sink) == [5_250]


@in_loop
async def test_the_password_comes_from_its_file(guarded: EmbeddedBroker, tmp_path: Path) -> None:
    sink = HomeSink()
    options = PLUG | {"user": "reader", "password_file": password_file(tmp_path)}
    async with listening(guarded.url, sink, **options):
        with HomeDevices(guarded.url, "plug", "plug") as devices:
            devices.publish("z/plug", '{"energy":5.25}')
        await sink.until(lambda: len(sink.readings) == 1)
    assert imports(sink) == [5_250]


@in_loop
async def test_repro_a_wrong_password_ends_the_first_attempt_and_is_nowhere_told(
    guarded: EmbeddedBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    options = PLUG | {"user": "reader", "password_file": password_file(tmp_path, "a wrong secret")}
    device, sink = open_device(Settings(address=guarded.url, **options)), HomeSink()
    with pytest.raises(SourceError, match=r"refuses the user .*: check user and password_file") as refused:
        await device.run(sink)
    assert "\n" not in str(refused.value)
    everything = f"{refused.value!r} {device!r} {vars(device)!r} {sink.losses} {caplog.text}"
    assert "wrong secret" not in everything


@in_loop
async def test_a_password_that_is_changed_later_is_waited_for(
    tmp_path: Path, mosquitto: Path, guarded: EmbeddedBroker
) -> None:
    options = PLUG | {"user": "reader", "password_file": password_file(tmp_path)}
    sink = HomeSink()
    async with listening(guarded.url, sink, **options) as task:
        guarded.stop()
        users = guarded._users
        guarded._users = {"plug": "plug", "reader": "another"}
        await asyncio.to_thread(guarded.start)
        await sink.until(lambda: any("refuses the user" in loss for loss in sink.losses))
        guarded.stop()
        guarded._users = users
        await asyncio.to_thread(guarded.start)
        await sink.until(lambda: len(sink.names) == 2)
        assert not task.done()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mode": 0o640}, "password_file: .* can be read by others .*chmod 600"),
        ({"text": "\n"}, "password_file .* is empty"),
        ({"text": "\xe9", "encoding": "latin-1"}, "is not UTF-8 text"),
        ({"absent": True}, "password_file: cannot read"),
    ],
)
def test_a_password_file_that_is_unusable_is_refused(
    options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "password"
    if "absent" not in options:
        path.write_text(options.get("text", "x"), encoding=options.get("encoding", "utf-8"))
        path.chmod(options.get("mode", 0o600))
    settings = Settings(address="mqtt://127.0.0.1", user="u", password_file=str(path), **PLUG)
    with pytest.raises(SourceError, match=told):
        open_device(settings)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://127.0.0.1", r"source.address 'http://127.0.0.1' is not mqtt://host"),
        ("mqtt://u:secret@host", "source.address contains a user or password"),
        ("mqtt://192.168.1.5", "would send the password in clear .* source.insecure: true"),
    ],
)
def test_an_address_that_is_unusable_is_refused(address: str, told: str, tmp_path: Path) -> None:
    settings = Settings(address=address, user="u", password_file=password_file(tmp_path), **PLUG)
    with pytest.raises(SourceError, match=told) as refused:
        open_device(settings)
    assert "secret" not in str(refused.value)


def test_without_a_password_clear_text_in_the_home_is_allowed() -> None:
    open_device(Settings(address="mqtt://192.168.1.5", **PLUG))


@in_loop
async def test_a_topic_that_nobody_publishes_on_is_told(broker: EmbeddedBroker) -> None:
    sink = HomeSink()
    async with listening(broker.url, sink, silence_s=0.2, **PLUG):
        await sink.until(lambda: sink.faults["silent"] == 2)
    assert sink.details["silent"].startswith("no message on z/plug for 0.2 s; check the topic's spelling")


@in_loop
async def test_repro_a_huge_message_is_not_delivered_and_costs_no_connection(
    broker: EmbeddedBroker,
) -> None:
    sink = HomeSink()
    async with listening(broker.url, sink, **PLUG):
        with HomeDevices(broker.url) as devices:
            for payload in (b" " * 2_000_000, b" " * 100_000, b'{"energy":5.25}'):
                devices.publish("z/plug", payload)
        await sink.until(lambda: len(sink.readings) == 1)
    assert sink.bytes == 100_015
    assert sink.faults == {"too_long": 1}
    assert sink.losses == []


@in_loop
async def test_the_parts_of_a_reading_are_complete_when_no_more_come(broker: EmbeddedBroker) -> None:
    sink = HomeSink()
    async with listening(broker.url, sink, format="dsmr_reader", topic="dsmr"):
        with HomeDevices(broker.url) as devices:
            for name, text in (("delivered_2", "2.000"), ("delivered_1", "1.000")):
                devices.publish(f"dsmr/reading/electricity_{name}", text)
        await sink.until(lambda: len(sink.readings) == 1)
    assert imports(sink) == [3_000]


@in_loop
async def test_tls_trusts_the_given_ca_only(tmp_path: Path, mosquitto: Path) -> None:
    good, other = (HomeCertificate.make(tmp_path / name) for name in ("good", "other"))
    tls = ServerTls(cert_file=good.cert, key_file=good.key)
    with EmbeddedBroker(tmp_path / "home", prefer="mosquitto", tls=tls) as broker:
        sink = HomeSink()
        async with listening(broker.url, sink, ca_file=str(good.cert), **PLUG):
            assert sink.names == [f"{broker.url}, z/plug"]
        settings = Settings(address=broker.url, ca_file=str(other.cert), **PLUG)
        with pytest.raises(
            SourceError, match=r"is not trusted .*; set ca_file to the CA of the home's broker"
        ):
            await open_device(settings).run(sink)
    with pytest.raises(SourceError, match=r"source.ca_file .* cannot be read as PEM"):
        open_device(Settings(address="mqtts://127.0.0.1", ca_file=str(tmp_path / "none"), **PLUG))


def test_it_runs_beside_the_agents_own_session_on_one_loop(
    broker: EmbeddedBroker, tmp_path: Path, mosquitto: Path
) -> None:
    heard: list[bytes] = []
    sink = HomeSink()
    with EmbeddedBroker(tmp_path / "grid", prefer="mosquitto") as grid, EventLoop() as loop:
        session = Session(
            settings=BrokerSettings(url=grid.url),
            client_id="m1",
            on_message=lambda _topic, payload: heard.append(payload),
            subscriptions=["grid/#"],
        )
        loop.add(session)
        loop.create_task(open_device(Settings(address=broker.url, **PLUG)).run(sink))
        assert loop.run_until(lambda: session.connected and bool(sink.names), 20)
        with HomeDevices(broker.url) as devices, HomeDevices(grid.url) as operators:
            operators.publish("grid/x", b"from the grid", retain=True)
            devices.publish("z/plug", '{"energy":5.25}')
        # The driver's callbacks are asyncio's own: a timer lets the predicate be seen.
        loop.every(0.05, lambda: None)
        assert loop.run_until(lambda: bool(sink.readings) and bool(heard), 20)
    assert imports(sink) == [5_250]
    assert heard == [b"from the grid"]


def test_the_socket_is_closed_at_the_end(broker: EmbeddedBroker) -> None:
    async def run() -> None:
        sink = HomeSink()
        async with listening(broker.url, sink, **PLUG):
            pass

    before = socket.socket()
    first = before.fileno()
    before.close()
    for _ in range(3):
        asyncio.run(run())
    after = socket.socket()
    assert after.fileno() == first
    after.close()
