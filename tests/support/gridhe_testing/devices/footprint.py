"""Memory, processor time and writes of `gridhe-meter run` with a P1 port and a telegram a second.

python -m gridhe_testing.devices.footprint --minutes 10

The plan is the default one (hours, a batch a day): what is written between ends of intervals is the journal.
`--source synthetic` measures the agent without a device.
"""

import argparse
import json
import secrets
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from gridhe.base.files import write_private
from gridhe.base.processes import Children, clean_environment
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import Settings
from gridhe.demo.devices import SimulatedMeters

__all__ = ["footprint"]

_WARM_UP_S = 20.0
_DAY_S = 86_400


def _written(process: psutil.Process) -> tuple[int, int]:
    """Bytes that the process has caused to be written to the disk, and its write calls."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text().splitlines())
    return int(fields["write_bytes"]), int(fields["syscw"])


def footprint(folder: Path, *, source: str, minutes: float, journal_s: float) -> dict[str, Any]:
    """One agent for `minutes`."""
    home = folder / "authority"
    write_private(folder / "passphrase", secrets.token_urlsafe(32).encode())
    env = clean_environment(GRIDHE_PASSPHRASE_FILE=str(folder / "passphrase"))
    with ExitStack() as stack:
        children = stack.enter_context(Children(folder, env))

        def configure(url: str) -> None:
            settings = Settings.model_validate({"broker": {"url": url}, "meter": {"journal_s": journal_s}})
            write_private(folder / "gridhe.yaml", settings.model_dump_json().encode())

        configure("mqtt://127.0.0.1:1")
        common = ("--home", str(home), "--config", "gridhe.yaml")
        children.run("init", "gridhe.keyring.cli", "init", *common)
        children.run("enrol", "gridhe.keyring.cli", "enrol", "--group", "north/f1", "anna", *common)
        broker = EmbeddedBroker(
            folder / "broker",
            passwords=(home / "broker" / "passwords").read_text(),
            acl=(home / "broker" / "acl").read_text(),
        )
        configure(stack.enter_context(broker).url)
        stack.callback(children.stop_all)
        children.run("bundle", "gridhe.keyring.cli", "bundle", "--publish", *common)
        meters = stack.enter_context(SimulatedMeters(1, seed=1))
        device = ["--with", f"address={meters.ports[0]}"] if source == "p1" else []
        agent = children.start(
            "agent", "gridhe.meter_agent.cli", "run", "--credential", str(home / "credentials" / "anna.json"),
            "--state-dir", str(folder / "state"), "--source", source, *device, "--config", "gridhe.yaml",
        )  # fmt: skip
        process = psutil.Process(agent.pid)
        time.sleep(_WARM_UP_S)
        begun_s, cpu, written = time.monotonic(), process.cpu_times(), _written(process)
        time.sleep(minutes * 60)
        seconds, cpu_end, written_end = time.monotonic() - begun_s, process.cpu_times(), _written(process)
        rss = process.memory_info().rss
        assert agent.exit_code is None
        assert agent.stop() == 0
    used_s = cpu_end.user + cpu_end.system - cpu.user - cpu.system
    per_day = _DAY_S / seconds
    return {
        "source": source,
        "minutes": minutes,
        "rss_mb": round(rss / 1e6, 1),
        "core_percent": round(100 * used_s / seconds, 2),
        "written_mb_a_day": round((written_end[0] - written[0]) * per_day / 1e6, 2),
        "write_calls_a_day": round((written_end[1] - written[1]) * per_day),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--source", choices=["p1", "synthetic"], default="p1")
    parser.add_argument("--journal-s", type=float, default=300.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gridhe-footprint-", dir="/var/tmp") as folder:
        found = footprint(Path(folder), source=given.source, minutes=given.minutes, journal_s=given.journal_s)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
