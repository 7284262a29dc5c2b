"""A gridhe process that is killed and restarted."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from gridhe.base.failpoints import VARIABLE
from gridhe.base.processes import clean_environment, python_command, start_process
from gridhe.errors import GridHEError

__all__ = ["Program", "ProgramFailed"]


_TESTS = Path(__file__).parents[1]  # where `faults.mutants` is found


class ProgramFailed(GridHEError):
    """A process ended by itself with an error."""


class Program:
    """`python -m module arguments`, run repeatedly; all runs append to one log."""

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], folder: Path, *, mutation: str | None = None
    ) -> None:
        """`mutation` starts it through faults.mutants, with one safeguard removed."""
        self.name, self.folder = name, folder
        self.log, self.output = folder / f"{name}.log", folder / f"{name}.out"
        self._command = python_command(module, *arguments)
        self._mutated: dict[str, str] = {}
        if mutation is not None:
            self._command = python_command("faults.mutants", mutation, module, *arguments)
            self._mutated = {"PYTHONPATH": str(_TESTS)}
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self, *, fault_point: str | None = None, env: Mapping[str, str] | None = None) -> None:
        """Start it, to be killed at `fault_point` if one is given."""
        armed = {VARIABLE: fault_point} if fault_point is not None else {}
        with self.log.open("ab") as log, self.output.open("ab") as output:
            self._process = start_process(
                self._command,
                stdout=output,
                stderr=log,
                cwd=self.folder,
                env=clean_environment(PYTHONUNBUFFERED="1", **self._mutated, **armed, **(env or {})),
                death_signal=signal.SIGKILL,
            )
        self.starts += 1

    @property
    def pid(self) -> int:
        """Its process id; 0 before the first start."""
        return self._process.pid if self._process is not None else 0

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it runs (or was never started)."""
        return self._process.poll() if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait until it has ended."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.running and self._process is not None:
            os.kill(self._process.pid, number)

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM; return its exit code. Raises ProgramFailed if it does not end."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if self._process is None:
            return 0
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProgramFailed(f"{self.name} did not stop within {timeout_s:.0f} s{self.tail()}") from None

    def check(self) -> None:
        """Raise ProgramFailed if it ended by itself with an error."""
        code = self.exit_code
        if code is not None and code not in (0, -signal.SIGKILL):
            raise ProgramFailed(f"{self.name} ended with {code}{self.tail()}")

    def tail(self, lines: int = 12) -> str:
        """The end of its log."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "".join(f"\n  {self.name}: {line}" for line in text.splitlines()[-lines:])
