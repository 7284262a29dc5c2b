"""Measuring side by side."""

from collections.abc import Callable

from gridhe.bench.measure import Samples, side_by_side


class Clock:
    """Time that passes only when a candidate works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-7
        return self.now

    def working(self, seconds: Callable[[float], float]) -> Callable[[], None]:
        def work() -> None:
            self.now += seconds(self.now)

        return work


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    clock = Clock()
    # From the second half on everything takes three times as long.
    slower = {
        "a": clock.working(lambda now: 0.001 * (3 if now > 1 else 1)),
        "b": clock.working(lambda now: 0.002 * (3 if now > 1 else 1)),
    }
    samples = side_by_side(slower, budget_s=2.0, seed=1, clock=clock)
    ratios = sorted(samples["b"].ratio(samples["a"]))
    assert abs(ratios[len(ratios) // 2] - 2.0) < 0.01
    assert max(samples["a"].seconds) > 2.5 * min(samples["a"].seconds)


def test_every_candidate_takes_its_turn_in_every_round() -> None:
    clock = Clock()
    calls = {name: clock.working(lambda _now: 0.004) for name in "abc"}
    samples = side_by_side(calls, budget_s=0.0, seed=1, rounds_least=7, clock=clock)
    assert {len(taken.rounds) for taken in samples.values()} == {7}


def test_a_slow_call_makes_a_turn_alone_and_a_fast_one_many() -> None:
    clock = Clock()
    calls = {"slow": clock.working(lambda _now: 0.5), "fast": clock.working(lambda _now: 1e-5)}
    samples = side_by_side(calls, budget_s=0.0, seed=1, clock=clock)
    assert {len(one) for one in samples["slow"].rounds} == {1}
    assert {len(one) for one in samples["fast"].rounds} == {200}


def test_the_ratio_is_of_medians_round_by_round() -> None:
    mine, theirs = Samples(((2.0, 2.0, 9.0), (4.0,))), Samples(((1.0,), (8.0, 8.0)))
    assert mine.ratio(theirs) == [2.0, 0.5]
