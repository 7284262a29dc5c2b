"""When the wall clock is believed."""

import time
from dataclasses import dataclass

import pytest

from gridhe.base.clock import BUILT, LEAP_S, SETTLE_S, PlausibleClock, check_clock, running_s
from gridhe.errors import ConfigError

DAY_S = 86_400.0
NOW_S = BUILT.timestamp() + 100 * DAY_S


@dataclass
class Machine:
    """Both clocks of one machine."""

    wall_s: float = NOW_S
    running_s: float = 5.0

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.running_s += seconds

    def clock(self, known_s: float | None) -> PlausibleClock:
        return PlausibleClock(known_s=known_s, wall=lambda: self.wall_s, running=lambda: self.running_s)


def test_this_program_was_not_made_in_the_future() -> None:
    assert time.time() - 5 * 366 * DAY_S < BUILT.timestamp() <= time.time()


def test_a_clock_that_advances_as_expected_is_accepted() -> None:
    machine = Machine()
    clock = machine.clock(known_s=None)
    for seconds in (0.0, 0.1, 3_600.0, 40 * DAY_S):
        machine.passes(seconds)
        assert clock.now() == machine.wall_s
    machine.wall_s += 30.0  # what a daemon corrects without much ado
    assert clock.now() == machine.wall_s
    assert (clock.steps, clock.news()) == (0, None)


@pytest.mark.parametrize("wall_s", [0.0, 43_200.0, -1e18, BUILT.timestamp() - DAY_S, 4e9, 1e30, float("nan")])
def test_repro_a_clock_in_1970_was_accepted(wall_s: float) -> None:
    machine = Machine(wall_s=wall_s)
    clock = machine.clock(known_s=None)
    assert clock.now() is None
    said = clock.news()
    assert said is not None
    assert said.startswith("the clock says ")
    machine.passes(SETTLE_S * 10)
    assert clock.now() is None
    machine.wall_s = NOW_S
    assert clock.now() == NOW_S, "as soon as it is set"
    with pytest.raises(ConfigError, match="set this machine's clock"):
        check_clock(wall_s)
    assert check_clock(NOW_S) == NOW_S


@pytest.mark.parametrize("off_s", [1.0, 7 * DAY_S, LEAP_S - 1])
def test_the_time_off_before_a_start_is_believed_at_once(off_s: float) -> None:
    assert Machine().clock(known_s=NOW_S - off_s).now() == NOW_S


@pytest.mark.parametrize("running", [False, True])
def test_repro_a_clock_800_days_ahead_was_accepted(running: bool) -> None:
    machine = Machine()
    clock = machine.clock(known_s=NOW_S)
    if running:
        assert clock.now() == NOW_S
    machine.wall_s += 800 * DAY_S
    for _ in range(10):
        machine.passes(SETTLE_S)
        assert clock.now() is None
    assert "--trust-clock" in str(clock.doubt)
    machine.wall_s -= 800 * DAY_S
    assert clock.now() == machine.wall_s
    assert machine.clock(known_s=None).now() == machine.wall_s


@pytest.mark.parametrize("step_s", [-800 * DAY_S + 1, -3_600.0, 3_600.0, 300 * DAY_S])
def test_a_clock_step_is_accepted_after_it_has_lasted(step_s: float) -> None:
    machine = Machine(wall_s=NOW_S + 750 * DAY_S)
    clock = machine.clock(known_s=None)
    clock.now()
    machine.wall_s += step_s
    assert clock.now() is None
    machine.passes(SETTLE_S - 1)
    assert clock.now() is None
    machine.passes(1)
    assert (clock.now(), clock.steps) == (machine.wall_s, 1)
    machine.passes(1)
    assert (clock.now(), clock.steps) == (machine.wall_s, 1)


def test_a_clock_that_steps_to_and_fro_is_rejected_and_one_that_returns_is_accepted() -> None:
    machine = Machine()
    clock = machine.clock(known_s=None)
    clock.now()
    for step_s in (7_200.0, -3_600.0, 7_200.0, -3_600.0):
        machine.wall_s += step_s
        machine.passes(SETTLE_S - 1)
        assert clock.now() is None
    machine.wall_s -= 7_200.0
    assert (clock.now(), clock.steps) == (machine.wall_s, 0)


def test_a_start_before_the_last_known_time_waits_for_the_clock_to_be_set() -> None:
    machine = Machine(wall_s=NOW_S - 3_600)
    clock = machine.clock(known_s=NOW_S)
    assert clock.now() is None
    machine.passes(30)
    machine.wall_s = NOW_S + 60
    assert (clock.now(), clock.steps) == (NOW_S + 60, 0)


def test_doubt_is_said_once_a_minute_and_its_end_once() -> None:
    machine = Machine(wall_s=0.0)
    clock = machine.clock(known_s=None)
    said = []
    for _ in range(1_200):
        machine.passes(0.1)
        clock.now()
        said.append(clock.news())
    assert len([text for text in said if text]) == 2
    machine.wall_s = NOW_S
    clock.now()
    assert (clock.news(), clock.news()) == ("the clock is believed again", None)


def test_the_running_clock_only_goes_forwards() -> None:
    first = running_s()
    assert running_s() >= first
