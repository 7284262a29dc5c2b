"""The whole pipeline as real processes: authority, Mosquitto, aggregator and a fleet of synthetic meters.

In real time (`speed` "1") windows end by the clock. Latency is measured from a window's end until its
released totals are in the authority's file; time and processor time are measured from the start of the first
window, when every process has started. At full speed (`speed` "max") windows are in the past, and the result
is the number of batches per second.
"""

import contextlib
import json
import secrets
import sqlite3
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from gridhe.base.files import make_private_dir, write_private
from gridhe.base.processes import Children, clean_environment
from gridhe.bench.throughput import StreamFailed
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import BrokerSettings, PlanSettings, QuantitySettings, Settings

__all__ = ["STEPS", "Load", "Passed", "run_pipeline"]

STEPS = "timings.jsonl"  # in the run's folder: the timings that the processes wrote
_LEAD_S = 12.0  # the processes start in this time before the first window
_STALLED_S = 120.0
_LOOK_S = 0.05
_IDLE_S = "0.2"  # the authority releases after this time without a new total
_PAST_WINDOW_START_S = 1_440_000_000  # in 2015: start of the windows at full speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The input of the pipeline."""

    meters: int
    groups: int
    window_s: int
    interval_s: int
    windows: int
    speed: str  # "1" or "max"


@dataclass(slots=True, kw_only=True)
class Passed:
    """The results. A total is one (group, window)."""

    latency_s: list[float] = field(default_factory=list)  # of leaf totals and roll-ups; real time only
    batches: int = 0
    bytes_sent: int = 0
    # In real time: from the start of the first window to the last released total. At full speed: the time of
    # the fleet, from its first reading to its last receipt.
    whole_s: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)  # by process; at full speed including its start
    memory_mb: dict[str, float] = field(default_factory=dict)  # by process, peak of the samples, resident
    backlog: int = 0  # peak number of batches that were sealed and had no receipt


def run_pipeline(folder: Path, load: Load, seed: int) -> Passed:
    """Run the pipeline once. Raises StreamFailed, and the errors of the processes."""
    with ExitStack() as stack:
        passphrase = folder / "passphrase"
        write_private(passphrase, secrets.token_urlsafe(32).encode())
        env = clean_environment(GRIDHE_PASSPHRASE_FILE=str(passphrase), PYTHONUNBUFFERED="1")
        children = stack.enter_context(Children(folder, env))
        home = folder / "home"
        settings = _settings(load)
        _configure(folder, settings)
        _enrol(children, folder, home, load)
        broker = stack.enter_context(
            EmbeddedBroker(
                folder / "broker",
                prefer="mosquitto",
                passwords=(home / "broker" / "passwords").read_text(),
                acl=(home / "broker" / "acl").read_text(),
            )
        )
        _configure(folder, settings.model_copy(update={"broker": BrokerSettings(url=broker.url)}))
        return _passed(children, folder, home, broker, load, seed)


