"""Serial ports and gateways: a real pseudo-terminal and real sockets."""

import asyncio
import itertools
import os
import pwd
import socket
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.sources.reading import DeviceReading
from gridhe.meter_agent.sources.settings import SerialSettings
from gridhe.meter_agent.sources.transports.line import Line
from gridhe.meter_agent.sources.transports.serial_port import SerialLine, open_serial
from gridhe.meter_agent.sources.transports.stream import keep_open, open_line, run_stream
from gridhe.meter_agent.sources.transports.tcp import open_tcp, tcp_address
from gridhe_testing.recording_sink import RecordingSink
from gridhe_testing.serial_pair import PlayingServer, SerialPair


class Lines:
    """A decoder of lines: a reading each that names the line; one with "bad" is a fault."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.calls: list[str] = []
        self._held = b""

    def feed(self, data: bytes) -> list[DeviceReading]:
        *lines, self._held = (self._held + data).split(b"\n")
        good = [line for line in lines if b"bad" not in line]
        self.faults["crc"] += len(lines) - len(good)
        return [DeviceReading(device=line.decode("latin-1")) for line in good]

    def pause(self) -> list[DeviceReading]:
        self.calls.append("pause")
        return []

    def reset(self) -> None:
        self.calls.append("reset")
        self._held = b""

    @property
    def waiting_for(self) -> str | None:
        return "a line's end" if self._held else None


@asynccontextmanager
async def running(address: str | Path, sink: RecordingSink, decoder: Lines, **options: Any) -> Any:
    settings = SerialSettings(address=str(address), silence_s=options.pop("silence_s", 60.0))
    task = asyncio.create_task(
        run_stream(settings, SerialLine(), decoder, sink, first_wait_s=0.05, **options)
    )
    try:
        await sink.until(lambda: bool(sink.names))
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            await task


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


def names(sink: RecordingSink) -> list[str | None]:
    return [reading.device for reading in sink.readings]


def test_a_ports_bytes_reach_the_decoder_and_its_counts_the_sink(tmp_path: Path) -> None:
    async def test() -> None:
        sink, decoder = RecordingSink(), Lines()
        with SerialPair(tmp_path / "tty") as pair:
            async with running(pair.path, sink, decoder):
                await pair.play(b"one\nbad\ntwo\nthr", piece=1)
                await sink.until(lambda: sink.bytes == 15)
                assert sink.hint == "a line's end"
                await pair.play(b"ee\nbad\n")
                await sink.until(lambda: sink.bytes == 22)
        assert names(sink) == ["one", "two", "three"]
        assert sink.faults == {"crc": 2}
        assert sink.names == [f"{pair.path}, 115200 8N1"]
        assert sink.losses == []

    run(test)


def test_repro_every_byte_arrives_unchanged_after_a_port_was_in_line_mode(tmp_path: Path) -> None:
    async def test() -> None:
        everything = bytes(range(256)) * 3
        with SerialPair(tmp_path / "tty") as pair:
            for _ in range(2):  # at each opening
                mode = termios.tcgetattr(pair.terminal)
                mode[0] |= termios.ICRNL | termios.IXON | termios.ISTRIP | termios.BRKINT | termios.IGNCR
                mode[3] |= termios.ICANON | termios.ECHO | termios.ISIG
                termios.tcsetattr(pair.terminal, termios.TCSANOW, mode)
                port = open_serial(str(pair.path), SerialLine())
                try:
                    assert not termios.tcgetattr(pair.terminal)[0] & termios.BRKINT
                    await pair.play(everything, piece=11)
                    data = b""
                    while len(data) < len(everything):
                        data += await port.read(5)
                    assert data == everything
                    assert await port.read(0.01) == b""
                finally:
                    port.close()

    run(test)


def test_a_cable_that_was_pulled_and_plugged_in_again(tmp_path: Path) -> None:
    async def test() -> None:
        sink, decoder = RecordingSink(), Lines()
        with SerialPair(tmp_path / "tty") as pair:
            async with running(pair.path, sink, decoder):
                await pair.play(b"one\nhalf")
                await sink.until(lambda: sink.bytes == 8)
                pair.unplug()
                await sink.until(lambda: len(sink.losses) >= 2)
                assert "check the cable" in sink.losses[0]
                assert f"there is no {pair.path}" in sink.losses[1]
                pair.plug()
                await sink.until(lambda: len(sink.names) == 2)
                await pair.play(b"two\n")
                await sink.until(lambda: len(sink.readings) == 2)
        assert names(sink) == ["one", "two"]  # not "halftwo"
        assert decoder.calls.count("reset") == 2

    run(test)


def test_a_silent_line_pauses_the_decoder_once_and_is_opened_anew_after_silence_s(tmp_path: Path) -> None:
    async def test() -> None:
        sink, decoder = RecordingSink(), Lines()
        with SerialPair(tmp_path / "tty") as pair:
            async with running(pair.path, sink, decoder, quiet_s=0.1, silence_s=0.4):
                await pair.play(b"one\n")
                await sink.until(lambda: len(sink.names) == 2)
                await pair.play(b"two\n")
                await sink.until(lambda: len(sink.readings) == 2)
        assert "no byte for 0.4 s" in sink.losses[0]
        reset = decoder.calls.index("reset", 1)
        # Before "one", if that took 0.1 s, and after it.
        assert decoder.calls[:reset].count("pause") in (1, 2)

    run(test)


def test_a_gateway_that_closes_the_connection_is_called_again() -> None:
    async def test() -> None:
        sink, decoder = RecordingSink(), Lines()
        async with PlayingServer(b"hello\nhalf") as server, running(server.address, sink, decoder):
            await sink.until(lambda: len(sink.readings) == 1)
            await server.hang_up()
            await sink.until(lambda: len(sink.names) == 2 and len(sink.readings) == 2)
        assert names(sink) == ["hello", "hello"]
        assert sink.names[0] == server.address
        assert "closed the connection" in sink.losses[0]

    run(test)


def test_a_gateway_over_ipv6() -> None:
    async def test() -> None:
        try:
            async with PlayingServer(b"six\n", host="::1") as server:
                line = await open_tcp(server.address)
                assert await line.read(5) == b"six\n"
                line.close()
        except OSError:
            pytest.skip("no IPv6 loopback here")

    run(test)


def test_repro_a_gateway_that_takes_and_drops_clients_is_not_called_without_end() -> None:
    async def test() -> None:
        sink, waits = RecordingSink(), []
        async with PlayingServer() as server:

            async def converse(line: Line) -> None:
                waits.append(asyncio.get_running_loop().time())
                await line.read(0)
                raise SourceError("gone")

            settings = SerialSettings(address=server.address)
            task = asyncio.create_task(keep_open(settings, SerialLine(), sink, converse, first_wait_s=0.05))
            await sink.until(lambda: len(sink.losses) == 4)
            task.cancel()
            await asyncio.wait({task})
        gaps = [later - earlier for earlier, later in itertools.pairwise(waits)]
        assert gaps[0] >= 0.05
        assert gaps[1] >= 0.1
        assert gaps[2] >= 0.2

    run(test)


def test_a_line_can_be_written_and_its_baud_rate_changed(tmp_path: Path) -> None:
    async def test() -> None:
        with SerialPair(tmp_path / "tty") as pair:
            line = await open_line(str(pair.path), SerialLine(baud=300, bits=7, parity="E"))
            assert line.name.endswith("300 7E1")
            assert termios.tcgetattr(pair.terminal)[4] == termios.B300
            await line.write(b"/?!\r\n")
            assert await pair.heard(5) == b"/?!\r\n"
            assert termios.tcgetattr(pair.terminal)[0] & termios.INPCK  # wrong parity is read as a 0 byte
            line.set_line(SerialLine(baud=9600))
            assert termios.tcgetattr(pair.terminal)[4] == termios.B9600
            assert not termios.tcgetattr(pair.terminal)[0] & termios.INPCK
            await pair.play(b"old")
            assert await line.read(5) == b"old"
            await pair.play(b"noise")
            await line.discard()
            await pair.play(b"new")
            assert await line.read(5) == b"new"
            assert line.received == 6
            pair.unplug()
            with pytest.raises(SourceError, match="has gone"):
                await line.read(5)
            line.close()
            line.close()

    run(test)


def test_a_gateway_can_be_written() -> None:
    async def test() -> None:
        async with PlayingServer(b"greeting") as server:
            line = await open_line(server.address, SerialLine())
            await server.connected()
            assert await line.read(5) == b"greeting"
            await line.write(b"/?!\r\n")
            assert await server.heard(5) == b"/?!\r\n"
            line.set_line(SerialLine(baud=300))
            assert await line.read(0.01) == b""
            await line.discard()
            await server.hang_up()
            with pytest.raises(SourceError, match="closed the connection"):
                await line.read(5)
            line.close()

    run(test)


def refusal(address: str | Path) -> str:
    with pytest.raises(SourceError) as caught:
        asyncio.run(open_line(str(address), SerialLine()))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_path_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_path, by_id = tmp_path / "by-path", tmp_path / "by-id"
    monkeypatch.setattr("gridhe.meter_agent.sources.transports.serial_port._NAMED", (by_id, by_path))
    assert "no serial port is plugged in" in refusal(tmp_path / "ttyUSB7")
    by_path.mkdir()
    (by_path / "pci-usb-0:1").touch()
    assert refusal(tmp_path / "ttyUSB7") == (
        f"there is no {tmp_path}/ttyUSB7; there are {by_path}/pci-usb-0:1"
    )


@pytest.mark.parametrize("path", ["/dev/null", "/etc/hostname", "/tmp"])  # noqa: S108
def test_a_path_that_is_no_port(path: str) -> None:
    assert "is not a serial port" in refusal(path)


def test_repro_a_port_that_another_program_holds(tmp_path: Path) -> None:
    # Another process with the lock that pyserial takes: its name is shown.
    code = (
        "import serial, sys; port = serial.Serial(sys.argv[1], exclusive=True); print('open', flush=True); "
        "input()"
    )
    with SerialPair(tmp_path / "tty") as pair:
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(pair.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        assert holder.stdin is not None
        with holder, holder.stdin:
            assert holder.stdout.readline() == b"open\n"
            message = refusal(pair.path)
        assert "in use by another program" in message
        assert f"process {holder.pid}" in message
        port = open_serial(str(pair.path), SerialLine())
        port.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_port_without_permission(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, sys\n"
        "from gridhe.meter_agent.sources.transports.stream import open_line\n"
        "from gridhe.meter_agent.sources.transports.serial_port import SerialLine\n"
        "os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))\n"
        "asyncio.run(open_line(sys.argv[1], SerialLine()))\n"
    )
    nobody = str(pwd.getpwnam("nobody").pw_uid)
    with SerialPair(tmp_path / "tty") as pair:
        terminal = os.ttyname(pair.terminal)
        Path(terminal).chmod(0o600)
        done = subprocess.run(
            [sys.executable, "-c", code, terminal, nobody],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert "no permission to open" in done.stderr
    assert "dialout" in done.stderr


def test_a_gateway_that_refuses_and_a_host_that_is_not_there() -> None:
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert f"tcp://127.0.0.1:{port} refused the connection" in refusal(f"tcp://127.0.0.1:{port}")
    assert "there is no host" in refusal("tcp://no-such-host.invalid:8088")


@pytest.mark.parametrize(
    "address", ["tcp://", "tcp://host", "tcp://host:0", "tcp://host:99999", "tcp://host:x", "tcp://:80",
                "tcp://::1:80", "tcp://host:80/path"],
)  # fmt: skip
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(SourceError, match="tcp://host:port"):
        tcp_address(address)


def test_addresses() -> None:
    assert tcp_address("tcp://[fe80::1%eth0]:8088") == ("fe80::1%eth0", 8088)
    assert tcp_address("tcp://192.168.1.30:23/") == ("192.168.1.30", 23)


def test_the_first_opening_must_succeed(tmp_path: Path) -> None:
    async def test() -> None:
        settings = SerialSettings(address=str(tmp_path / "nothing"))
        with pytest.raises(SourceError, match="there is no"):
            await run_stream(settings, SerialLine(), Lines(), RecordingSink())

    run(test)


@pytest.mark.parametrize(
    ("text", "line"),
    [("9600 7E1", SerialLine(baud=9600, bits=7, parity="E")), ("115200,8n1", SerialLine()),
     ("300/7o2", SerialLine(baud=300, bits=7, parity="O", stop=2))],
)  # fmt: skip
def test_a_line_is_written_as_baud_rate_and_format(text: str, line: SerialLine) -> None:
    assert SerialLine.parse(text) == line
    assert SerialLine.parse(str(line)) == line


@pytest.mark.parametrize("text", ["", "9600", "7E1", "9600 9N1", "9600 8X1", "49 8N1", "9600 8N3"])
def test_a_line_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="115200 8N1"):
        SerialLine.parse(text)
