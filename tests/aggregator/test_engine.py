import random

import msgpack
import numpy as np
import pytest

from gridhe.config.settings import AggregatorSettings
from gridhe.wire import topics
from gridhe.wire.roster import Roster, RosterEntry
from gridhe.wire.signing import SigningKey, sign_record
from gridhe.wire.total import Piece

WINDOW = 480_000  # the grid's first window


def test_totals_of_every_group_decrypt_to_the_integer_sums(grid) -> None:
    for meter in grid.meters:
        grid.send(meter)
    totals = grid.settle()
    assert set(totals) == {
        (group, WINDOW, 0) for group in ("north/f1", "north/f2", "south/f1", "north", "south", "grid")
    }
    for (group, _, _), total in totals.items():
        below = [meter for meter in grid.meters if group == "grid" or grid.group_of(meter).startswith(group)]
        assert np.array_equal(grid.decrypted(total), grid.expected(below)), group
        assert total.header.meters == len(below)
    assert totals["north", WINDOW, 0].header.pieces == (Piece("north/f1", 0, 5), Piece("north/f2", 0, 4))


def test_receipts_come_only_with_the_commit_and_name_what_it_holds(grid) -> None:
    grid.send("a0")
    grid.send("a1")
    receipts = grid.receipts(grid.engine.commit(grid.now))
    assert {meter: receipt.committed for meter, receipt in receipts.items()} == {
        "a0": (WINDOW,),
        "a1": (WINDOW,),
    }
    assert grid.receipts(grid.engine.commit(grid.now)) == {}


def test_a_repeated_batch_is_receipted_again_and_folded_once(grid) -> None:
    for meter in grid.meters:
        payload = grid.send(meter)
        grid.deliver(meter, payload)
    totals = grid.settle()
    grid.deliver("c0", grid.envelope("c0"))  # even sealed anew
    again = grid.engine.commit(grid.now)
    assert grid.engine.counters.folded == len(grid.meters)
    assert grid.engine.counters.duplicates == len(grid.meters) + 1
    assert grid.receipts(again)["c0"].committed == (WINDOW,)
    assert np.array_equal(grid.decrypted(totals["grid", WINDOW, 0]), grid.expected(grid.meters))


@pytest.mark.parametrize("seed", range(6))
def test_a_crash_at_any_moment_loses_nothing_and_counts_nothing_twice(grid, seed: int) -> None:
    """Meters send again until receipted; the engine restarts from disk at random moments."""
    rng = random.Random(seed)
    windows = [WINDOW, WINDOW + 1]
    waiting = {(meter, window): grid.envelope(meter, window) for meter in grid.meters for window in windows}
    now = grid.now + 3_600
    totals = {}
    for _ in range(400):
        if not waiting:
            break
        deed = rng.random()
        if deed < 0.75:
            meter, window = rng.choice(list(waiting))
            grid.deliver(meter, waiting[meter, window], now)
        elif deed < 0.9:
            outgoing = grid.engine.commit(now)
            if rng.random() < 0.5:  # else the receipts and totals are lost on the way
                totals |= (opened := grid.totals(outgoing))
                grid.acknowledge(*opened)
                for meter, receipt in grid.receipts(outgoing).items():
                    for window in receipt.committed:
                        waiting.pop((meter, window), None)
        else:
            grid.start()
    for (meter, _), payload in waiting.items():
        grid.deliver(meter, payload, now)
    totals |= grid.totals(grid.engine.commit(now))
    totals |= (again := grid.totals(grid.engine.send_again()))
    grid.acknowledge(*again)
    totals |= grid.settle(now)
    assert {(group, window) for group, window, part in totals if part == 0} == {
        (group, window)
        for group in ("north/f1", "north/f2", "south/f1", "north", "south", "grid")
        for window in windows
    }
    for (group, window, part), total in totals.items():
        below = [meter for meter in grid.meters if group == "grid" or grid.group_of(meter).startswith(group)]
        assert part == 0
        assert np.array_equal(grid.decrypted(total), grid.expected(below, window)), (group, window)


