"""Consumers of a real Mosquitto, counted from outside."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from gridhe.bench.recorder import Progress, Recorder, Setup
from gridhe.bench.suites import service
from gridhe.bench.throughput import slope

pytestmark = pytest.mark.system


class Kept:
    """A store in memory."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], float] = {}

    def write(self, record: object) -> None:
        self.found[record.case, record.metric] = record.figures.median  # type: ignore[attr-defined]


def test_every_consumer_deals_with_every_message(mosquitto: Path, tmp_path: Path) -> None:
    kept = Kept()
    setup = Setup(
        recorder=Recorder(kept, "20260131t120000-1a2b"),  # type: ignore[arg-type]
        progress=Progress(),
        quick=True,
        seed=1,
        folder=tmp_path,
    )
    service.measure(setup, service.Case(24, 5, 1_200, 400), 1)
    assert kept.found["5 groups gridhe", "rate"] > 0
    assert kept.found["5 groups paho", "rate"] > 0
    assert kept.found["5 groups gridhe", "rate / paho"] == pytest.approx(
        kept.found["5 groups gridhe", "rate"] / kept.found["5 groups paho", "rate"]
    )


def test_the_rate_of_bursts_is_that_of_a_steady_stream() -> None:
    steady = np.arange(0.01, 10, 0.01)
    assert slope(steady, (1_000 * steady).astype(int), 10_000) == pytest.approx(1_000, rel=0.01)
    # Once a second a thousand at once, in ten reads.
    times = np.array([second + read / 1_000 for second, read in itertools.product(range(1, 11), range(10))])
    counts = np.arange(1, 101) * 100
    assert slope(times, counts, 10_000) == pytest.approx(1_000, rel=0.1)
