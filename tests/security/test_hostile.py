"""A part of the million hostile envelopes, and every truncation of a sound one."""

from collections import Counter
from pathlib import Path

import pytest

from gridhe.errors import EnvelopeError
from gridhe.wire import topics
from gridhe.wire.envelope import open_envelope
from gridhe_testing.hostile import ROGUE, attack, small_grid

COUNT = 20_000


def test_hostile_envelopes_are_counted_and_leave_the_neighbours_totals_exact(tmp_path: Path) -> None:
    grid = small_grid(tmp_path / "state")
    found = attack(grid, COUNT, seed=20_261_123)
    grid.stop()
    assert found["exact"], found
    assert found["folded"] == len(grid.meters) - 1
    assert found["rejected_total"] == COUNT
    assert found["duplicates"] == 0
    every = {"size", "malformed", "version", "topic", "tag", "plan", "key", "before_plan", "early"}
    assert set(found["rejected"]) == {*every, "residue", "transparent", "rate"}
    assert found["most_mb"] <= found["settled_mb"] + 10, found


def test_every_truncation_of_a_sound_envelope_is_refused(tmp_path: Path) -> None:
    grid = small_grid(tmp_path / "state")
    payload = grid.envelope("a0")
    topic = topics.batch("north/f1", "a0")
    before = Counter(grid.engine.counters.rejected)
    for length in range(len(payload)):
        grid.engine.receive(topic, payload[:length], grid.now)
    assert grid.engine.counters.rejected - before == {"malformed": len(payload)}
    assert grid.engine.counters.folded == 0
    grid.engine.receive(topic, payload, grid.now)
    assert grid.engine.counters.folded == 1
    grid.stop()


@pytest.mark.parametrize("claimed", [2**16, 2**31, 2**32 - 1])
def test_a_length_that_is_claimed_costs_no_memory(claimed: int) -> None:
    for place in range(2):
        parts = [b"\xc6" + claimed.to_bytes(4, "big") if i == place else b"\xc4\x00" for i in range(2)]
        with pytest.raises(EnvelopeError, match="cut short") as caught:
            open_envelope(b"\x92" + b"".join(parts), 1 << 20)
        assert caught.value.reason == "malformed"


def test_a_rogue_meter_fills_no_memory_with_refusals_that_wait_for_a_commit(tmp_path: Path) -> None:
    grid = small_grid(tmp_path / "state")
    sound = grid.ciphertext(ROGUE)
    topic = topics.batch("north/f1", ROGUE)
    for number in range(3_000):
        grid.engine.receive(topic, grid.forged(ROGUE, ciphertext=sound[:64], window=number), grid.now)
    assert grid.engine.counters.rejected == {"before_plan": 16, "rate": 2_984}
    outgoing = grid.engine.commit(grid.now)
    assert len(outgoing) == 1
    assert len(grid.receipts(outgoing)[ROGUE].refused) == 3_000
    grid.stop()