def test_parts_too_small_to_publish_join_wider_groups_until_they_are_enough(grid) -> None:
    late = ["a4", "b3", "c0", "c1"]
    for meter in grid.meters:
        if meter not in late:
            grid.send(meter)
    assert grid.totals(grid.engine.commit(grid.now)) == {}
    closed = grid.settle(grid.now + 120)  # the grace is over
    # The only meter of south/f1 is in no published total: grid less north would have shown it.
    assert {key[0]: total.header.meters for key, total in closed.items()} == {
        "north/f1": 4,
        "north/f2": 3,
        "north": 7,
        "grid": 7,
    }
    for meter in late:
        grid.send(meter, now=grid.now + 200)
    later = grid.settle(grid.now + 200)
    # Now all are in. One more in each northern feeder, two in the south: too few anywhere but in the grid.
    assert set(later) == {("grid", WINDOW, 1)}
    total = later["grid", WINDOW, 1]
    assert np.array_equal(grid.decrypted(total), grid.expected(["a4", "b3", "c0", "c1", "c2"]))
    # None of these parts has a total of its own, so each brings its list.
    members = {("north/f1", 1): ["a4"], ("north/f2", 1): ["b3"], ("south/f1", 0): ["c2"]}
    members["south/f1", 1] = ["c0", "c1"]
    assert total.header.pieces == tuple(
        Piece(group, part, len(meters), grid.member_list(group, meters))
        for (group, part), meters in members.items()
    )


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_order_all_batches_end_in_published_totals_and_no_two_isolate_a_few(
    make_grid, seed: int
) -> None:
    """Random arrival over random times and restarts, with feeders of one to six meters."""
    rng = random.Random(seed)
    sizes = [rng.randint(1, 6) for _ in range(6)]
    groups = {f"r{i // 3}/f{i}": [f"m{i}x{j}" for j in range(size)] for i, size in enumerate(sizes)}
    grid = make_grid(groups=groups)
    order = rng.sample(grid.meters, len(grid.meters))
    now, totals = grid.now, {}
    for meter in order:
        grid.send(meter, now=now)
        if rng.random() < 0.3:
            totals |= grid.settle(now)
        if rng.random() < 0.2:
            now += rng.choice([30, 90, 700])
        if rng.random() < 0.1:
            totals |= grid.settle(now)
            grid.start()
    for _ in range(8):
        totals |= grid.settle(now)
        now += 1_000
    counted: dict[str, int] = {}
    for (group, _, _), total in totals.items():
        if group == "grid":
            for piece in total.header.pieces:
                counted[piece.group] = counted.get(piece.group, 0) + piece.meters
    waiting = sum(part.meters for part in grid.engine._parts)
    assert sum(counted.values()) + waiting == len(grid.meters)
    assert waiting < grid.minimum_meters
    # Published totals are sets of pieces that nest or are disjoint; what each holds beyond those within
    # it is none or enough.
    sets = {key: {(p.group, p.part): p.meters for p in total.header.pieces} for key, total in totals.items()}
    for key, pieces in sets.items():
        within = [other for name, other in sets.items() if name != key and other.keys() <= pieces.keys()]
        inside = set().union(*(other.keys() for other in within if other.keys() < pieces.keys()))
        left = sum(meters for piece, meters in pieces.items() if piece not in inside)
        assert left == 0 or left >= grid.minimum_meters, (key, pieces)
    if waiting == 0:
        slots = sum(grid.decrypted(total) for (group, _, _), total in totals.items() if group == "grid")
        assert np.array_equal(slots, grid.expected(grid.meters))


def test_what_is_too_little_for_the_widest_group_too_waits_and_is_not_published(grid) -> None:
    late = ["a3", "a4"]
    for meter in grid.meters:
        if meter not in late:
            grid.send(meter)
    grid.settle(grid.now + 120)
    for meter in late:
        grid.send(meter, now=grid.now + 500)
    for moment in (600, 5_000, 50_000, 500_000):
        assert grid.totals(grid.engine.commit(grid.now + moment)) == {}
    assert [(part.key.group, part.meters) for part in grid.engine._parts] == [("grid~", 2)]


