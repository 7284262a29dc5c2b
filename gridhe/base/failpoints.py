"""Points at which a test can kill this process, to prove that a crash there loses nothing.

`GRIDHE_FAULT_POINT=commit.1.after:3` sends SIGKILL to the process at its third passage of that point (`:1`
may be omitted). Without the variable a point costs one comparison. The points match the numbered steps in
docstrings; docs/reliability.md lists them.
"""

import os
import signal

__all__ = ["VARIABLE", "failpoint"]

VARIABLE = "GRIDHE_FAULT_POINT"


class _Armed:
    """The point that kills, and the number of passages left."""

    def __init__(self, text: str) -> None:
        self.name, _, passage = text.partition(":")
        self.left = int(passage) if passage.isdecimal() else 1


_armed = _Armed(os.environ.get(VARIABLE, ""))


def failpoint(name: str) -> None:
    """Kill this process here, if GRIDHE_FAULT_POINT names this point and passage."""
    if name == _armed.name:
        _armed.left -= 1
        if _armed.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
