"""Disks, clocks, lost receipts: the engine and the outbox in this process, seeded."""

import pytest

from faults.cases.full_disk import can_mount
from faults.command import run_case
from faults.options import Options
from faults.outcome import CaseOutcome

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def _passed(case: str, options: Options) -> CaseOutcome:
    outcome = run_case(case, options)
    assert outcome.passed, outcome.line() + "".join(f"\n{fault}" for fault in outcome.faults)
    return outcome


def test_lost_receipts_duplicates_and_any_order_leave_the_state_of_the_straight_run() -> None:
    outcome = _passed("traffic", Options(seed=1, scale=0.1))
    assert outcome.figures["same_digest"]
    assert outcome.figures["same_bytes"]
    assert outcome.figures["lost_receipts"] == 100


def test_a_disk_that_fails_at_the_nth_operation_costs_no_receipted_batch() -> None:
    outcome = _passed("aggregator-disk", Options(seed=1, scale=0.1))
    assert min(outcome.figures[mode] for mode in ("error", "full", "power")) > 10


def test_what_outbox_and_ledger_called_safe_survives_the_nth_operation_failing() -> None:
    outcome = _passed("outbox-disk", Options(seed=1, scale=0.1))
    assert min(outcome.figures.values()) > 3


def test_a_flipped_bit_in_a_state_file_is_reported_or_harmless_never_a_wrong_total() -> None:
    outcome = _passed("flipped-bytes", Options(seed=1, scale=0.1))
    assert outcome.figures["told"] > 50


def test_clocks_that_jump_give_one_window_or_a_named_reject_and_closed_totals_stay() -> None:
    outcome = _passed("clock", Options(seed=1, scale=0.5))
    assert outcome.rejected["early"] > 0
    assert outcome.rejected["clock"] > 0
    assert "late" not in outcome.rejected


@pytest.mark.usefixtures("mosquitto")
@pytest.mark.skipif(not can_mount(), reason="mounts small disks, and for that one has to be root")
def test_a_full_disk_stops_the_aggregator_with_one_line_and_makes_meters_wait() -> None:
    _passed("full-disk", Options(seed=1, batches=800))


@pytest.mark.usefixtures("mosquitto")
@pytest.mark.parametrize("seed", [1, 2], ids=["drop_oldest", "drop_newest"])
def test_an_outbox_that_overflows_keeps_what_its_policy_says(seed: int) -> None:
    outcome = _passed("outbox-bound", Options(seed=seed))
    assert outcome.figures["policy"] == ("drop_oldest" if seed == 1 else "drop_newest")
