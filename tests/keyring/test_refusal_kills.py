"""SIGKILL while spoilt totals are judged: each failure counts once. `make hostile` kills a hundred times."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gridhe_testing.refusal_kills import broken_rules

SUPPORT = Path(__file__).resolve().parents[1] / "support"


def test_repro_kills_lose_no_failed_total_and_count_none_twice() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gridhe_testing.refusal_kills", "--kills", "6", "--seed", "3"],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["broken_rules"] == []
    assert figures["failed_totals"] == 64
    assert figures["kills_after_which_the_ledger_had_grown"] > 0


def failure(window: int, *, group: str = "a", aggregator: str = "agg1", day: int = 1) -> dict[str, Any]:
    return {
        "kind": "unsound",
        "at": f"2026-01-{day:02}T00:00:00.000Z",
        "key": "k",
        "group": group,
        "window": window,
        "part": 0,
        "aggregator": aggregator,
        "suspects": [],
        "excluded": [],
    }


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([failure(1), failure(1)], "counted twice"),
        ([failure(i, group=f"g{i}") for i in range(4)], "while that was suspended"),
        ([failure(i, aggregator=f"agg{i}") for i in range(4)], "while its group was suspended"),
        ([failure(i, group=f"g{i}", aggregator=f"agg{i}") for i in range(65)], "under a stopped key"),
    ],
)
def test_the_second_count_finds_what_it_is_there_for(records: list[dict[str, Any]], message: str) -> None:
    assert broken_rules(records[:-1]) == []
    [fault] = broken_rules(records)
    assert message in fault


def test_resumed_failures_are_no_fault() -> None:
    three = [failure(i, group="a") for i in range(3)]
    resumed = [{"kind": "resumed", "aggregator": "agg1"}, {"kind": "resumed", "group": "a"}]
    assert broken_rules([*three, *resumed, failure(4)]) == []