def first_version(grid, ciphertext: bytes) -> bytes:
    """An envelope as wire version 1 had it: header, planes and tag."""
    header = {"v": 1, "plan": grid.plan.plan_id, "key": grid.plan.key_id, "meter": "a0"}
    header |= {"group": "north/f1", "window": WINDOW}
    return msgpack.packb([msgpack.packb(header), ciphertext, bytes(32)])


def test_a_batch_is_refused_by_name_and_never_folded(grid) -> None:
    good = grid.ciphertext("a0")
    too_large = grid.planes.unpack(good).copy()
    too_large[1, 1, 7] = grid.plan.parameters.primes[1]
    bare = grid.planes.unpack(good).copy()
    bare[1] = 0
    flipped = bytearray(grid.envelope("a0"))
    flipped[50_000] ^= 1
    cases = {
        "size": grid.envelope("a0") + b"\0" * 2_000,
        "malformed": b"\x93" + b"junk",
        "tag": bytes(flipped),
        "plan": grid.forged("a0", ciphertext=good, plan="p" + "0" * 16),
        "key": grid.forged("a0", ciphertext=good, key="k" + "0" * 16),
        "before_plan": grid.forged("a0", ciphertext=good, window=WINDOW - 1),
        "early": grid.forged("a0", ciphertext=good, window=WINDOW + 2),
        "residue": grid.forged("a0", ciphertext=grid.planes.pack(too_large)),
        "transparent": grid.forged("a0", ciphertext=grid.planes.pack(bare)),
        "topic": grid.envelope("a1"),
        "version": first_version(grid, good),
    }
    for reason, payload in cases.items():
        grid.deliver("a0", payload)
        assert grid.engine.counters.rejected == {reason: 1}, reason
        grid.engine.counters.rejected.clear()
    final = {
        "size": grid.forged("a0", ciphertext=good[:-6]),
        "malformed": grid.forged("a0", ciphertext=good, proof=bytes(grid.plan.proof_bytes + 1)),
    }
    grid.engine.commit(grid.now)
    for reason, payload in final.items():  # the meter itself sent them, so it gets a receipt
        grid.deliver("a0", payload)
        assert grid.engine.counters.rejected == {reason: 1}
        assert grid.receipts(grid.engine.commit(grid.now))["a0"].refused == ((WINDOW, reason),)
        grid.engine.counters.rejected.clear()
    grid.engine.receive(
        topics.batch("north/f2", "a0"), grid.forged("a0", ciphertext=good, group="north/f2"), grid.now
    )
    assert grid.engine.counters.rejected == {"group": 1}
    assert grid.engine.counters.folded == 0
    receipt = grid.receipts(grid.engine.commit(grid.now))["a0"]
    assert receipt.committed == ()


def test_old_windows_are_refused_as_late_and_strangers_as_not_enrolled(grid) -> None:
    payload = grid.envelope("a0")
    grid.deliver("a0", payload, now=grid.now + grid.plan.horizon_s + 10)
    groups = {group: [meter for meter in meters if meter != "a1"] for group, meters in grid.groups.items()}
    grid.enrol(groups=groups)
    grid.send("a1")
    assert grid.engine.counters.rejected == {"late": 1, "not_enrolled": 1}
    receipts = grid.receipts(grid.engine.commit(grid.now))
    assert receipts["a1"].refused == ((WINDOW, "not_enrolled"),)


def test_a_group_never_sums_more_meters_than_the_plan_allows(make_grid) -> None:
    grid = make_grid(largest_group=4, largest_rollup=6)
    for meter in grid.meters:
        grid.send(meter)
    assert grid.engine.counters.rejected == {"capacity": 1}
    totals = grid.totals(grid.engine.commit(grid.now + 100_000)) | grid.totals(
        grid.engine.commit(grid.now + 200_000)
    )
    assert all(total.header.meters <= 6 for total in totals.values())
    assert {("north/f1", WINDOW, 0), ("north/f2", WINDOW, 0)} <= set(totals)


