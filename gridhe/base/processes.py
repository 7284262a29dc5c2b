"""Child processes: started, watched, and always ended.

`start_process` starts any program. `Children` are gridhe's modules with their logs in a folder. Each process
has its own process group, so that Ctrl-C reaches only this process, which then stops the children in order.
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
# survives exec). The child calls prctl itself: a preexec_fn would run between fork and exec, where a process
# with threads can deadlock. Two of Python's own changes are reverted for the program: Python ignores SIGPIPE
# and SIGXFSZ, and sets LC_CTYPE in the C locale.
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
    """A process ended too early or with an error; the message has the last lines of its log."""


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in this interpreter.

    -P: a file in the working directory cannot replace a library of the same name.
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
    """Start a program in its own process group.

    On Linux, the kernel sends it `death_signal` when the thread that started it ends, also by SIGKILL.
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
    """Send SIGTERM, wait `timeout_s` at most, then send SIGKILL. Returns the exit code."""
    process.terminate()  # has no effect if the process has ended
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
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """Wait for the end and return the exit code. Raises ChildFailed after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"{self.name} did not end within {timeout_s:.0f} s{self.tail()}") from None

    def ended_within(self, timeout_s: float) -> bool:
        """Wait `timeout_s` at most; returns whether it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.exit_code is not None

    def check(self) -> None:
        """Raise ChildFailed if it has ended with an error."""
        code = self.exit_code
        if code:
            raise ChildFailed(f"{self.name} ended with {_ending(code)}{self.tail()}")

    def stop(self, timeout_s: float = 15.0) -> int:
        """Send SIGTERM, after `timeout_s` SIGKILL. Returns the exit code."""
        return stop_process(self._process, timeout_s)

    def tail(self) -> str:
        """The last lines of its log, as the end of a message."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        except OSError:
            lines = []
        return "".join(f"\n  {self.name}: {line}" for line in lines) or "; it logged nothing"


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class Children:
    """All processes of a run. The end of the `with` stops those that still run, last started first."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._env = env
        self._started: list[Child] = []

    def start(self, name: str, module: str, *arguments: str) -> Child:
        """Start a gridhe module with the environment of this object."""
        child = Child(name, module, arguments, self._env, self._folder)
        self._started.append(child)
        return child

    def run(self, name: str, module: str, *arguments: str, timeout_s: float = 60.0) -> str:
        """Run a process to its end; returns its output. Raises ChildFailed unless it exits with 0."""
        child = self.start(name, module, *arguments)
        code = child.wait(timeout_s)
        if code:
            raise ChildFailed(f"{name} ended with {_ending(code)}{child.tail()}")
        return child.output.read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """Raise ChildFailed if any has ended with an error."""
        for child in self._started:
            child.check()

    def stop_all(self) -> None:
        """Stop all that still run, last started first. Ctrl-C is ignored meanwhile."""
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
    """This process's environment without gridhe's variables (they override a settings file), plus `extra`."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("GRIDHE_")}
    return {**others, **extra}
