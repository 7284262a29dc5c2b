"""SIGKILL for every process, small: `python -m faults` runs the same cases at length."""

import pytest

from faults.command import run_case
from faults.options import Options

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("mosquitto"), pytest.mark.timeout(240)]


def _run(case: str, *, seed: int, batches: int, scale: float) -> None:
    outcome = run_case(case, Options(seed=seed, batches=batches, scale=scale))
    for again in (1, 2):
        if not outcome.idle or outcome.lost or outcome.duplicated or outcome.faults:
            break
        # Small runs are short: on this machine, just now, the faults came too late to hit anything.
        outcome = run_case(case, Options(seed=seed + 100 * again, batches=batches, scale=scale))
    # Three draws that all hit nothing: the faults themselves do not work any more.
    assert outcome.passed, outcome.line() + "".join(f"\n{fault}" for fault in (*outcome.faults, outcome.idle))
    assert outcome.accepted == outcome.sent >= batches


def test_kill_9_of_aggregator_fleet_and_broker_in_one_run_loses_and_doubles_nothing() -> None:
    _run("everybody", seed=1, batches=600, scale=0.2)


def test_kill_9_of_the_aggregator_before_in_and_after_each_step_of_the_commit() -> None:
    _run("commit-points", seed=2, batches=1_600, scale=0.5)


def test_kill_9_of_the_aggregator_at_random_moments() -> None:
    _run("aggregator-kills", seed=3, batches=600, scale=0.06)


def test_a_killed_broker_without_persistence_loses_what_it_had_and_the_outbox_brings_it_again() -> None:
    _run("broker-kills", seed=4, batches=500, scale=0.1)


def test_a_killed_broker_that_comes_back_with_an_old_memory() -> None:
    _run("persistent-broker-kills", seed=5, batches=400, scale=0.1)


def test_kill_9_of_meters_between_any_two_steps_and_their_bytes_never_differ() -> None:
    _run("meter-kills", seed=6, batches=500, scale=0.12)


def test_keys_and_plans_rotate_mid_stream_with_kills() -> None:
    _run("rotations", seed=7, batches=1_200, scale=0.1)
