"""One meter's flood does not delay the receipts of others."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridhe.aggregator.engine import _METER_SHARE
from gridhe.aggregator.fold.rows import TotalRow
from gridhe.aggregator.state.totals import Totals
from gridhe.config.settings import MeterSettings
from gridhe.wire.receipt import TRANSIENT_REASONS
from gridhe_testing.closing_world import WINDOW, World, plan_of

WINDOWS = 300


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "state", {"a": ["m0", "m1", "m2"]}, plan_of(horizon_s=400 * 86_400.0))
    yield world
    world.stop()


@pytest.fixture
def now(world: World) -> float:
    return world.plan.window_start_s(WINDOW + WINDOWS) + 1.0


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[TotalRow]:
    """The parts that commits write: 100 KB each with ring 4096."""
    rows: list[TotalRow] = []
    save = Totals.save
    monkeypatch.setattr(Totals, "save", lambda self, row: rows.append(row) or save(self, row))
    return rows


def test_repro_a_flood_of_old_windows_delayed_an_honest_receipt(
    world: World, now: float, written: list[TotalRow]
) -> None:
    for window in range(WINDOW, WINDOW + WINDOWS):
        world.send("m0", window, now)
    world.send("m1", WINDOW + WINDOWS - 1, now)
    world.commit(now)
    assert len(written) == _METER_SHARE + 1
    receipts = {receipt.meter: receipt for receipt in world.receipts}
    assert receipts["m1"].committed == (WINDOW + WINDOWS - 1,)
    assert receipts["m0"].committed == tuple(range(WINDOW, WINDOW + _METER_SHARE))
    assert Counter(reason for _, reason in receipts["m0"].refused) == {"rate": WINDOWS - _METER_SHARE}
    assert "rate" in TRANSIENT_REASONS
    assert world.database is not None
    assert world.database.query("SELECT COUNT(*) FROM quarantine") == [(0,)]


def test_repro_a_flood_of_duplicates_and_refused_batches_is_a_flood_too(
    world: World, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[object] = []
    place = world.engine._enrolment.at
    monkeypatch.setattr(
        world.engine._enrolment, "at", lambda name, start_s: looked_up.append(name) or place(name, start_s)
    )
    for _ in range(3 * _METER_SHARE):
        world.send("m0", WINDOW, now)
        world.send("m0", WINDOW + 10_000, now)
    assert len(looked_up) == _METER_SHARE


def test_a_meter_that_was_offline_for_a_month_catches_up_at_full_rate(world: World, now: float) -> None:
    at_once = MeterSettings().unreceipted_max
    assert at_once <= _METER_SHARE
    waiting, commits = list(range(WINDOW, WINDOW + WINDOWS)), 0
    while waiting:
        for window in waiting[:at_once]:
            world.send("m0", window, now)
        world.receipts.clear()
        world.commit(now)
        commits += 1
        [receipt] = world.receipts
        assert receipt.refused == ()
        waiting = [window for window in waiting if window not in receipt.committed]
    assert commits == -(-WINDOWS // at_once)


def test_a_meter_that_sends_all_at_once_gets_through_by_its_share(world: World, now: float) -> None:
    waiting, commits = set(range(WINDOW, WINDOW + 50)), 0
    while waiting:
        for window in sorted(waiting):
            world.send("m0", window, now)
        world.receipts.clear()
        world.commit(now)
        commits += 1
        waiting -= set(world.receipts[0].committed)
    assert commits == -(-50 // _METER_SHARE)
