"""The command: one line of JSON for each kind of meter; exit code 1 if any reading is wrong."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from gridhe_testing.devices.kinds import KINDS
from gridhe_testing.devices.run import DeviceRun, as_json


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--telegrams", type=int, default=10_000, help="of each meter")
    parser.add_argument("--per-second", type=float, default=10.0)
    parser.add_argument("--interrupted-every-s", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=[kind.name for kind in KINDS])
    parser.add_argument("--keep", type=Path, help="an empty folder for all state and logs")
    given = parser.parse_args()
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gridhe-devices-") as folder:
        figures = DeviceRun(
            given.keep or Path(folder),
            [kind for kind in KINDS if kind.name in given.kinds],
            telegrams=given.telegrams,
            per_second=given.per_second,
            interval_s=10,
            intervals=2,
            interrupted_every_s=given.interrupted_every_s,
            seed=given.seed,
        ).run()
    for each in figures:
        print(as_json(each))
    print(f"{time.monotonic() - begun_s:.0f} s", file=sys.stderr)
    return 1 if any(each.wrong for each in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
