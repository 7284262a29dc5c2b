"""`gridhe-aggregate` as a process of its own, against a real Mosquitto."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import BrokerSettings
from gridhe.wire import topics
from gridhe.wire.ingest import derive_key
from gridhe.wire.receipt import Receipt, TotalReceipt
from gridhe.wire.roster import Roster, RosterEntry
from gridhe.wire.total import Total, open_total

pytestmark = pytest.mark.system

WINDOW = 480_000
SUPPORT = Path(__file__).resolve().parents[1] / "support"


class Outside:
    """Everybody but the aggregator: authority and meters on one MQTT connection."""

    def __init__(self, grid, url: str) -> None:
        self.grid = grid
        self.totals: dict[tuple[str, int, int], Total] = {}
        self.receipted: set[tuple[str, int]] = set()
        self.refused: set[str] = set()
        self.loop = EventLoop()
        self.session = Session(
            settings=BrokerSettings(url=url),
            client_id="outside",
            on_message=self.hear,
            subscriptions=[f"{topics.PREFIX}/total/#", f"{topics.PREFIX}/receipt/#"],
        )
        self.loop.add(self.session)
        assert self.loop.run_until(lambda: self.session.connected, 10)
        entries = [RosterEntry(meter, grid.group_of(meter)) for meter in grid.meters]
        self.say(topics.PLAN_CURRENT, grid.bundle.encode(grid.authority), retain=True)
        self.say(topics.ROSTER_CURRENT, Roster.of(1, entries).encode(grid.authority), retain=True)

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self.session.publish(Message(topic=topic, payload=payload, retain=retain))

    def hear(self, topic: str, payload: bytes) -> None:
        if topic.startswith(f"{topics.PREFIX}/total/"):
            total = open_total(payload, len(payload))
            total.check_signature(self.grid.aggregator_key.verify_key)
            head = total.header
            self.totals[head.group, head.window, head.part] = total
            receipt = TotalReceipt(
                aggregator="main", stored=((head.plan, head.group, head.window, head.part),)
            )
            key = derive_key(self.grid.secret, "aggregator/main")
            self.say(topics.receipt("main"), receipt.encode(key))
        elif not topic.endswith("/main"):
            meter = topic.rpartition("/")[2]
            receipt = Receipt.decode(payload, derive_key(self.grid.secret, meter))
            self.receipted |= {(meter, window) for window in receipt.committed}
            self.refused |= {reason for _, reason in receipt.refused}

    def send(self, envelopes: dict[tuple[str, int], bytes]) -> None:
        """What meters do: publish, and again, until all is receipted."""
        for _ in range(30):
            for meter, window in envelopes.keys() - self.receipted:
                self.say(topics.batch(self.grid.group_of(meter), meter), envelopes[meter, window])
            if self.loop.run_until(lambda: envelopes.keys() <= self.receipted, 1):
                return
        raise AssertionError(f"not receipted: {envelopes.keys() - self.receipted}")

    def until(self, what) -> None:
        assert self.loop.run_until(what, 30), (self.totals.keys(), len(self.receipted))


@pytest.fixture
def broker(tmp_path: Path, mosquitto: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path / "broker", prefer="mosquitto") as running:
        yield running


@pytest.fixture
def aggregate(grid, broker: EmbeddedBroker, tmp_path: Path) -> Iterator:
    grid.stop()
    credential = tmp_path / "aggregator-main.json"
    grid.credential.save(credential)
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str, shift: Path | None = None) -> subprocess.Popen[bytes]:
        """`shift`: a file of seconds by which the wall clock is ahead."""
        clocked = [] if shift is None else ["gridhe_testing.shifted_clock", str(shift)]
        command = [sys.executable, "-P", "-m", *clocked, "gridhe.aggregator.cli"]
        command += ["--credential", str(credential), "--state-dir", str(tmp_path / "process-state")]
        command += ["--broker", broker.url, *options]
        env = {**os.environ, "PYTHONPATH": str(SUPPORT)}
        with (tmp_path / f"aggregate-{len(started)}.log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=env))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def outside(grid, broker: EmbeddedBroker) -> Iterator[Outside]:
    everybody = Outside(grid, broker.url)
    yield everybody
    everybody.loop.close()


def test_it_folds_receipts_publishes_and_stops_cleanly(grid, outside, aggregate, tmp_path: Path) -> None:
    process = aggregate("--set", "aggregator.commit_interval_s=0.1")
    outside.send({(meter, WINDOW): grid.envelope(meter) for meter in grid.meters})
    outside.until(lambda: len(outside.totals) == 6)
    assert np.array_equal(grid.decrypted(outside.totals["grid", WINDOW, 0]), grid.expected(grid.meters))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    lines = (tmp_path / "aggregate-0.log").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events.count("closed") == 6
    assert events[-1] == "stopping" or "stopping" in events


def test_kill_9_between_batches_loses_nothing(grid, outside, aggregate) -> None:
    process = aggregate("--set", "aggregator.commit_interval_s=0.2")
    envelopes = {
        (meter, window): grid.envelope(meter, window)
        for meter in grid.meters
        for window in (WINDOW, WINDOW + 1)
    }
    for sent, ((meter, _), payload) in enumerate(envelopes.items(), 1):
        outside.say(topics.batch(grid.group_of(meter), meter), payload)
        if sent in (7, 15):
            outside.loop.run_until(lambda: False, 0.3)
            process.kill()
            process.wait()
            process = aggregate("--set", "aggregator.commit_interval_s=0.2")
    outside.send(envelopes)
    outside.until(lambda: len(outside.totals) == 12)
    for window in (WINDOW, WINDOW + 1):
        total = outside.totals["grid", window, 0]
        assert np.array_equal(grid.decrypted(total), grid.expected(grid.meters, window))


def test_memory_is_flat_over_twenty_thousand_batches(make_grid, broker, tmp_path: Path) -> None:
    """100 meters, 200 windows, sent as fast as receipts come; every total is still exact."""
    meters = [f"m{i}" for i in range(100)]
    grid = make_grid(
        groups={"north/f1": meters}, ring=(2048, (40, 14)), largest=50, largest_rollup=100, largest_group=100
    )
    grid.stop()
    credential = tmp_path / "aggregator-main.json"
    grid.credential.save(credential)
    command = [sys.executable, "-P", "-m", "gridhe.aggregator.cli", "--credential", str(credential)]
    command += ["--state-dir", str(tmp_path / "process-state"), "--broker", broker.url]
    command += ["--set", "aggregator.commit_interval_s=0.2"]
    ciphertexts = {meter: grid.ciphertext(meter) for meter in meters}
    expected = grid.expected(meters)
    outside = Outside(grid, broker.url)
    resident_mb: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for first in range(WINDOW, WINDOW + 200, 10):
                envelopes = {
                    (meter, window): grid.forged(meter, ciphertext=ciphertexts[meter], window=window)
                    for meter in meters
                    for window in range(first, first + 10)
                }
                outside.send(envelopes)
                resident_mb.append(psutil.Process(process.pid).memory_info().rss / 1e6)
            outside.until(lambda: len(outside.totals) == 600)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
            outside.loop.close()
    for window in range(WINDOW, WINDOW + 200):
        assert np.array_equal(grid.decrypted(outside.totals["grid", window, 0]), expected)
    # After a warm-up of 3,000 batches; SQLite's page cache and Python's arenas breathe by a few MB.
    assert max(resident_mb[3:]) - resident_mb[2] < 8, resident_mb


def test_a_second_process_on_the_same_state_is_refused(grid, outside, aggregate, tmp_path: Path) -> None:
    aggregate()
    outside.send({(meter, WINDOW): grid.envelope(meter) for meter in grid.meters[:2]})
    second = aggregate()
    assert second.wait(timeout=20) == 6
    assert "is in use by process" in (tmp_path / "aggregate-1.log").read_text()


def set_shift(file: Path, seconds: float) -> None:
    """Replace the file at once: a process reads it at every look at its clock."""
    new = file.with_name("shift.new")
    new.write_text(str(seconds))
    new.replace(file)


@pytest.mark.parametrize("ahead_s", [-1.7e9, 900 * 86_400.0])
def test_repro_an_aggregator_accepted_a_wrong_clock(
    grid, aggregate, outside: Outside, tmp_path: Path, ahead_s: float
) -> None:
    """It refuses for now, closes nothing and survives a hang-up; when the clock is set it goes on."""
    shift = tmp_path / "shift"
    set_shift(shift, 0.0)
    batches = {(meter, WINDOW): grid.envelope(meter) for meter in grid.meters}
    counted = {key: batches[key] for key in list(batches)[:3]}
    first = aggregate(shift=shift)
    outside.send(counted)
    first.kill()
    first.wait()
    set_shift(shift, ahead_s)
    outside.receipted.clear()
    process = aggregate(shift=shift)
    outside.send(counted)  # what is counted is receipted, whatever the clock says
    for meter, window in batches.keys() - counted.keys():
        outside.say(topics.batch(grid.group_of(meter), meter), batches[meter, window])
    outside.until(lambda: bool(outside.refused))
    assert (outside.refused, outside.totals) == ({"clock"}, {})
    process.send_signal(signal.SIGHUP)
    set_shift(shift, 0.0)
    log = tmp_path / "aggregate-1.log"
    outside.until(lambda: "the clock is believed again" in log.read_text())
    outside.send(batches)
    outside.until(lambda: ("grid", WINDOW, 0) in outside.totals)
    total = outside.totals["grid", WINDOW, 0]
    assert np.array_equal(grid.decrypted(total), grid.expected(grid.meters))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    said = log.read_text()
    assert said.count("the clock says") == 1
    assert "SIGHUP is ignored" in said
