"""A user's shell for tests: gridhe's commands as processes, Mosquitto as its operator starts it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from gridhe.base.processes import start_process, stop_process

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Return when this server accepts connections on its loopback port."""
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except ConnectionRefusedError:
            with suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"the server ended with {process.wait(0.05)}") from None
    raise AssertionError("the server does not listen")


class Shell:
    """Runs commands in one folder with one environment; `said` collects their output."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables}
        self.said = ""

    def run(
        self, *command: str, code: int = 0, timeout_s: float = 120, variables: Mapping[str, str] = {}
    ) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        said = done.stdout + done.stderr
        self.said += said
        assert done.returncode == code, f"{' '.join(command)} ended with {done.returncode}:\n{said[-3000:]}"
        return said

    @contextmanager
    def running(
        self, *command: str, log: str, variables: Mapping[str, str] = {}
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a background process; it gets SIGTERM at the end, its output in the file `log`."""
        with (self.folder / log).open("ab") as out:
            process = start_process(
                command, cwd=self.folder, env={**self.environment, **variables}, stdout=out, stderr=out
            )
        try:
            yield process
        finally:
            stop_process(process, 20)
            self.said += (self.folder / log).read_text(errors="replace")
