"""Comparing runs: what is noise, and what is not."""

from collections.abc import Callable
from typing import Any

import pytest

from gridhe.bench.compare import compare, coverage, differences, shown
from gridhe.bench.grid import RINGS, BenchGrid
from gridhe.bench.record import Record
from gridhe.bench.store import FAILED
from gridhe.bench.suites import micro
from gridhe.errors import StoreError


def verdict(make_record: Callable[..., Record], before: object, after: object, **fields: object) -> str:
    old = make_record(before, case="c", **fields)
    (change,) = compare([old], [make_record(after, case="c", **fields)])
    return change.verdict


TIGHT = (10.0, 10.1, 10.2, 10.1, 10.0)


def test_a_slower_time_is_a_regression_and_a_faster_one_an_improvement(
    make_record: Callable[..., Record],
) -> None:
    slower = tuple(1.5 * value for value in TIGHT)
    assert verdict(make_record, TIGHT, slower) == "regression"
    assert verdict(make_record, slower, TIGHT) == "improvement"
    assert verdict(make_record, TIGHT, TIGHT) == "same"


def test_for_a_rate_less_is_worse(make_record: Callable[..., Record]) -> None:
    less = tuple(value / 1.5 for value in TIGHT)
    assert verdict(make_record, TIGHT, less, better="higher") == "regression"
    assert verdict(make_record, less, TIGHT, better="higher") == "improvement"


def test_a_busy_machine_is_no_regression(make_record: Callable[..., Record]) -> None:
    # The median doubles, but at its best it is as fast as before.
    assert verdict(make_record, TIGHT, (10.0, 20.0, 21.0, 20.0, 22.0)) == "same"


def test_what_spreads_widely_needs_a_larger_change(make_record: Callable[..., Record]) -> None:
    wide = (10.0, 14.0, 8.0, 16.0, 12.0)
    assert verdict(make_record, wide, tuple(1.5 * value for value in wide)) == "same"
    assert verdict(make_record, wide, tuple(3.0 * value for value in wide)) == "regression"


def test_single_times_are_not_judged_but_single_sizes_are(make_record: Callable[..., Record]) -> None:
    assert verdict(make_record, (1.0,), (9.0,)) == "not judged"
    assert verdict(make_record, (100.0,), (150.0,), unit="B") == "regression"
    assert verdict(make_record, TIGHT, (99.0,) * 5, better="neither") == "not judged"


def test_only_what_both_runs_have_is_compared_and_the_rest_is_counted(
    make_record: Callable[..., Record],
) -> None:
    before = [make_record(TIGHT, case="a"), make_record(case="b"), make_record(case="c", suite="scale")]
    after = [
        make_record(TIGHT, case="a"),
        make_record(case="d", suite="service"),
        make_record((1.0,), case="single"),
    ]
    before.append(make_record((1.0,), case="single"))
    changes = compare(before, after)
    assert [change.key[1] for change in changes] == ["a", "single"]
    assert coverage(before, after, changes) == [
        "only in A: 2 metrics (micro 1, scale 1)",
        "only in B: 1 metric (service 1)",
        "not judged, too few values: 1 (3 are needed in both runs)",
    ]


def test_runs_with_no_metric_in_common_are_an_error(make_record: Callable[..., Record]) -> None:
    note = make_record((1.0,), suite="peers", case="seal", metric="absent", unit="note")
    with pytest.raises(StoreError, match=r"A has 1 metric \(micro 1\); B has 1 metric \(scale 1\)"):
        compare([make_record(case="a"), note], [make_record(case="a", suite="scale"), note])
    with pytest.raises(StoreError, match="B has no metrics"):
        compare([make_record()], [note])


def test_other_hosts_versions_presets_and_failed_suites_are_reported(
    make_record: Callable[..., Record],
) -> None:
    same, failed = (
        make_record(case="same"),
        make_record((1.0,), metric=FAILED, unit="note", note="no broker", suite="service"),
    )
    assert differences([same], [same]) == []
    before = [same, make_record(case="moved")]
    after = [
        make_record(case="same", host="there", version="0.2.0"),
        make_record(case="moved", preset="2048-24k", host="there", version="0.2.0"),
        failed,
    ]
    assert differences(before, after) == [
        "the hosts differ: here in A, here, there in B",
        "the versions differ: 0.1.0 in A, 0.1.0, 0.2.0 in B",
        "the presets differ: 4096-96k in A, 2048-24k in B, so 1 metrics are not compared",
        "in B, suite service failed: no broker",
    ]


def test_regressions_stand_first(make_record: Callable[..., Record]) -> None:
    before = [make_record(TIGHT, case="fine"), make_record(TIGHT, case="worse")]
    after = [make_record(TIGHT, case="fine"), make_record((20.0,) * 5, case="worse")]
    lines = shown(compare(before, after)).splitlines()
    assert lines[1].startswith("regression  micro worse")


@pytest.fixture
def measured(
    measuring: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str | None], list[Record]]:
    grid = BenchGrid(RINGS[96], groups=1, meters=16, seed=1)

    def run(slow_fold: str | None) -> list[Record]:
        if slow_fold is not None:
            monkeypatch.setenv(micro.SLOW_FOLD, slow_fold)
        bench = measuring()
        micro.measure_aggregator(bench.setup, grid, 2.5)
        records: list[Record] = bench.records()
        return records

    return run


def test_two_runs_of_one_commit_flag_nothing_and_a_fold_slowed_by_half_is_flagged_alone(
    measured: Callable[[str | None], list[Record]],
) -> None:
    before, after, slowed = measured(None), measured(None), measured("1.5")
    assert [change for change in compare(before, after) if change.verdict == "regression"] == []
    flagged = [change for change in compare(before, slowed) if change.verdict == "regression"]
    assert {change.key[1] for change in flagged} == {"fold"}, shown(flagged)
