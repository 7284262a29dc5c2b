"""The aggregator and a clock that is wrong: nothing is counted twice, forgotten or refused for good."""

import numpy as np
import pytest

from gridhe.wire.receipt import TRANSIENT_REASONS

WINDOW = 480_000  # the grid's first window
DAY_S = 86_400.0


def send_all(grid, window: int = WINDOW, now: float | None = None) -> None:
    for meter in grid.meters:
        grid.send(meter, window, now)


@pytest.mark.parametrize("delivered", [False, True])
def test_repro_a_start_800_days_ahead_deleted_the_lists_of_counted_meters(make_grid, delivered: bool) -> None:
    grid = make_grid(horizon_s=400 * DAY_S)
    send_all(grid)
    totals = grid.totals(grid.engine.commit(grid.now))
    if delivered:
        grid.acknowledge(*totals)
    grid.start()
    ahead = grid.now + 800 * DAY_S
    grid.send("a0", WINDOW, ahead)
    assert grid.receipts(grid.engine.commit(ahead))["a0"].committed == (WINDOW,), (
        "it was counted, late or not"
    )
    grid.start()
    send_all(grid)
    send_all(grid, WINDOW + 1, grid.now + 3_600)
    outgoing = grid.engine.commit(grid.now + 3_600)
    assert grid.engine.counters.folded == len(grid.meters)
    assert grid.receipts(outgoing)["a0"].committed == (WINDOW, WINDOW + 1)
    assert {window for _, window, _ in grid.totals(outgoing)} == {WINDOW + 1}


def test_repro_a_batch_refused_while_the_clock_was_ahead_was_lost_for_good(make_grid) -> None:
    grid = make_grid(horizon_s=400 * DAY_S)
    ahead = grid.now + 800 * DAY_S
    grid.send("a0", WINDOW, ahead)
    refused = grid.receipts(grid.engine.commit(ahead))["a0"].refused
    assert refused == ((WINDOW, "late"),)
    assert refused[0][1] in TRANSIENT_REASONS
    grid.send("a0")
    assert grid.receipts(grid.engine.commit(grid.now))["a0"].committed == (WINDOW,)


def test_windows_that_are_forgotten_are_refused_for_good_whatever_the_clock_says_later(make_grid) -> None:
    grid = make_grid(horizon_s=10 * 3_600.0)
    send_all(grid)
    grid.settle()
    later = grid.now + 100 * 3_600
    send_all(grid, WINDOW + 100, later)
    grid.engine.commit(later)
    assert grid.database is not None
    # The newest window that was sent ends at `later`; the horizon and a window more are remembered.
    assert grid.database.query("SELECT DISTINCT window FROM members") == [(WINDOW + 100,)]
    for start in (False, True):
        if start:
            grid.start()
        for meter in grid.meters:
            grid.send(meter, WINDOW, grid.now)  # a clock set back
        receipts = grid.receipts(grid.engine.commit(grid.now))
        assert {receipt.refused for receipt in receipts.values()} == {((WINDOW, "expired"),)}
        assert "expired" not in TRANSIENT_REASONS
    grid.send("a0", WINDOW + 91, later)
    assert grid.engine.counters.folded == 1


def test_while_the_clock_is_not_believed_nothing_is_closed_or_refused_for_good(grid) -> None:
    for meter in grid.meters[1:]:
        grid.send(meter)
    grid.settle()
    topic = f"gridhe/v1/batch/{grid.group_of('a0')}/a0"
    grid.engine.receive(topic, grid.envelope("a0"), None)
    topic = f"gridhe/v1/batch/{grid.group_of('a1')}/a1"
    grid.engine.receive(topic, grid.envelope("a1"), None)
    outgoing = grid.engine.commit(None)
    receipts = grid.receipts(outgoing)
    assert receipts["a0"].refused == ((WINDOW, "clock"),)
    assert "clock" in TRANSIENT_REASONS
    assert receipts["a1"].committed == (WINDOW,)
    assert grid.totals(outgoing) == {}
    assert grid.engine.known_s == grid.now
    grid.send("a0")
    total = grid.settle()["grid", WINDOW, 0]
    assert np.array_equal(grid.decrypted(total), grid.expected(grid.meters))


@pytest.mark.parametrize("start", [False, True])
def test_repro_a_part_opened_while_the_clock_was_ahead_waited_for_that_time(grid, start: bool) -> None:
    ahead = grid.now + 30 * DAY_S
    for meter in grid.meters[1:]:
        grid.send(meter, WINDOW, ahead)
    grid.settle(ahead)
    if start:
        grid.start()
    grid.engine.clock_set(grid.now)
    assert grid.totals(grid.engine.commit(grid.now)) == {}
    assert ("grid", WINDOW, 0) in grid.settle(grid.now + 61)