def test_totals_put_away_on_disk_give_the_same_bytes(make_grid) -> None:
    small = make_grid(aggregator_settings=AggregatorSettings(open_totals_mb=1))
    windows = range(WINDOW, WINDOW + 4)
    now = small.now + 4 * 3_600
    for window in windows:
        for meter in small.meters:
            small.send(meter, window, now)
            if small.engine.memory_full:
                small.engine.commit(now)
    assert small.engine.counters.commits > 0
    small.engine.commit(now)
    small.acknowledge(*small.totals(small.engine.send_again()))
    totals = small.settle(now)
    for window in windows:
        assert np.array_equal(
            small.decrypted(totals["grid", window, 0]), small.expected(small.meters, window)
        )


def test_totals_are_handed_out_until_the_authority_has_receipted_them(grid) -> None:
    for meter in grid.meters:
        grid.send(meter)
    totals = grid.totals(grid.engine.commit(grid.now))
    grid.start()
    assert grid.totals(grid.engine.send_again()).keys() == totals.keys()
    grid.acknowledge(*(key for key in totals if key[0] != "south/f1"))
    assert [key.group for key in grid.engine.undelivered()] == ["south/f1"]
    grid.acknowledge(*totals)
    assert grid.engine.undelivered() == []
    assert grid.engine.counters.delivered == 0  # nothing is deleted before the next commit
    grid.engine.commit(grid.now)
    assert grid.engine.counters.delivered == len(totals)


def test_a_forged_receipt_bundle_or_roster_changes_nothing(grid) -> None:
    stranger = SigningKey.generate()
    for meter in grid.meters:
        grid.send(meter)
    grid.engine.commit(grid.now)
    grid.engine.take_total_receipt(b"\x92\xc4\x01x\xc4\x01y")
    grid.engine.take_bundle(b"\x93junk")
    grid.engine.take_roster(Roster.of(99, [RosterEntry("a0", "north/f1")]).encode(stranger), grid.now)
    assert len(grid.engine.undelivered()) == 3
    assert grid.engine.counters.rejected == {"receipt": 1, "bundle": 1, "roster": 1}
    assert grid.engine.snapshot(grid.now).meters == 12


def test_a_meter_that_moves_is_never_counted_in_two_groups_for_one_window(grid) -> None:
    grid.send("a0")
    grid.engine.commit(grid.now)
    grid.groups = {
        **grid.groups,
        "north/f1": ["a1", "a2", "a3", "a4"],
        "south/f1": ["a0", *grid.groups["south/f1"]],
    }
    grid.enrol()
    grid.send("a0")
    assert (grid.engine.counters.folded, grid.engine.counters.duplicates) == (1, 1)
    grid.send("a1")
    move = {"north/f1": ["a2", "a3", "a4"], "south/f1": ["a0", "a1", *grid.groups["south/f1"][1:]]}
    grid.groups = {**grid.groups, **move}
    grid.enrol()
    grid.send("a1")
    grid.send("a1", WINDOW + 1, grid.now + 3_600)
    assert (grid.engine.counters.folded, grid.engine.counters.duplicates) == (2, 2)
    assert grid.engine.counters.rejected == {"group": 1}


def test_an_older_roster_cannot_be_replayed(grid) -> None:
    old = Roster.of(1, [RosterEntry(meter, grid.group_of(meter)) for meter in grid.meters]).encode(
        grid.authority
    )
    grid.enrol(groups={"north/f1": ["a0", "a1"]})
    grid.engine.take_roster(old, grid.now)
    assert grid.engine.snapshot(grid.now).meters == 2


@pytest.mark.parametrize(
    "rows",
    [
        [["a0", 0, 0], ["b9", 0, 0], ["a0", 0, 0]],
        [["a0", 0, 0], ["b9", 1, 0]],
        [["a0", 0, 0], ["b9", 7, 0]],
    ],
    ids=["a meter twice", "a group within a group of meters", "no such group"],
)
def test_a_signed_roster_that_proves_invalid_at_its_end_changes_nothing(grid, rows) -> None:
    before = grid.engine.snapshot(grid.now).meters
    body = msgpack.packb([99, ["north", "north/f1"], rows])
    grid.engine.take_roster(sign_record(grid.authority, "roster", body), grid.now)
    assert grid.engine.counters.rejected == {"roster": 1}
    assert grid.engine.snapshot(grid.now).meters == before
    grid.stop()
    grid.start()
    for meter in grid.meters:
        grid.send(meter)
    assert grid.engine.counters.folded == before
