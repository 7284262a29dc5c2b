"""A real InfluxDB 1.8 for the bench's store, and records to put in it."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gridhe.bench.influx_store import InfluxSettings, InfluxStore
from gridhe.bench.local_store import LocalStore
from gridhe.bench.record import Figures, Record
from gridhe.bench.recorder import Recorder, Setup, SuiteProgress
from gridhe.bench.store import new_run

VERSION = "1.8.10"
ORG, BUCKET = "gridhe", "bench/autogen"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class InfluxServer:
    """One influxd process on loopback; `start`, `kill` and `start` again keep its data and its port."""

    def __init__(self, program: Path, folder: Path, *, auth: bool = False, flux: bool = True) -> None:
        self._program, self._folder, self._auth, self._flux = program, folder, auth, flux
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> InfluxSettings:
        url = f"http://127.0.0.1:{self.port}"
        return InfluxSettings(url=url, org=ORG, bucket=BUCKET, token="reader:secret")

    def start(self) -> None:
        folder = self._folder
        folder.mkdir(exist_ok=True)
        env = {
            "HOME": str(folder),
            "PATH": os.defpath,
            "INFLUXDB_REPORTING_DISABLED": "true",
            "INFLUXDB_BIND_ADDRESS": f"127.0.0.1:{free_port()}",
            "INFLUXDB_META_DIR": str(folder / "meta"),
            "INFLUXDB_DATA_DIR": str(folder / "data"),
            "INFLUXDB_DATA_WAL_DIR": str(folder / "wal"),
            "INFLUXDB_HTTP_BIND_ADDRESS": f"127.0.0.1:{self.port}",
            "INFLUXDB_HTTP_FLUX_ENABLED": "true" if self._flux else "false",
            "INFLUXDB_HTTP_AUTH_ENABLED": "true" if self._auth else "false",
        }
        with (folder / "influxd.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, "run"], env=env, stdout=log, stderr=log)
        self._wait()
        if self._auth:
            self._ask("CREATE USER root WITH PASSWORD 'root' WITH ALL PRIVILEGES")
            # On a busy machine the server answers this before it knows its first administrator.
            deadline = time.monotonic() + 30
            while self._ask("SHOW DATABASES", "root:root", allowed=(200, 401, 403)) != 200:
                assert time.monotonic() < deadline, "the server does not know its administrator"
                time.sleep(0.05)
        self._ask("CREATE DATABASE bench", "root:root" if self._auth else None)

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process is not None
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
                with contextlib.closing(connection):
                    connection.request("GET", "/ping")
                    if connection.getresponse().status == 204:
                        return
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"influxd ended with {self._process.wait(0.1)}: {self._log()}")
        pytest.fail(f"influxd does not answer: {self._log()}")

    def _ask(self, query: str, user: str | None = None, allowed: tuple[int, ...] = (200,)) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        name, _, password = (user or "").partition(":")
        login = f"?u={name}&p={password}" if user else ""
        with contextlib.closing(connection):
            connection.request(
                "POST",
                f"/query{login}",
                urllib.parse.urlencode({"q": query}),
                {"Content-Type": "application/x-www-form-urlencoded"},
            )
            answer = connection.getresponse()
            assert answer.status in allowed, answer.read()
            return answer.status

    def _log(self) -> str:
        return (self._folder / "influxd.log").read_text(errors="replace")[-500:]

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def influxd() -> Path:
    """The server's program, from tools/build_influxd.sh. Skips without it, but fails in CI."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    program = cache / "gridhe" / f"influxd-{VERSION}" / "influxd"
    if not program.exists():
        reason = "there is no influxd here; run tools/build_influxd.sh (needs go)"
        if os.environ.get("GRIDHE_REQUIRE_INFLUXDB") == "1":
            pytest.fail(f"{reason} (GRIDHE_REQUIRE_INFLUXDB=1)")
        pytest.skip(reason)
    return program


@pytest.fixture
def start_influx(influxd: Path, tmp_path: Path) -> Iterator[Callable[..., InfluxServer]]:
    servers: list[InfluxServer] = []

    def start(**options: bool) -> InfluxServer:
        servers.append(InfluxServer(influxd, tmp_path / f"influx{len(servers)}", **options))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def connect() -> Iterator[Callable[[InfluxSettings], InfluxStore]]:
    """Stores that are closed at the end."""
    with contextlib.ExitStack() as stack:

        def made(settings: InfluxSettings) -> InfluxStore:
            return stack.enter_context(contextlib.closing(InfluxStore(settings)))

        yield made


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """Records of one run, each a little later than the one before."""
    made = 0

    def make(values: tuple[float, ...] = (1.0, 2.5, 4.0), **changes: object) -> Record:
        nonlocal made
        made += 1
        fields: dict[str, object] = {
            "run": "20260131t120000-1a2b",
            "at_ns": 1_769_860_800_000_000_000 + made,
            "suite": "micro",
            "case": f"case {made}",
            "preset": "4096-96k",
            "metric": "time",
            "unit": "us",
            "better": "lower",
            "figures": Figures.of(values),
            "host": "here",
            "machine": "a processor, 2 cores",
            "version": "0.1.0",
            "note": "",
            **changes,
        }
        return Record(**fields)  # type: ignore[arg-type]

    return make


class Measuring:
    """A suite's setup with a local store of its own."""

    def __init__(self, folder: Path) -> None:
        self._kept, self._run = LocalStore(folder / "kept"), new_run(time.time())
        recorder = Recorder(self._kept, self._run)
        self.setup = Setup(recorder=recorder, progress=SuiteProgress(), quick=True, seed=1, folder=folder)

    def records(self) -> list[Record]:
        """What was recorded."""
        self._kept.close()
        return self._kept.read(self._run)


@pytest.fixture
def measuring(tmp_path: Path) -> Callable[[], Measuring]:
    return lambda: Measuring(tmp_path)
