"""The separate processes of a demo: started, watched, and always ended.

Each runs in a process group of its own, so that Ctrl-C reaches this process only and the children are
stopped in order; on Linux the kernel ends them should this process be killed outright.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from gridhe.errors import GridHEError

__all__ = ["Child", "ChildFailed", "Children", "clean_environment"]

_TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1


class ChildFailed(GridHEError):
    """A process of the demo ended when it should not have, or not well; the message has its last lines."""


def _die_with_parent() -> Callable[[], None] | None:
    """What a child runs before its program so that it does not outlive this process; None off Linux."""
    if not sys.platform.startswith("linux"):
        return None
    # Looked up here: between fork and exec nothing may be loaded.
    prctl = ctypes.CDLL(None).prctl
    term = int(signal.SIGTERM)
    return lambda: prctl(_PR_SET_PDEATHSIG, term, 0, 0, 0)


class Child:
    """One process, with its log (stderr) and its output (stdout) in files."""

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], env: Mapping[str, str], folder: Path
    ):
        self.name = name
        self.log = folder / f"{name}.log"
        self.output = folder / f"{name}.out"
        with self.log.open("ab") as log, self.output.open("wb") as output:
            # -P: a file named as a library in the working directory is not imported in its place.
            self._process = subprocess.Popen(  # noqa: S603 - our own modules, arguments made here
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=dict(env),
                cwd=folder,
                process_group=0,
                preexec_fn=_die_with_parent(),
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
        """Ask it to end (SIGTERM), wait, and insist (SIGKILL) when it takes too long. Its exit code."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

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
    """This process's environment without gridhe's own variables (they would win over the demo's file)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRIDHE_")}
    return {**kept, **extra}
