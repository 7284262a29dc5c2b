"""Measuring side by side: a warm-up, then rounds in which every candidate has a turn.

A machine's speed and its other work change over time, so figures that were measured one after the other are
not comparable. Here each round calls every candidate a few times, in a new random order. Ratios are
computed within a round, and the result is the median over the rounds.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Samples", "side_by_side"]

_WARM_UP_S = 0.05
_ROUND_S = 0.01  # a candidate's turn in one round, or one call if that takes longer
_CALLS_MOST = 200


@dataclass(frozen=True, slots=True)
class Samples:
    """The times of one candidate: seconds per call, one list for each round."""

    rounds: tuple[tuple[float, ...], ...]

    @property
    def seconds(self) -> list[float]:
        """The seconds of every call."""
        return [seconds for one in self.rounds for seconds in one]

    def ratio(self, other: "Samples") -> list[float]:
        """Its time divided by the time of `other`, per round (medians)."""
        return [
            float(np.median(mine) / np.median(theirs))
            for mine, theirs in zip(self.rounds, other.rounds, strict=True)
        ]


def side_by_side(
    candidates: Mapping[str, Callable[[], object]],
    *,
    budget_s: float,
    seed: int,
    rounds_least: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Samples]:
    """Time these calls against each other, for about `budget_s` in total.

    Each is warmed up first; `seed` determines the order within each round. Exceptions pass through.
    """
    calls = {name: _calls_per_round(call, clock) for name, call in candidates.items()}
    rng = random.Random(seed)  # noqa: S311 - an order, not a secret
    rounds: dict[str, list[tuple[float, ...]]] = {name: [] for name in candidates}
    order = list(candidates)
    until = clock() + budget_s
    while clock() < until or len(rounds[order[0]]) < rounds_least:
        rng.shuffle(order)
        for name in order:
            rounds[name].append(_turn(candidates[name], calls[name], clock))
    return {name: Samples(tuple(taken)) for name, taken in rounds.items()}


def _turn(call: Callable[[], object], calls: int, clock: Callable[[], float]) -> tuple[float, ...]:
    taken = []
    for _ in range(calls):
        started = clock()
        call()
        taken.append(clock() - started)
    return tuple(taken)


def _calls_per_round(call: Callable[[], object], clock: Callable[[], float]) -> int:
    """Warm a candidate up; return the number of calls in a turn."""
    calls = 0
    started = clock()
    while (elapsed := clock() - started) < _WARM_UP_S or not calls:
        call()
        calls += 1
    return max(1, min(_CALLS_MOST, round(_ROUND_S * calls / max(elapsed, 1e-9))))
