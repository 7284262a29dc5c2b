"""A plan ends where the next begins, and a retired one is over: as bundles and the roster say."""

from dataclasses import replace

import pytest

from gridhe.plan.plan import Plan
from gridhe.wire.bundle import Bundle
from gridhe.wire.roster import Roster, RosterEntry, RosterPlan

WINDOW = 480_000  # the grid's first window
END = WINDOW + 2  # where the later plan starts


def later_plan(grid, **changes) -> Plan:
    """A plan that follows the grid's own, under the same key."""
    return replace(grid.plan, **{"first_window": END, "grace_s": 61.0, **changes})


def learn(grid, plan: Plan) -> None:
    grid.engine.take_bundle(Bundle(plan=plan, public_key=grid.bundle.public_key).encode(grid.authority))


def hear_roster(grid, *plans: RosterPlan) -> None:
    grid.roster_version += 1
    entries = [RosterEntry(meter, grid.group_of(meter)) for meter in grid.meters]
    roster = Roster.of(grid.roster_version, entries, plans)
    grid.engine.take_roster(roster.encode(grid.authority), grid.now)


def answers(grid, windows, plan: Plan | None = None) -> dict[int, str]:
    """What one meter is told about its batches of these windows, sent once all are over."""
    plan = plan or grid.plan
    now = float((END + 5) * grid.plan.window_s)
    ciphertext = grid.ciphertext("a0")
    for window in windows:
        payload = grid.forged("a0", ciphertext=ciphertext, window=window, plan=plan.plan_id)
        grid.deliver("a0", payload, now)
    receipt = grid.receipts(grid.engine.commit(now))["a0"]
    return dict(receipt.refused) | dict.fromkeys(receipt.committed, "")


def test_repro_batches_of_an_old_plan_for_windows_of_the_new_one_are_refused(grid) -> None:
    learn(grid, later_plan(grid))
    windows = range(WINDOW, END + 2)
    assert answers(grid, windows) == {WINDOW: "", END - 1: "", END: "after_plan", END + 1: "after_plan"}
    assert answers(grid, windows, later_plan(grid)) == {
        WINDOW: "before_plan",
        END - 1: "before_plan",
        END: "",
        END + 1: "",
    }
    grid.start()  # known again after a restart
    assert answers(grid, [END - 1, END]) == {END - 1: "", END: "after_plan"}


@pytest.mark.parametrize("window_s", [1_800, 7_200])
def test_a_plan_of_other_windows_ends_the_old_one_at_its_moment(grid, window_s: int) -> None:
    first = END * grid.plan.window_s // window_s
    learn(grid, later_plan(grid, window_s=window_s, interval_s=window_s // 4, first_window=first))
    assert answers(grid, [END - 1, END]) == {END - 1: "", END: "after_plan"}


def test_the_old_plans_window_that_a_start_would_cut_is_no_window_of_either(grid) -> None:
    halves = later_plan(grid, window_s=1_800, interval_s=900, first_window=2 * END + 1)
    learn(grid, halves)
    assert answers(grid, [END - 1, END]) == {END - 1: "", END: "after_plan"}


def test_the_roster_ends_a_plan_even_where_the_later_bundle_never_came(grid) -> None:
    own = RosterPlan(grid.plan.plan_id, grid.plan.start_s)
    later = RosterPlan(later_plan(grid).plan_id, later_plan(grid).start_s)
    hear_roster(grid, own)
    assert answers(grid, [END]) == {END: ""}
    assert grid.engine.snapshot(grid.now).missing_plans == ()
    hear_roster(grid, own, later)
    assert answers(grid, [END + 1]) == {END + 1: "after_plan"}
    assert grid.engine.snapshot(grid.now).missing_plans == (later.plan_id,)
    grid.start()
    assert grid.engine.snapshot(grid.now).missing_plans == (later.plan_id,)
    learn(grid, later_plan(grid))
    assert grid.engine.snapshot(grid.now).missing_plans == ()


def test_repro_batches_of_a_retired_plan_are_refused_for_good(grid) -> None:
    learn(grid, later_plan(grid))
    own = RosterPlan(grid.plan.plan_id, grid.plan.start_s, retired=True)
    hear_roster(grid, own, RosterPlan(later_plan(grid).plan_id, later_plan(grid).start_s))
    assert answers(grid, [WINDOW]) == {WINDOW: "retired"}
    grid.start()
    assert answers(grid, [WINDOW]) == {WINDOW: "retired"}
    assert answers(grid, [END], later_plan(grid)) == {END: ""}


def test_a_bundle_that_is_newer_than_the_roster_is_not_taken_for_retired(grid) -> None:
    hear_roster(grid, RosterPlan(grid.plan.plan_id, grid.plan.start_s))
    learn(grid, later_plan(grid))
    assert answers(grid, [END], later_plan(grid)) == {END: ""}
