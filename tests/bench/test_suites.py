"""What suites make of their measurements."""

import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from gridhe.bench import pipeline
from gridhe.bench.pipeline import Load, Passed
from gridhe.bench.suites import meters, security, service
from gridhe.plan.parameters import PRESETS


def test_a_pipeline_that_falls_behind_carries_less_than_is_offered(measuring: Callable[[], Any]) -> None:
    bench = measuring()
    load = Load(meters=10, groups=2, window_s=4, interval_s=1, windows=3, speed="1")
    passed = Passed(latency_s=[1.0, 12.0], batches=30, bytes_sent=30 * 1_000, whole_s=24.0)
    meters.record_passed(bench.setup, "meters", "10 meters", load, passed)
    found = {record.metric: record.figures.median for record in bench.records()}
    assert found["batches"] == 30 / 24
    assert found["readings"] == 30 * 4 / 24 * 60
    # What the plan makes of a meter's line does not depend on what the far end does.
    assert found["sent by a meter"] == 3 * 1_000 / 12


def test_processor_time_counts_from_the_first_window_on() -> None:
    me = psutil.Process()
    watch = pipeline._Watch({"me": me.pid})
    watch.begin()
    started = me.cpu_times()
    while me.cpu_times().user - started.user < 0.1:
        pass
    before_s = time.process_time()
    watch.look()
    assert 0.1 <= watch.cpu_s["me"] < 0.5 * before_s
    watch.begin()
    watch.look()
    assert watch.cpu_s["me"] < 0.05


def test_a_larger_ring_takes_more_memory_each_in_a_process_of_its_own() -> None:
    light = security._memory(PRESETS["light"], relin=True)
    medium = security._memory(PRESETS["medium"], relin=True)
    assert 0.5 < light["grown_mb"] <= light["peak_mb"] < medium["peak_mb"]
    assert light["grown_mb"] < medium["grown_mb"]


@pytest.mark.parametrize("case", service._FULL)
def test_a_publisher_has_messages_left_for_most_of_a_turn(case: service.Case) -> None:
    assert case.window <= 0.36 * case.messages
