"""A meter that moves: what it sealed before counts once, where it was sealed, or is refused as `group`."""

import pytest

WINDOW = 480_000  # the grid's first window


def move(grid, meter: str, group: str, now: float | None = None) -> None:
    """Enrol the meter in another group."""
    groups = {name: [each for each in meters if each != meter] for name, meters in grid.groups.items()}
    groups[group] = [*groups[group], meter]
    grid.groups = groups
    grid.enrol(now=now)


def receipt(grid, meter: str, payload: bytes, now: float):
    """The receipt for one batch on the topic that the meter may publish on."""
    grid.deliver(meter, payload, now)
    return grid.receipts(grid.engine.commit(now)).get(meter)


def test_repro_batches_sealed_before_a_move_were_neither_counted_nor_answered(grid) -> None:
    old = grid.envelope("a0")
    move(grid, "a0", "south/f1")
    assert receipt(grid, "a0", old, grid.now).committed == (WINDOW,)
    assert [(part.key.group, part.meters) for part in grid.engine._parts] == [("north/f1", 1)]


@pytest.mark.parametrize("start", [False, True])
def test_repro_a_batch_that_was_counted_before_the_move_was_never_receipted(grid, start: bool) -> None:
    old = grid.send("a0")
    grid.engine.commit(grid.now)  # its receipt is lost
    move(grid, "a0", "south/f1")
    if start:
        grid.start()
    assert receipt(grid, "a0", old, grid.now).committed == (WINDOW,)
    assert receipt(grid, "a0", grid.envelope("a0"), grid.now).committed == (WINDOW,), "sealed anew"
    assert grid.engine.counters.folded == (0 if start else 1)


def test_a_batch_for_a_window_after_the_move_is_refused_as_group_and_counts_sealed_anew(grid) -> None:
    later = grid.now + 2 * 3_600
    old = grid.envelope("a0", WINDOW + 2)
    move(grid, "a0", "south/f1")
    assert receipt(grid, "a0", old, later).refused == ((WINDOW + 2, "group"),)
    assert receipt(grid, "a0", grid.envelope("a0", WINDOW + 2), later).committed == (WINDOW + 2,)
    assert receipt(grid, "a0", old, later).committed == (WINDOW + 2,)
    assert grid.engine.counters.folded == 1


def test_a_newer_roster_and_a_move_back_leave_every_window_where_it_belongs(grid) -> None:
    sealed = {window: grid.envelope("a0", window) for window in (WINDOW, WINDOW + 2)}
    move(grid, "a0", "south/f1")
    grid.enrol()
    between = {window: grid.envelope("a0", window) for window in (WINDOW, WINDOW + 2)}
    move(grid, "a0", "north/f1", now=grid.now + 3 * 3_600 - 1)
    grid.enrol()
    grid.start()
    now = grid.now + 5 * 3_600
    assert receipt(grid, "a0", between[WINDOW], now).refused == ((WINDOW, "group"),)
    assert receipt(grid, "a0", sealed[WINDOW], now).committed == (WINDOW,)
    assert receipt(grid, "a0", sealed[WINDOW + 2], now).refused == ((WINDOW + 2, "group"),)
    assert receipt(grid, "a0", between[WINDOW + 2], now).committed == (WINDOW + 2,)
    assert receipt(grid, "a0", grid.envelope("a0", WINDOW + 4), now).committed == (WINDOW + 4,)
    parts = {(part.key.group, part.key.window): part.meters for part in grid.engine._parts}
    assert parts == {("north/f1", WINDOW): 1, ("south/f1", WINDOW + 2): 1, ("north/f1", WINDOW + 4): 1}


def test_a_group_of_another_aggregator_is_refused_as_group(make_grid) -> None:
    from gridhe.config.settings import AggregatorSettings

    grid = make_grid(aggregator_settings=AggregatorSettings(filters=("gridhe/v1/batch/south/#",)))
    old = grid.envelope("a0")
    move(grid, "a0", "south/f1")
    assert receipt(grid, "a0", old, grid.now).refused == ((WINDOW, "group"),)
    assert grid.engine.counters.folded == 0


def test_a_batch_on_the_topic_of_a_third_group_or_meter_is_no_move(grid) -> None:
    old = grid.envelope("a0")
    move(grid, "a0", "south/f1")
    for topic in ("north/f2/a0", "south/f1/a1"):
        grid.engine.receive(f"gridhe/v1/batch/{topic}", old, grid.now)
    assert grid.engine.counters.rejected == {"topic": 2}
    assert grid.receipts(grid.engine.commit(grid.now)) == {}
