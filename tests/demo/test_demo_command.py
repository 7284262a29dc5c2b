"""`gridhe demo` from outside: real processes, a real broker, real readings."""

import csv
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.embedded import EmbeddedBroker, available
from gridhe.config.settings import BrokerSettings
from gridhe.wire.topics import PLAN_CURRENT

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

# A file of real quarter-hourly meters (label, then one column a meter), too large to ship.
HOUSEHOLDS = os.environ.get("GRIDHE_TEST_HOUSEHOLDS")


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Where demos make their private folders: nothing may be left in it."""
    with tempfile.TemporaryDirectory(prefix="g", dir=tmp_path) as folder:
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


def demo(scratch: Path, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-P", "-m", "gridhe.cli", "demo", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=scratch.parent,
        env={**os.environ, "TMPDIR": str(scratch)},
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=500)  # a busy machine may take long; pytest's limit is shorter
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


def run_exact(scratch: Path, out: Path, *arguments: object) -> dict[str, Any]:
    code, stdout, stderr = finish(demo(scratch, "--json", "--out", out, *arguments))
    assert code == 0, stderr
    assert len(stdout.splitlines()) == 1
    found: dict[str, Any] = json.loads(stdout)
    assert found["exact"] is True
    assert found["mismatches"] == found["missing"] == found["refused"] == found["rejected"] == 0
    assert found["batches_sent"] == found["batches_folded"] == found["meters"] * found["windows"]
    return found


@pytest.mark.parametrize("kind", ["mosquitto", "iotcore"])
def test_a_small_grid_is_exact_on_either_broker(scratch: Path, tmp_path: Path, kind: str) -> None:
    if kind not in available():
        pytest.skip(f"there is no {kind} here")
    out = tmp_path / "out"
    found = run_exact(scratch, out, "--meters", 20, "--windows", 2, "--groups", 2, "--prefer-broker", kind)
    assert found["totals_released"] == 5 * 2  # two feeders, two regions, the grid
    assert found["broker"] == f"{kind}, embedded"
    assert found["readings_from"] == "20 stretches of 48 hours of 17 homes"
    assert {path.name for path in out.iterdir()} == {
        "load_profile.csv", "load_profile.png", "releases.jsonl", "report.json"
    }  # fmt: skip
    assert json.loads((out / "report.json").read_text()) == found
    assert len((out / "releases.jsonl").read_text().splitlines()) == 10


def messy_csv(path: Path, meters: int, rows: int) -> dict[str, int]:
    """A file with gaps, negatives, text and too large readings; how many of each."""
    rng = random.Random(5)
    odd = {"absent": "", "negative": "-480", "text": "n/a", "too_large": "99999"}
    counts = dict.fromkeys(odd, 0)
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slot", *(f"Meter {at}" for at in range(meters))])
        for row in range(rows):
            cells = []
            for _ in range(meters):
                kind = rng.choice(list(odd)) if rng.random() < 0.03 else None
                if kind is not None:
                    counts[kind] += 1
                cells.append(str(rng.randrange(3_000)) if kind is None else odd[kind])
            writer.writerow([f"w{row}", *cells])
    return counts


def test_messy_readings_are_exact_under_the_documented_policy(scratch: Path, tmp_path: Path) -> None:
    counts = messy_csv(tmp_path / "messy.csv.gz", meters=24, rows=2 * 96)
    found = run_exact(
        scratch, tmp_path / "out", "--csv", tmp_path / "messy.csv.gz", "--interval", 900,
        "--windows", 2, "--groups", 2,
    )  # fmt: skip
    assert min(counts.values()) > 10
    assert {kind: found["readings"][kind] for kind in counts} == counts
    assert found["meters"] == 24
    assert found["intervals"] == 96


def test_intervals_in_which_few_have_a_reading_are_withheld_and_the_rest_is_exact(
    scratch: Path, tmp_path: Path
) -> None:
    with (tmp_path / "holes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *(f"h{at:02d}" for at in range(24))])
        for hour in range(24):
            # Of the first feeder's twelve meters 12, 3, 0 or 11 have a reading, of the second's all.
            some = (12, 3, 0, 11)[hour % 4]
            writer.writerow([f"t{hour}", *("7" if at < some or at >= 12 else "" for at in range(24))])
    found = run_exact(
        scratch, tmp_path / "out", "--csv", tmp_path / "holes.csv", "--windows", 1, "--groups", 2
    )
    assert found["withheld_intervals"] > 0
    assert found["withheld_intervals"] % 6 == 0  # the same groups in each of the six hours with three


def test_made_up_households_in_real_time_are_exact(scratch: Path, tmp_path: Path) -> None:
    found = run_exact(scratch, tmp_path / "out", "--duration", 10, "--meters", 10, "--groups", 1, "--seed", 7)
    assert found["windows"] == 2
    assert found["groups"][-1]["unit"] == "W"


@pytest.mark.timeout(500)
def test_simulated_meters_with_p1_ports_are_exact(scratch: Path, tmp_path: Path) -> None:
    code, stdout, stderr = finish(demo(scratch, "--json", "--out", tmp_path / "out", "--source", "p1"))
    assert code == 0, stderr
    found = json.loads(stdout)
    assert found["exact"] is True
    assert found["readings_from"] == "10 meters with P1 ports in real time"
    assert found["totals_released"] == found["totals_expected"] == 3 * 2  # the feeder, its region, the grid
    assert found["mismatches"] == found["missing"] == found["refused"] == found["rejected"] == 0
    assert found["batches_folded"] >= found["meters"] * found["windows"] == 20
    assert found["withheld_intervals"] == 0
    assert all(group["energy_kwh"] > 0 for group in found["groups"])


@pytest.mark.timeout(500)
@pytest.mark.skipif(HOUSEHOLDS is None, reason="GRIDHE_TEST_HOUSEHOLDS names no file of real meters")
def test_a_week_of_537_real_meters_is_exact(scratch: Path, tmp_path: Path) -> None:
    found = run_exact(
        scratch, tmp_path / "out", "--csv", str(HOUSEHOLDS), "--meters", 537, "--interval", 900,
        "--windows", 7, "--groups", 6,
    )  # fmt: skip
    assert found["totals_released"] == 9 * 7
    assert sum(found["readings"].values()) == 537 * 7 * 96


def descendants(pid: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/task/*/children"):
        if path.parts[2] == str(pid):
            for child in path.read_text().split():
                found |= {int(child), *descendants(int(child))}
    return found


def wait_for(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the demo ended before it said {text!r}")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_it_ends_all_processes_and_removes_the_keys(
    scratch: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = demo(scratch, "--meters", 60, "--windows", 14, "--out", tmp_path / "out")
    wait_for(process, "encrypting and adding up")
    children = descendants(process.pid)
    assert len(children) == 4  # broker, authority, aggregator, fleet
    process.send_signal(number)
    code, _, stderr = finish(process)
    assert code == 130, stderr
    assert all(gone(child) for child in children)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_a_process_that_dies_ends_the_demo_with_its_name(scratch: Path, tmp_path: Path) -> None:
    process = demo(scratch, "--meters", 60, "--windows", 14, "--out", tmp_path / "out")
    wait_for(process, "encrypting and adding up")
    children = descendants(process.pid)
    os.kill(next(pid for pid in children if "gridhe.aggregator.cli" in command_line(pid)), signal.SIGKILL)
    code, _, stderr = finish(process)
    assert code == 1
    assert "error: aggregator ended with signal 9" in stderr
    assert all(gone(child) for child in children)


def test_no_passphrase_or_key_stands_in_an_argument(scratch: Path, tmp_path: Path) -> None:
    process = demo(scratch, "--meters", 60, "--windows", 14, "--out", tmp_path / "out")
    wait_for(process, "encrypting and adding up")
    lines = [command_line(pid) for pid in descendants(process.pid)]
    folder = next(scratch.iterdir())
    secrets = [(folder / "passphrase").read_text()]
    fleet = json.loads((folder / "fleet.json").read_text())
    secrets += [device[name] for device in fleet["devices"] for name in ("password", "ingest_key")]
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "passphrase").stat().st_mode & 0o077 == 0
    process.send_signal(signal.SIGTERM)
    _, stdout, stderr = finish(process)
    assert not [text for text in secrets if any(text in line for line in [*lines, stdout, stderr])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--meters", 20, "--groups", 9], "use at most 2 feeders"),
        (["--meters", 2000], "the 17 homes have 884"),
        (["--csv", "none.csv"], "cannot read none.csv"),
        (["--csv", "none.csv", "--duration", 10], "give one of them"),
        (["--interval", 900], "give it only with --csv"),
        (["--set", "plan.interval_s=900"], "the shipped readings are hourly"),
        (["--set", "plan.quantities.0.largest=4000000000", "--preset", "light"], "no exact plan"),
        (["--broker", "mqtt://127.0.0.1:9"], "is the broker at mqtt://127.0.0.1:9 running"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_before_anything_starts(
    scratch: Path, tmp_path: Path, arguments: list[object], message: str
) -> None:
    settings = ["--set", "broker.connect_timeout_s=1"]
    code, stdout, stderr = finish(demo(scratch, *arguments, *settings, "--out", tmp_path / "out"))
    assert code not in (0, 1)
    assert stdout == ""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, stderr
    assert message in errors[0]


def test_a_broker_of_the_users_own_is_left_as_it_was(scratch: Path, tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "broker") as broker:
        small = ("--meters", 10, "--windows", 1, "--groups", 1, "--broker", broker.url)
        found = run_exact(scratch, tmp_path / "out", *small)
        assert found["broker"] == "your own"
        assert retained(broker.url) == {}


def test_a_broker_that_serves_a_grid_is_not_touched(scratch: Path, tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "broker") as broker:
        heard = retained(broker.url, Message(topic=PLAN_CURRENT, payload=b"theirs", retain=True))
        code, _, stderr = finish(demo(scratch, "--broker", broker.url, "--out", tmp_path / "out"))
        assert code == 2
        assert "serves a grid already" in stderr
        assert retained(broker.url) == heard == {PLAN_CURRENT: b"theirs"}


def retained(url: str, *first: Message) -> dict[str, bytes]:
    """What is retained at a broker, after publishing `first`."""
    heard: dict[str, bytes] = {}
    settings = BrokerSettings(url=url, session_expiry_s=0)
    with EventLoop() as loop:
        writer = Session(settings=settings, client_id="writer", on_message=lambda *_: None)
        loop.add(writer)
        assert loop.run_until(lambda: writer.connected, 10)
        for message in first:
            assert writer.publish(message)
        assert loop.run_until(lambda: writer.in_flight == 0, 10)
        reader = Session(
            settings=settings, client_id="reader", on_message=heard.__setitem__, subscriptions=["#"]
        )
        loop.add(reader)
        assert loop.run_until(lambda: reader.connected, 10)
        reader.publish(Message(topic="probe", payload=b"?"))
        assert loop.run_until(lambda: "probe" in heard, 10)
        reader.close()
        writer.close()
    return {topic: payload for topic, payload in heard.items() if topic != "probe" and payload}
