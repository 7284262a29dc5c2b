"""Consumers of a real Mosquitto, counted from outside."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gridhe.bench.suites import service
from gridhe.bench.throughput import slope

pytestmark = pytest.mark.system


@pytest.mark.usefixtures("mosquitto")
def test_every_consumer_deals_with_every_message(measuring: Callable[[], Any]) -> None:
    bench = measuring()
    service.measure(bench.setup, service.Case(24, 12, 1_200, 400), 1)
    found = {(record.case, record.metric): record.figures.median for record in bench.records()}
    assert found["12 groups gridhe", "rate"] > 0
    assert found["12 groups paho", "rate"] > 0
    assert found["12 groups gridhe", "rate / paho"] == pytest.approx(
        found["12 groups gridhe", "rate"] / found["12 groups paho", "rate"]
    )


def test_the_rate_of_bursts_is_that_of_a_steady_stream() -> None:
    steady = np.arange(0.01, 10, 0.01)
    assert slope(steady, (1_000 * steady).astype(int), 10_000) == pytest.approx(1_000, rel=0.01)
    # Once a second a thousand at once, in ten reads.
    times = np.array([second + read / 1_000 for second, read in itertools.product(range(1, 11), range(10))])
    counts = np.arange(1, 101) * 100
    assert slope(times, counts, 10_000) == pytest.approx(1_000, rel=0.1)
