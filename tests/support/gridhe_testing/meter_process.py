"""What tests of gridhe-meter as a process share."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any


def summary_of(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.read().splitlines()[-1])
    return found


class Log:
    """What the meters' processes have logged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def warnings(self, part: str) -> list[str]:
        lines = [json.loads(line) for line in self.path.read_text().splitlines() if line.startswith("{")]
        return [line["event"] for line in lines if line["level"] == "warning" and part in line["event"]]


def until(receiver: Any, predicate: Callable[[], bool]) -> None:
    """Serve until it holds; the loop looks now and then."""
    watcher = receiver.loop.every(0.05, lambda: None)
    receiver.wait(predicate)
    watcher.cancel()
