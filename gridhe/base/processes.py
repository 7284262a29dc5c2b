"""Processes of our own: started, watched, and always ended.

`start_process` starts any program. `Children` are gridhe's modules with their logs in a folder. Each process
is in a process group of its own, so that Ctrl-C reaches this process only and the children are stopped in
order.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from gridhe.errors import GridHEError

__all__ = [
    "Child",
    "ChildFailed",
    "Children",
    "clean_environment",
    "python_command",
    "start_process",
    "stop_process",
]

_TAIL_LINES = 15
# The kernel sends a child this signal when the thread that started it ends (prctl(PR_SET_PDEATHSIG), which
# survives exec). The child asks for it itself: a preexec_fn would run between fork and exec, where a process
# with threads can deadlock. Two things that this Python does to itself are not handed on: it ignores SIGPIPE
# and SIGXFSZ, and in the C locale it sets LC_CTYPE.
_BOOT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
if sys.argv[3] == "coerced":
    os.environ.pop("LC_CTYPE", None)
os.execvp(sys.argv[4], sys.argv[4:])
"""


class ChildFailed(GridHEError):
    """A process ended when it should not have, or not well; the message has its last lines."""


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in this interpreter.

    -P: a file named as a library in the working directory is not imported in its place.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def start_process(
    command: Sequence[str],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    bufsize: int = -1,
    death_signal: signal.Signals = signal.SIGTERM,
) -> "subprocess.Popen[bytes]":
    """Start a program in a process group of its own. On Linux it does not outlive the thread that starts it:
    the kernel then sends it `death_signal`, also when this process was killed.
    """
    boot: list[str] = []
    if sys.platform == "linux":
        locale = "set" if "LC_CTYPE" in (os.environ if env is None else env) else "coerced"
        boot = [sys.executable, "-I", "-S", "-c", _BOOT, str(os.getpid()), str(int(death_signal)), locale]
    return subprocess.Popen(  # noqa: S603 - our callers' own programs and arguments
        [*boot, *command],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=None if env is None else dict(env),
        cwd=cwd,
        bufsize=bufsize,
        process_group=0,
    )


def stop_process(process: "subprocess.Popen[bytes]", timeout_s: float = 15.0) -> int:
    """Ask it to end (SIGTERM), wait, and insist (SIGKILL) when it takes too long. Its exit code."""
    process.terminate()  # does nothing to one that has ended
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class Child:
    """One process, with its log (stderr) and its output (stdout) in files."""

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], env: Mapping[str, str], folder: Path
    ):
        self.name = name
        self.log = folder / f"{name}.log"
        self.output = folder / f"{name}.out"
        with self.log.open("ab") as log, self.output.open("wb") as output:
            self._process = start_process(
                python_command(module, *arguments), stdout=output, stderr=log, env=env, cwd=folder
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """Its exit code, once it has ended. Raises ChildFailed when it takes longer."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"{self.name} did not end within {timeout_s:.0f} s{self.tail()}") from None

    def ended_within(self, timeout_s: float) -> bool:
        """Wait for its end, that long at most; whether it came."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.exit_code is not None

    def check(self) -> None:
        """Raise ChildFailed if it has ended badly."""
        code = self.exit_code
        if code:
            raise ChildFailed(f"{self.name} ended with {_said(code)}{self.tail()}")

    def stop(self, timeout_s: float = 15.0) -> int:
        """Ask it to end, and insist when it takes too long. Its exit code."""
        return stop_process(self._process, timeout_s)

    def tail(self) -> str:
        """The last lines of its log, ready to follow a message."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        except OSError:
            lines = []
        return "".join(f"\n  {self.name}: {line}" for line in lines) or "; it logged nothing"


def _said(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class Children:
    """All processes of a run. Leaving the `with` ends those that still run, the last started first."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._env = env
        self._started: list[Child] = []

    def start(self, name: str, module: str, *arguments: str) -> Child:
        """Start a process; its settings come from the environment given at the beginning."""
        child = Child(name, module, arguments, self._env, self._folder)
        self._started.append(child)
        return child

    def run(self, name: str, module: str, *arguments: str, timeout_s: float = 60.0) -> str:
        """Run a process to its end; what it printed. Raises ChildFailed unless it exits with 0."""
        child = self.start(name, module, *arguments)
        code = child.wait(timeout_s)
        if code:
            raise ChildFailed(f"{name} ended with {_said(code)}{child.tail()}")
        return child.output.read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """Raise ChildFailed if any has ended badly."""
        for child in self._started:
            child.check()

    def stop_all(self) -> None:
        """End those that still run, the last started first. Another Ctrl-C meanwhile changes nothing."""
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for child in reversed(self._started):
                child.stop()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without gridhe's own variables (they would win over a settings file)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRIDHE_")}
    return {**kept, **extra}
