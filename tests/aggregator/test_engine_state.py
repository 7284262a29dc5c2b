"""The engine's state on disk: who may open it, damage, and a full disk."""

import os
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from gridhe.aggregator.state.database import Database
from gridhe.aggregator.state.quarantine import Quarantine
from gridhe.config.settings import AggregatorSettings
from gridhe.errors import StateError

WINDOW = 480_000  # the grid's first window


def test_rejects_are_kept_for_a_look_within_bounds(make_grid) -> None:
    grid = make_grid(aggregator_settings=AggregatorSettings(quarantine_max=5, quarantine_max_mb=1))
    for i in range(40):
        grid.deliver("a0", b"junk %d" % i)
        grid.engine.commit(grid.now)
    kept = Quarantine(grid.database, maximum=5, maximum_bytes=1 << 20).newest()
    assert [one.payload for one in kept] == [b"junk %d" % i for i in range(39, 34, -1)]


def test_one_state_directory_serves_one_aggregator_at_a_time(grid) -> None:
    with pytest.raises(StateError, match=f"in use by process {os.getpid()}"):
        Database(grid.directory, authority=grid.credential.authority, aggregator="main")
    grid.stop()
    with pytest.raises(StateError, match="is the state of aggregator 'main', not 'other'"):
        Database(grid.directory, authority=grid.credential.authority, aggregator="other")


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("totals", "ciphertext"),
        ("totals", "pieces"),
        ("totals", "meters"),
        ("members", "members"),
        ("meters", "number"),
    ],
)
def test_a_flipped_byte_in_the_state_is_an_error_and_never_a_wrong_total(
    grid, table: str, column: str
) -> None:
    for meter in grid.meters[:4]:
        grid.send(meter)
    grid.engine.commit(grid.now)
    grid.stop()
    with closing(sqlite3.connect(grid.directory / "aggregator.db", isolation_level=None)) as db:
        (value,) = db.execute(f"SELECT {column} FROM {table} LIMIT 1").fetchone()  # noqa: S608 - names of this test
        if isinstance(value, bytes):
            damaged = bytearray(value)
            damaged[len(value) // 2] ^= 1
            value = bytes(damaged)
        else:
            value ^= 1
        db.execute(f"UPDATE {table} SET {column} = ?", (value,))  # noqa: S608 - names of this test

    def go_on() -> None:
        grid.start()
        for meter in grid.meters:
            grid.send(meter)
        grid.engine.commit(grid.now)

    with pytest.raises(StateError, match="is damaged"):
        go_on()


def test_a_full_disk_gives_no_receipt_and_a_clear_error(grid) -> None:
    grid.send("a0")
    grid.engine.commit(grid.now)
    pages = grid.database.query("PRAGMA page_count")[0][0]
    grid.database.query(f"PRAGMA max_page_count = {pages + 4}")
    for meter in grid.meters:
        grid.send(meter)
    with pytest.raises(StateError, match="full"):
        grid.engine.commit(grid.now)
    grid.start()
    for meter in grid.meters:
        grid.send(meter)
    totals = grid.settle()
    assert np.array_equal(grid.decrypted(totals["grid", WINDOW, 0]), grid.expected(grid.meters))
