"""The throughput of one `gridhe-aggregate` process, compared with subscribers that only count messages.

They take turns in one run, with the same payloads and the same kind of broker:

    gridhe-aggregate   checks, folds, commits durably; a batch counts when its receipt is published
    bare paho          a QoS 1 subscriber whose callback counts
    mosquitto_sub      the same in C

`rate / paho` is gridhe's rate as a share of the bare subscriber's.
"""

import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gridhe.bench.grid import RINGS, BenchGrid
from gridhe.bench.publisher import write_parcels
from gridhe.bench.recorder import Setup
from gridhe.bench.service_process import start_aggregator
from gridhe.bench.throughput import (
    Rate,
    counting,
    measure_rate,
    mosquitto_sub,
    process,
    wait_for_line,
    wait_until_counting,
)
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import BrokerSettings
from gridhe.wire import topics

__all__ = ["ABOUT", "NAME", "Case", "measure", "run"]

NAME = "service"
ABOUT = "committed batches a second of gridhe-aggregate, against bare subscribers of the same messages"

_QUEUE_MB = 12_000
_TURNS = 3  # the minimum for a verdict of `compare`


@dataclass(frozen=True, slots=True)
class Case:
    """One stream of messages."""

    kilobytes: int
    groups: int
    messages: int
    window: int  # how many messages ahead the publisher may be: the batches of several commits


_QUICK = (Case(96, 10, 9_000, 5_000),)
# Windows are 35% of the messages: after the last one is published, the publisher uses no processor time.
_FULL = (
    Case(24, 250, 25_000, 8_800),  # the smallest ring sums 127 batches in a group
    Case(64, 10, 16_000, 5_600),
    Case(96, 1, 14_000, 4_900),
    Case(96, 10, 14_000, 4_900),
    Case(96, 1_000, 34_000, 11_900),  # commits are less frequent when they change many totals
)


def run(setup: Setup) -> None:
    """Measure every case; the consumers take turns within it."""
    cases, repeats = (_QUICK, 1) if setup.quick else (_FULL, _TURNS)
    setup.progress.suite(NAME, len(cases))
    for case in cases:
        with setup.progress.case(f"{case.kilobytes} KB, {case.groups} groups"):
            measure(setup, case, repeats)


def measure(setup: Setup, case: Case, repeats: int) -> None:
    """Measure every consumer in turns, and record their rates."""
    grid = BenchGrid(RINGS[case.kilobytes], groups=case.groups, meters=case.messages, seed=setup.seed)
    parcels = setup.folder / "parcels"
    write_parcels(parcels, grid.parcels(range(case.messages)))
    consumers = ["paho", "gridhe"] + (["mosquitto_sub"] if mosquitto_sub() else [])
    rates: dict[str, list[Rate]] = {name: [] for name in consumers}
    for turn in range(repeats):
        for name in consumers if turn % 2 else list(reversed(consumers)):
            rates[name].append(_one(setup, grid, case, parcels, name))
    add, label = setup.recorder.add, f"{case.groups} groups"
    for name, turns in rates.items():
        rate = [one.per_s for one in turns]
        add(NAME, f"{label} {name}", "rate", rate, "batches/s", preset=grid.preset, better="higher")
        cpu = [one.cpu_us for one in turns]
        add(NAME, f"{label} {name}", "processor time", cpu, "us/batch", preset=grid.preset)
    for other in consumers[::2] if len(consumers) > 2 else ["paho"]:
        share = [
            mine.per_s / theirs.per_s for mine, theirs in zip(rates["gridhe"], rates[other], strict=True)
        ]
        add(NAME, f"{label} gridhe", f"rate / {other}", share, "x", preset=grid.preset, better="higher")
    setup.progress.say(
        f"{label}, {grid.preset}: "
        + ", ".join(
            f"{name} {statistics.median(r.per_s for r in turns):,.0f}/s" for name, turns in rates.items()
        )
    )


def _one(setup: Setup, grid: BenchGrid, case: Case, parcels: Path, name: str) -> Rate:
    """One consumer's turn, with a broker of its own."""
    folder = setup.subfolder(f"service-{name}")
    settings = BrokerSettings(max_queued_mb=_QUEUE_MB)
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker(folder / "broker", prefer="mosquitto", settings=settings))
        log = folder / "log"
        pid = 0
        if name == "gridhe":
            pid = start_aggregator(stack, grid, broker, folder).pid
            counted = topics.receipt("+")
        else:
            counted = topics.batch("", "").rstrip("/") + "/#"
        counter = stack.enter_context(process(counting(broker, counted, bare_paho=name == "paho"), log))
        command = [sys.executable, "-P", "-m", "gridhe.bench.publisher", str(parcels), str(broker.port)]
        feed = stack.enter_context(process(command, log))
        wait_for_line(feed, b"ready")
        wait_until_counting(counter, broker)
        return measure_rate(
            feed, counter, total=case.messages, window=case.window, watched_pid=pid or counter.pid
        )
