"""A private broker for a demo, a bench or a test: on loopback, on a free port, ends with its parent process.

| kind      | program                               | passwords | ACL | sessions survive a restart |
|-----------|---------------------------------------|-----------|-----|----------------------------|
| mosquitto | `mosquitto` from PATH or /usr/sbin    | yes       | yes | with `persistence=True`    |
| iotcore   | rumqttd out of PyPI's `iotcore` wheel | yes       | no  | no                         |
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from gridhe.base.files import make_private_dir, write_private
from gridhe.base.processes import start_process, stop_process
from gridhe.broker.server.mosquitto_config import ServerTls, mosquitto_conf, password_line
from gridhe.config.settings import BrokerSettings
from gridhe.errors import BrokerError, ConfigError

__all__ = ["EmbeddedBroker", "Kind", "available"]

Kind = Literal["mosquitto", "iotcore"]

_PORT_TRIES = 8
_POLL_S = 0.02
# rumqttd keeps every message of a filter, delivered or not, until the filter's log is full. Then it drops
# the oldest without an error. 256 MB is its memory use, and the limit of what meters may have in flight.
_IOTCORE_SEGMENT, _IOTCORE_SEGMENTS = 32 * 1024 * 1024, 8
_IOTCORE_INFLIGHT = 100  # unacknowledged messages per client; rumqttd ignores Receive Maximum

_IOTCORE = """
import logging, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)
logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
logging.getLogger("tracing").setLevel(logging.CRITICAL)
from iotcore.iotcore import IotCoreBroker
IotCoreBroker(config_path=sys.argv[1]).run_forever()
"""


def available() -> tuple[Kind, ...]:
    """The kinds that are installed here, best first."""
    kinds: list[Kind] = []
    if _mosquitto() is not None:
        kinds.append("mosquitto")
    if importlib.util.find_spec("iotcore") is not None:
        kinds.append("iotcore")
    return tuple(kinds)


def _mosquitto() -> str | None:
    # Debian's is in /usr/sbin, which is not on every user's PATH.
    return shutil.which(
        "mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    )


class EmbeddedBroker:
    """A broker as a child process; `with EmbeddedBroker(directory) as broker: broker.url`."""

    def __init__(
        self,
        directory: Path,
        *,
        prefer: Literal["auto", "mosquitto", "iotcore"] = "auto",
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        passwords: str | None = None,
        persistence: bool = False,
        tls: ServerTls | None = None,
        settings: BrokerSettings | None = None,
        largest_payload: int = 16 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Choose the kind; start nothing yet.

        directory: made if absent, 0700; for configuration, log and data.
        users: broker user -> password; None: anybody on this machine may connect.
        acl: an ACL file's text (mosquitto_config.acl); iotcore has no ACLs and ignores it.
        passwords: a password file's text, as enrolment writes it, instead of `users`; iotcore cannot
        read its hashes, so anybody on this machine may connect then.
        tls: the server certificate; mosquitto only.
        Raises BrokerError if no such broker is installed, ConfigError for an ACL without users.
        """
        kinds = available() if tls is None else tuple(kind for kind in available() if kind == "mosquitto")
        if users is not None and passwords is not None:
            raise ConfigError("give the embedded broker users or a password file's text, not both")
        if acl is not None and users is None and passwords is None:
            raise ConfigError("an ACL without users protects nothing; give the embedded broker users as well")
        if not kinds or (prefer != "auto" and prefer not in kinds):
            wanted = "mosquitto or iotcore" if prefer == "auto" else prefer
            raise BrokerError(
                f"no broker to start ({wanted} not found); run `apt install mosquitto` "
                "or `pip install 'gridhe[demo]'`, or set broker.url to a running broker"
            )
        self.kind: Kind = kinds[0] if prefer == "auto" else prefer
        self.directory = directory.resolve()
        self._users, self._acl, self._persistence = users, acl, persistence
        self._passwords = passwords
        self._tls = tls
        self._settings = settings or BrokerSettings()
        self._largest_payload = largest_payload
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The broker's URL. Raises BrokerError before the first start."""
        if not self.port:
            raise BrokerError("the embedded broker has not been started")
        return f"{'mqtt' if self._tls is None else 'mqtts'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def log_path(self) -> Path:
        """The broker's log file."""
        return self.directory / "broker.log"

    def start(self, timeout_s: float = 15.0) -> "EmbeddedBroker":
        """Start, and return when the broker answers an MQTT CONNECT. A later start uses the same port.

        Raises BrokerError with the end of the log.
        """
        if self.pid is not None:
            return self
        deadline = self._clock() + timeout_s
        for _ in range(_PORT_TRIES):
            port = self.port or _free_port()
            self._launch(port)
            if self._answers(port, deadline):
                self.port = port
                return self
            self._reap()
            # Another process may have taken the port meanwhile: try another one. Other errors are final.
            if self.port or "in use" not in self.log_tail() or self._clock() >= deadline:
                break
        raise BrokerError(
            f"the embedded {self.kind} does not start: {self.log_tail(300) or 'its log is empty'}"
        )

    def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        stop_process(process, timeout_s)

    def kill(self) -> None:
        """SIGKILL, as after a power cut."""
        self._reap()

    def restart(self, timeout_s: float = 15.0) -> None:
        """Stop it if it runs, and start it on the same port."""
        self.stop()
        self.start(timeout_s)

    def log_tail(self, maximum: int = 2_000) -> str:
        """The last characters of its log, on one line."""
        try:
            data = self.log_path.read_bytes()[-maximum:]
        except OSError:
            return ""
        return " | ".join(data.decode(errors="replace").split("\n")).strip(" |")

    def __enter__(self) -> "EmbeddedBroker":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- starting ------------------------------------------------------------------------------

    def _launch(self, port: int) -> None:
        make_private_dir(self.directory)
        if self.kind == "mosquitto":
            command = [str(_mosquitto()), "-c", str(self._write_mosquitto(port))]
        else:
            command = [sys.executable, "-P", "-c", _IOTCORE, str(self._write_iotcore(port))]
        write_private(self.log_path, b"")
        with self.log_path.open("ab") as log:
            self._process = start_process(command, stdout=log, stderr=log, cwd=self.directory)

    def _write_mosquitto(self, port: int) -> Path:
        passwords = acl = data = None
        if self._users is not None or self._passwords is not None:
            lines = [password_line(*item) for item in (self._users or {}).items()]
            passwords = self.directory / "passwords"
            write_private(passwords, (self._passwords or "".join(lines)).encode())
        if self._acl is not None:
            acl = self.directory / "acl"
            write_private(acl, self._acl.encode())
        if self._persistence:
            data = self.directory / "data"
            make_private_dir(data)
        conf = mosquitto_conf(
            settings=self._settings,
            port=port,
            largest_payload=self._largest_payload,
            password_file=passwords,
            acl_file=acl,
            data_dir=data,
            tls=self._tls,
            # Else a Mosquitto started by root switches to user `mosquitto`, which cannot read these files.
            user="root" if os.geteuid() == 0 else None,
        )
        path = self.directory / "mosquitto.conf"
        write_private(path, conf.encode())
        return path

    def _write_iotcore(self, port: int) -> Path:
        lines = [
            "id = 0",
            "[router]",
            "id = 0",
            "max_connections = 10010",
            "max_outgoing_packet_count = 200",
            f"max_segment_size = {_IOTCORE_SEGMENT}",
            f"max_segment_count = {_IOTCORE_SEGMENTS}",
        ]
        lines += [
            "[v5.1]",
            'name = "gridhe"',
            f'listen = "127.0.0.1:{port}"',
            "next_connection_delay_ms = 1",
            "[v5.1.connections]",
            f"connection_timeout_ms = {int(self._settings.connect_timeout_s * 1000)}",
            f"max_payload_size = {self._largest_payload + 65_536}",
            f"max_inflight_count = {_IOTCORE_INFLIGHT}",
            "dynamic_filters = true",
        ]
        if self._users is not None:
            lines.append("[v5.1.connections.auth]")
            lines += [
                f"{json.dumps(user)} = {json.dumps(password)}" for user, password in self._users.items()
            ]
        path = self.directory / "iotcore.toml"
        write_private(path, ("\n".join(lines) + "\n").encode())
        return path

    def _answers(self, port: int, deadline: float) -> bool:
        process = self._process
        while process is not None and self._clock() < deadline:
            try:
                process.wait(_POLL_S)  # the broker has ended
                return False
            except subprocess.TimeoutExpired:
                if _answers_connect(port) and process.poll() is None:
                    return True
        return False

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _answers_connect(port: int) -> bool:
    """Whether `port` answers an MQTT 5 CONNECT; a refusal, a close (rumqttd) and a TLS alert are answers."""
    connect = bytes.fromhex("10150004 4d515454 05 02 000a 00 0008") + b"gridhe-0"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_POLL_S * 10) as sock:
            sock.sendall(connect)
            answer = sock.recv(4)
            sock.sendall(bytes.fromhex("e000"))
    except ConnectionResetError:
        return True
    except OSError:
        return False
    return answer[:1] in (b"\x20", b"", b"\x15")
