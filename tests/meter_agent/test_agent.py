"""What is published when, without a socket or a clock."""

import itertools
import random
from collections.abc import Sequence

import pytest

from gridhe.config.settings import MeterSettings
from gridhe.meter_agent.agent import Agent
from gridhe.meter_agent.outbox import Settled, Waiting
from gridhe.wire.receipt import Receipt

KEY = b"k" * 32
PLAN = "p" + "0" * 16


class Shelf:
    """Batches 1..n of one meter, as an outbox would give them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def refill(self, after: int, limit: int) -> list[Waiting]:
        return [Waiting(id=i, plan=PLAN, window=100 + i) for i in range(after + 1, self.count + 1)][:limit]


def agent(shelf: Shelf, **settings: float) -> Agent:
    chosen = MeterSettings(**{"unreceipted_max": 3, "resend_s": 10, "resend_max_s": 60, **settings})  # type: ignore[arg-type]
    return Agent("m1", KEY, chosen, refill=shelf.refill, rng=random.Random(1))


def publish(made: Agent, now_s: float) -> list[int]:
    """Publish all that is due; their windows."""
    batches = made.due(now_s)
    for batch in batches:
        made.published(batch, now_s)
    return [batch.window for batch in batches]


def receipt(
    committed: Sequence[int] = (), refused: Sequence[tuple[int, str]] = (), meter: str = "m1"
) -> bytes:
    return Receipt(plan=PLAN, meter=meter, committed=tuple(committed), refused=tuple(refused)).encode(KEY)


def test_only_so_many_batches_are_unreceipted_at_a_time() -> None:
    made = agent(Shelf(5))
    assert publish(made, 0) == [101, 102, 103]
    assert publish(made, 1) == []
    made.on_receipt(receipt([102]), 2)
    assert publish(made, 2) == [104]
    made.on_receipt(receipt([101, 103]), 3)
    assert publish(made, 3) == [105]


def test_a_batch_without_a_receipt_comes_again_ever_more_seldom() -> None:
    made = agent(Shelf(1))
    times, now_s = [], 0.0
    while len(times) < 8:
        if publish(made, now_s):
            times.append(now_s)
        now_s += 0.5
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    for wait_s, minimum_s in zip(waits, [10, 20, 40, 60, 60, 60, 60], strict=True):
        assert minimum_s <= wait_s <= 1.5 * minimum_s + 0.5
    assert (made.counts.published, made.counts.resent) == (1, 7)


@pytest.mark.parametrize("event", ["incarnation", "connect"])
def test_everything_outstanding_is_due_at_once_after(event: str) -> None:
    made = agent(Shelf(2))
    made.on_aggregator("one", "first")
    assert publish(made, 0) == [101, 102]
    assert not made.on_aggregator("one", "first")
    assert publish(made, 1) == []
    if event == "incarnation":
        assert made.on_aggregator("one", "second")
    else:
        made.hurry()
    assert publish(made, 1) == [101, 102]


def test_a_new_batch_goes_out_as_soon_as_it_is_sealed() -> None:
    shelf = Shelf(0)
    made = agent(shelf)
    assert publish(made, 0) == []
    shelf.count = 1
    made.sealed()
    assert publish(made, 0.1) == [101]


def test_a_receipt_settles_and_a_refusal_sets_aside() -> None:
    made = agent(Shelf(3))
    publish(made, 0)
    settled = made.on_receipt(receipt([101], [(102, "residue"), (103, "early")]), 1)
    assert settled == [
        Settled(meter="m1", plan=PLAN, window=101),
        Settled(meter="m1", plan=PLAN, window=102, reason="residue"),
    ]
    assert made.outstanding == 1
    assert publish(made, 5) == []
    assert publish(made, 20) == [103]
    assert (made.counts.receipted, made.counts.refused, made.counts.deferred) == (1, 1, 1)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"junk",
        Receipt(plan=PLAN, meter="m1", committed=(101,)).encode(b"another key of 32 bytes is here!"),
        receipt([101], meter="m2"),
        receipt([101])[:-1],
    ],
)
def test_junk_settles_nothing_and_is_counted(payload: bytes) -> None:
    made = agent(Shelf(1))
    publish(made, 0)
    assert made.on_receipt(payload, 1) == []
    assert made.outstanding == 1
    assert made.counts.junk_receipts == 1


def test_a_receipt_for_a_batch_that_is_not_outstanding_still_settles_it() -> None:
    """After a restart, a receipt can come before the batch found a place among the unreceipted."""
    made = agent(Shelf(5))
    publish(made, 0)
    assert made.on_receipt(receipt([105]), 1) == [Settled(meter="m1", plan=PLAN, window=105)]


def test_a_dropped_batch_gives_its_place_to_the_next() -> None:
    made = agent(Shelf(4))
    assert publish(made, 0) == [101, 102, 103]
    made.remove(1)
    assert publish(made, 1) == [104]


def test_repro_batches_that_were_refused_for_now_held_up_all_later_ones() -> None:
    made = agent(Shelf(8))
    assert publish(made, 0) == [101, 102, 103]
    made.on_receipt(receipt(refused=[(101, "late"), (102, "early"), (103, "clock")]), 1)
    assert publish(made, 1) == [104, 105, 106]
    made.on_receipt(receipt([104, 105, 106]), 2)
    assert publish(made, 2) == [107, 108]
    made.on_receipt(receipt([107, 108]), 3)
    assert (made.outstanding, made.deferred, made.late) == (3, 3, 1)
    assert [each.reason for each in made.news] == ["late", "early", "clock"]
    assert sorted(publish(made, 60)) == [101, 102, 103]
    assert made.deferred == 0


def test_however_many_are_refused_for_now_few_are_sent_and_one_that_counts_brings_the_others() -> None:
    made = agent(Shelf(300))
    windows, now_s, sent = list(range(101, 401)), 0.0, []
    while made.deferred < 300:
        for window in publish(made, now_s):
            made.on_receipt(receipt(refused=[(window, "late")]), now_s)
        now_s += 0.1
    while now_s < 40_000:
        published = publish(made, now_s)
        sent += [now_s] * len(published)
        assert len(published) <= 3
        made.on_receipt(receipt(refused=[(window, "late") for window in published]), now_s)
        now_s += 2.0
    late = sum(at_s >= 20_000 for at_s in sent)
    assert 300 <= late <= 3 * 20_000 / 60, "three, as have a place, in a minute, the longest wait"
    while windows:
        made.hurry()
        for _ in range(300):
            published = publish(made, now_s)
            if not published:
                break
            made.on_receipt(receipt(published), now_s)
            windows = [window for window in windows if window not in published]
    assert made.outstanding == 0


def test_group_is_for_now_while_the_batch_is_of_the_meters_present_group() -> None:
    moved = {101}
    made = agent(Shelf(2))
    made._moved = lambda _plan, window: window in moved
    publish(made, 0)
    settled = made.on_receipt(receipt(refused=[(101, "group"), (102, "group")]), 1)
    assert [(word.window, word.reason) for word in settled] == [(101, "group")]
    assert made.deferred == 1
