"""A gridhe command whose wall clock is off by the seconds in a file; a step is accepted after a second.

python -m gridhe_testing.shifted_clock FILE gridhe.meter_agent.cli run --credential ...
"""

import importlib
import sys
import time
from pathlib import Path

_real = time.time


def main() -> None:
    file = Path(sys.argv[1])
    time.time = lambda: _real() + float(file.read_text())
    # Only now, so that every default argument `time.time` is the shifted one.
    vars(importlib.import_module("gridhe.base.clock"))["SETTLE_S"] = 1.0
    command = importlib.import_module(sys.argv[2])
    sys.argv = [sys.argv[2], *sys.argv[3:]]
    command.main()


if __name__ == "__main__":
    main()
