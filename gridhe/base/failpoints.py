"""Places where a test may kill this process, to prove that a crash just there loses nothing.

`GRIDHE_FAULT_POINT=commit.1.after:3` sends SIGKILL to the process at its third passage of that point (`:1`
may be left out). Without the variable a point costs one comparison. The points of a room stand where the
docstring beside them numbers its steps; docs/reliability.md lists them.
"""

import os
import signal

__all__ = ["VARIABLE", "failpoint"]

VARIABLE = "GRIDHE_FAULT_POINT"


class _Armed:
    """The one point that kills, and how often it is still to be passed alive."""

    def __init__(self, text: str) -> None:
        self.name, _, passage = text.partition(":")
        self.left = int(passage) if passage.isdecimal() else 1


_armed = _Armed(os.environ.get(VARIABLE, ""))


def failpoint(name: str) -> None:
    """Die here, if this is the point and the passage that was asked for."""
    if name == _armed.name:
        _armed.left -= 1
        if _armed.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
