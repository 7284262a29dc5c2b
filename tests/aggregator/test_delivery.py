"""How closed totals are sent, and what a verdict on them changes."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from gridhe.wire.signing import SigningKey
from gridhe_testing.closing_world import WINDOW, Place, World, plan_of


@pytest.fixture
def make_world(tmp_path: Path) -> Iterable[Callable[..., World]]:
    worlds: list[World] = []

    def made(groups: dict[str, int], **changes: Any) -> World:
        numbers = iter(range(10_000))
        names = {group: [f"m{next(numbers)}" for _ in range(count)] for group, count in groups.items()}
        worlds.append(World(tmp_path / f"state{len(worlds)}", names, plan_of(**changes)))
        return worlds[-1]

    yield made
    for world in worlds:
        world.stop()


def many_totals(world: World, windows: int) -> float:
    """So many windows closed, each with a total of the groups `a` and `b`."""
    now = world.plan.window_start_s(WINDOW + windows) + 1.0
    for window in range(WINDOW, WINDOW + windows):
        for meter in world.number:
            world.send(meter, window, now)
        world.commit(now)
    return now


def test_repro_totals_are_signed_with_the_key_of_the_day_they_are_sent(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a": 3, "b": 3})
    many_totals(world, 2)
    before = dict(world.totals)
    world.aggregator_key = SigningKey.generate()  # enrolled again: a new credential
    world.start()
    again = world.take(world.engine.send_again())  # (checks the signatures)
    assert again.keys() == before.keys()
    for place, total in again.items():
        assert total.header_bytes == before[place].header_bytes
        assert total.ciphertext == before[place].ciphertext
        assert total.signature != before[place].signature
    world.start()
    assert world.take(world.engine.send_again()) == again


def test_repro_totals_that_are_never_receipted_do_not_block_later_ones(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a": 3, "b": 3})
    many_totals(world, 20)
    oldest = [("a", window, 0) for window in range(WINDOW, WINDOW + 10)]
    sent: Counter[Place] = Counter()
    for _ in range(10):
        totals = world.take(world.engine.send_again(8))
        assert len(totals) == 8
        sent.update(totals.keys())
    assert set(sent.values()) == {2}
    assert len(sent) == 40
    world.answer(stored=[place for place in sent if place not in oldest])
    assert {(key.group, key.window, key.part) for key in world.engine.undelivered()} == set(oldest)


def test_repro_a_refused_total_is_not_sent_again_until_the_authority_starts_anew(
    make_world: Callable[..., World],
) -> None:
    world = make_world({"a": 3, "b": 3})
    now = many_totals(world, 3)
    wrong, for_now = [("a", WINDOW, 0)], [("b", WINDOW, 0)]
    world.answer(refused=wrong)
    world.answer(refused=for_now, reason="signature")
    assert len(world.take(world.engine.send_again())) == 5
    snapshot = world.engine.snapshot(now)
    assert (snapshot.undelivered, snapshot.refused_totals) == (6, 1)
    assert snapshot.counters.refused == {"size": 1, "signature": 1}
    world.engine.offer_all()
    assert len(world.take(world.engine.send_again())) == 6
    world.answer(refused=[("a", WINDOW + 99, 0)])  # not one of ours
    assert world.engine.snapshot(now).refused_totals == 0


def test_too_many_refused_totals_are_dropped_oldest_first_and_counted(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gridhe.aggregator import delivery

    monkeypatch.setattr(delivery, "_REFUSED_MAX", 4)
    world = make_world({"a": 3, "b": 3})
    now = many_totals(world, 4)
    world.answer(refused=[("a", window, 0) for window in range(WINDOW, WINDOW + 4)])
    world.answer(refused=[("b", WINDOW, 0)])
    snapshot = world.engine.snapshot(now)
    assert (snapshot.undelivered, snapshot.refused_totals, snapshot.counters.dropped) == (7, 4, 1)
    world.engine.offer_all()
    assert ("a", WINDOW, 0) not in world.take(world.engine.send_again())


def test_each_closed_leaf_part_says_how_many_meters_are_in_it_of_how_many(
    make_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world({"a": 5, "b": 3})
    for meter in ("m0", "m1", "m2", "m5", "m6", "m7"):
        world.send(meter)
    with caplog.at_level(logging.INFO, "gridhe.aggregator"):
        world.settle()
        world.settle(world.now + 61)
        world.send("m3", now=world.now + 62)
        world.commit(world.now + 62)
        world.commit(world.now + 62 + 601)
    closed = [record.__dict__ for record in caplog.records if record.message == "closed"]
    assert [(each["group"], each["part"], each["meters"], each["expected"]) for each in closed] == [
        ("b", 0, 3, 3),
        ("a", 0, 3, 5),
        ("grid", 0, 6, 8),
        ("a", 1, 1, 5),
    ]
    counters = world.engine.snapshot(world.now).counters
    assert (counters.counted, counters.expected) == (7, 8)


@pytest.mark.parametrize(
    ("reason", "way_out"),
    [("suspended", "gridhe-keyring resume"), ("budget", "restarts"), ("coverage", "wider group")],
)
def test_a_refusal_is_one_log_line_with_the_way_out_and_shows_in_the_status(
    make_world: Callable[..., World], caplog: pytest.LogCaptureFixture, reason: str, way_out: str
) -> None:
    world = make_world({"a": 3, "b": 3})
    many_totals(world, 1)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # the receipt comes again
            world.answer(refused=[("a", WINDOW, 0)], reason=reason)
    [record] = [each.__dict__ for each in caplog.records]
    assert record["message"] == "the authority refused a total"
    assert (record["group"], record["window"], record["reason"]) == ("a", WINDOW, reason)
    assert way_out in record["what_to_do"]
    assert world.engine.snapshot(world.now).counters.refused[reason] == 2


def test_a_suspended_total_waits_for_the_authority_to_resume(make_world: Callable[..., World]) -> None:
    world = make_world({"a": 3, "b": 3})
    many_totals(world, 1)
    world.judge([(("a", WINDOW, 0), "suspended"), (("b", WINDOW, 0), "")])
    world.commit()
    assert world.take(world.engine.send_again()) == {}
    world.answer(stored=[("a", WINDOW, 0)])  # the authority had kept it, and opens it when it is told to
    assert set(world.commit()) == {("grid", WINDOW, 0)}
    assert world.engine.snapshot(world.now).refused_totals == 0


def test_repro_a_fresh_total_is_sent_without_being_read_back(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gridhe.aggregator.state.totals import Totals

    world = make_world({"a": 3, "b": 3})
    read: list[object] = []
    before = Totals.total
    monkeypatch.setattr(Totals, "total", lambda self, key: read.append(key) or before(self, key))
    many_totals(world, 2)
    assert len(world.totals) == 4
    assert read == []
