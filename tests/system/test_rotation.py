"""A rotation under way: all roles as processes, in real time, with windows of two seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import (
    AggregatorSettings,
    BrokerSettings,
    PlanSettings,
    QuantitySettings,
    Settings,
)
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.home.paths import HomePaths
from gridhe.keyring.home.vault import Kdf

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

PASSPHRASE = "correct horse battery"
WINDOW_S = 2
METERS = [f"m{i}" for i in range(6)]


@pytest.fixture
def settings(tmp_path: Path, mosquitto: Path) -> Iterator[Settings]:
    """Of a broker that lets anybody in: what keeps the plans apart must not be its rules."""
    with EmbeddedBroker(tmp_path / "broker", prefer="mosquitto") as broker:
        yield Settings(
            broker=BrokerSettings(url=broker.url),
            aggregator=AggregatorSettings(commit_interval_s=0.1),
            plan=PlanSettings(
                window_s=WINDOW_S,
                interval_s=1,
                quantities=(QuantitySettings(largest=1000, bins=4),),
                largest_group=100,
                largest_rollup=100,
                minimum_meters=3,
                small_groups="accepted",
                grace_s=5.0,
                early_s=0.0,
            ),
        )


@pytest.fixture
def home(tmp_path: Path, settings: Settings) -> Path:
    authority = AuthorityHome.init(tmp_path / "home", settings, PASSPHRASE.encode(), kdf=Kdf(n=2**14))
    authority.enrol_aggregator("main", settings)
    authority.enrol_meters([(m, "north/f1") for m in METERS], settings, fleet_file=tmp_path / "fleet.json")
    authority.close()
    (tmp_path / "gridhe.yaml").write_text(settings.model_dump_json())
    return tmp_path / "home"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    started: list[subprocess.Popen[bytes]] = []

    def _start(module: str, *args: object) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-P", "-m", f"gridhe.{module}", *map(str, args)]
        command += ["--config", str(tmp_path / "gridhe.yaml")]
        with (tmp_path / f"{len(started)}.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    command,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    env={**os.environ, "GRIDHE_PASSPHRASE": PASSPHRASE},
                )
            )
        return started[-1]

    yield _start
    for process in started:
        process.kill()
        process.wait()


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: the authority may be writing the last one."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def until(predicate: Callable[[], bool], timeout_s: float = 60.0) -> None:
    ends = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < ends, "what the test waits for did not happen"
        time.sleep(0.1)


def test_a_rotation_under_way_changes_the_plan_at_one_window_for_everybody(
    tmp_path: Path, settings: Settings, home: Path, start: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    out = tmp_path / "released.jsonl"
    keyring = "keyring.cli"
    follower = start(keyring, "release", "--home", home, "--follow", "--idle-s", "0.3", "--out", out)
    aggregator = start(
        "aggregator.cli",
        "--credential",
        home / "credentials" / "aggregator-main.json",
        "--state-dir",
        tmp_path / "aggregator",
    )
    fleet = start(
        "meter_agent.cli",
        "fleet",
        "--credentials",
        tmp_path / "fleet.json",
        "--state-dir",
        tmp_path / "fleet",
    )
    until(lambda: len(lines_of(out)) >= 3)

    def rotate(*args: object) -> int:
        return start(keyring, "rotate", "--home", home, *args).wait(timeout=60)

    assert rotate("--first-window", int(time.time() // WINDOW_S) - 1) == 3
    first = int(time.time() // WINDOW_S) + 8
    assert rotate("--first-window", first) == 0
    old, new = HomePaths(home).read_plans().values()
    until(lambda: max(line["window"] for line in lines_of(out)) >= first + 3)
    # Nobody may retire the old key yet (its horizon), unless somebody says so.
    assert rotate("--retire", old.key_id) == 2
    assert rotate("--retire", old.key_id, "--give-up") == 0
    last = max(line["window"] for line in lines_of(out))
    until(lambda: max(line["window"] for line in lines_of(out)) >= last + 2)
    for process in (fleet, aggregator, follower):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0

    lines = lines_of(out)
    assert [line for line in lines if "refused" in line] == []
    plans = {line["window"]: set[str]() for line in lines}
    for line in lines:
        plans[line["window"]].add(line["plan"])
        assert line["meters"] == len(METERS), line
    assert all(found == {new.plan_id if window >= first else old.plan_id} for window, found in plans.items())
    # No window is missing where the plans meet: not of feeder, region or grid.
    whole = {(line["group"], line["window"]) for line in lines}
    assert {
        (group, window) for group in ("north/f1", "north", "grid") for window in range(first - 2, first + 3)
    } <= whole