def _settings(load: Load) -> Settings:
    group = -(-load.meters // load.groups)
    return Settings(
        plan=PlanSettings(
            window_s=load.window_s,
            interval_s=load.interval_s,
            quantities=(QuantitySettings(name="import_w", unit="W", largest=9_999, bins=16),),
            largest_group=max(group, 2),
            largest_rollup=max(load.meters, 2),
            minimum_meters=2,
            small_groups="accepted",
            grace_s=60.0,
            horizon_s=1.5e9,
        )
    )


def _configure(folder: Path, settings: Settings) -> None:
    write_private(folder / "gridhe.yaml", settings.model_dump_json().encode())


def _enrol(children: Children, folder: Path, home: Path, load: Load) -> None:
    rows = [f"m{i},region/f{i % load.groups}" for i in range(load.meters)]
    write_private(folder / "meters.csv", "\n".join(["meter,group", *rows, ""]).encode())
    keyring, common = "gridhe.keyring.cli", ("--home", str(home), "--config", "gridhe.yaml")
    children.run("init", keyring, "init", *common)
    children.run(
        "enrol", keyring, "enrol", *common, "--from-csv", "meters.csv", "--fleet", str(folder / "fleet.json")
    )
    children.run("enrol-aggregator", keyring, "enrol", *common, "--aggregator", "main")


def _passed(
    children: Children, folder: Path, home: Path, broker: EmbeddedBroker, load: Load, seed: int
) -> Passed:
    released = folder / "releases.jsonl"
    config = ("--config", "gridhe.yaml")
    authority = children.start(
        "authority", "gridhe.keyring.cli", "release", "--home", str(home), "--follow", "--idle-s", _IDLE_S,
        "--out", str(released), "--timings", str(folder / STEPS), *config,
    )  # fmt: skip
    aggregator = children.start(
        "aggregator", "gridhe.aggregator.cli",
        "--credential", str(home / "credentials" / "aggregator-main.json"),
        "--state-dir", str(folder / "aggregator"), "--no-live", "--timings", str(folder / STEPS), *config,
    )  # fmt: skip
    first_s = _PAST_WINDOW_START_S // load.window_s * load.window_s
    live = load.speed == "1"
    if live:
        first_s = int((time.time() + _LEAD_S) // load.window_s + 1) * load.window_s
    make_private_dir(folder / "fleet")
    fleet = children.start(
        "fleet", "gridhe.meter_agent.cli", "fleet", "--credentials", str(folder / "fleet.json"),
        "--state-dir", str(folder / "fleet"), "--source", "synthetic", "--seed", str(seed),
        "--start", str(first_s), "--windows", str(load.windows), "--speed", load.speed, "--json",
        "--timings", str(folder / STEPS), *config,
    )  # fmt: skip
    watch = _Watch({"authority": authority.pid, "aggregator": aggregator.pid, "fleet": fleet.pid})
    if broker.pid is not None:
        watch.add("broker", broker.pid)
    passed = Passed()
    # Every group, its region and the grid, for each window.
    wanted = (load.groups + 2) * load.windows
    totals = _Totals(released)
    progress, begun, released_s = time.monotonic(), not live, 0.0
    while totals.count < wanted or fleet.exit_code is None:
        children.check()
        for window in totals.new():
            progress, released_s = time.monotonic(), time.time()
            passed.latency_s.append(released_s - (window + 1) * load.window_s)
        if not begun and time.time() >= first_s:
            watch.begin()
            begun = True
        watch.look()
        passed.backlog = max(passed.backlog, _waiting(folder / "fleet"))
        if time.monotonic() - progress > _STALLED_S + load.window_s + (_LEAD_S if live else 0):
            raise StreamFailed(
                f"only {totals.count} of {wanted} totals were released, then none for too long"
            )
        if fleet.exit_code is None:
            fleet.ended_within(_LOOK_S)
        else:
            authority.ended_within(_LOOK_S)
    if not live:
        passed.latency_s.clear()
    summary = json.loads(fleet.output.read_text().splitlines()[-1])
    passed.batches, passed.bytes_sent = summary["receipted"], summary["bytes"]
    passed.whole_s = released_s - first_s if live else summary["seconds"]
    passed.cpu_s, passed.memory_mb = watch.cpu_s, watch.memory_mb
    for server in (aggregator, authority):
        if server.stop() != 0:
            raise StreamFailed(f"{server.name} did not stop cleanly{server.tail()}")
    return passed


def _waiting(state: Path) -> int:
    """The number of batches in the fleet's outbox that have no receipt."""
    path = state / "outbox.sqlite"
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)) as outbox:
        try:
            count: int = outbox.execute("SELECT COUNT(*) FROM batches WHERE state = 'waiting'").fetchone()[0]
        except sqlite3.OperationalError:  # the table does not exist yet
            return 0
    return count


class _Totals:
    """Reads the authority's file of released totals while it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.count = 0

    def new(self) -> list[int]:
        """The windows of new totals since the last call. Raises StreamFailed if one was refused."""
        if not self._path.exists():
            return []
        windows = []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                record: dict[str, Any] = json.loads(line)
                if "refused" in record:
                    raise StreamFailed(
                        f"the authority refused {record.get('group')}: {record.get('message')}"
                    )
                windows.append(int(record["window"]))
        self.count += len(windows)
        return windows


class _Watch:
    """Samples processor time and memory of processes."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._before_s: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}
        self.memory_mb: dict[str, float] = {}

    def add(self, name: str, pid: int) -> None:
        """Add a process."""
        self._processes[name] = psutil.Process(pid)

    def begin(self) -> None:
        """Count processor time from now, without the start of each process."""
        self.look()
        for name, taken_s in self.cpu_s.items():
            self._before_s[name] = self._before_s.get(name, 0.0) + taken_s

    def look(self) -> None:
        """Sample every process that is still running."""
        for name, process in self._processes.items():
            try:
                times, memory = process.cpu_times(), process.memory_info().rss / 2**20
            except psutil.NoSuchProcess:
                continue
            self.cpu_s[name] = times.user + times.system - self._before_s.get(name, 0.0)
            self.memory_mb[name] = max(memory, self.memory_mb.get(name, 0.0))
