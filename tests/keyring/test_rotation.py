"""A new plan starts after all that is counted, and an old key goes once nothing needs it."""

from collections.abc import Callable
from typing import Any

import pytest

from gridhe.config.settings import ReleaseSettings
from gridhe.errors import ConfigError, PlanError
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.releaser import Releaser
from gridhe.wire.roster import Roster
from gridhe.wire.total import open_total

HOUR_S = 3_600
NOW_S = 1_000 * HOUR_S + 120.0  # window 1000 is open


def roster_of(small_authority: Any) -> Roster:
    authority = small_authority.authority
    return Roster.decode(authority.roster(), authority.verify_key)


def receive(small_authority: Any, payload: bytes) -> None:
    inbox = Inbox(small_authority.authority.paths.inbox)
    inbox.store([(open_total(payload, len(payload)).header, payload)], "2026-01-01T00:00:00.000Z")
    inbox.close()


def release(small_authority: Any, payload: bytes) -> None:
    authority = small_authority.authority
    with Releaser(
        authority.paths,
        plans=authority.paths.read_plans(),
        secrets=lambda: authority.vault.secrets,
        enrolment=authority.enrolment,
        settings=ReleaseSettings(),
        now=lambda: "2026-01-01T00:00:00.000Z",
    ) as releaser:
        releaser.release(open_total(payload, len(payload)))


def test_rotation_adds_a_later_plan_keeps_the_old_key_and_says_so_in_the_roster(small_authority: Any) -> None:
    authority, settings = small_authority.authority, small_authority.settings
    old, version = authority.bundle().plan, roster_of(small_authority).version
    new = authority.rotate(settings, 1_001, now_s=NOW_S).plan
    assert new.key_id != old.key_id
    assert list(authority.paths.read_plans().values()) == [old, new]
    assert set(authority.vault.secrets.contexts) == {old.key_id, new.key_id}
    roster = roster_of(small_authority)
    assert roster.version > version
    assert [(plan.plan_id, plan.start_s, plan.retired) for plan in roster.plans] == [
        (old.plan_id, 0, False),
        (new.plan_id, 1_001 * HOUR_S, False),
    ]


@pytest.mark.parametrize("window", [0, 3, 999, 1_000])
def test_repro_rotation_into_the_past_or_an_open_window_is_refused(small_authority: Any, window: int) -> None:
    with pytest.raises(PlanError, match=r"--first-window 1001 \(1970-02-11T17:00:00Z\)"):
        small_authority.authority.rotate(small_authority.settings, window, now_s=NOW_S)
    assert len(small_authority.authority.paths.read_plans()) == 1
    small_authority.authority.rotate(small_authority.settings, 1_001, now_s=NOW_S)
    with pytest.raises(PlanError, match="must be after that of plan"):
        small_authority.authority.rotate(small_authority.settings, 1_001, now_s=NOW_S)


def test_without_a_first_window_there_is_time_to_publish_the_plan(small_authority: Any) -> None:
    authority, settings = small_authority.authority, small_authority.settings
    soon_s = 1_001 * HOUR_S - 600.0
    assert authority.rotate(settings, now_s=soon_s).plan.first_window == 1_002
    # The plan before it is to hold for a window at least.
    assert authority.rotate(settings, now_s=soon_s).plan.first_window == 1_003


@pytest.mark.parametrize("step", [receive, release])
def test_repro_rotation_into_a_window_that_arrived_or_was_released_is_refused(
    small_authority: Any, step: Callable[[Any, bytes], None]
) -> None:
    """Whatever our own clock says: here it is a week behind."""
    step(small_authority, small_authority.total("north/f1", window=1_168))
    with pytest.raises(PlanError, match=r"already counted.*--first-window 1169 "):
        small_authority.authority.rotate(small_authority.settings, 1_168, now_s=NOW_S)
    assert small_authority.authority.rotate(small_authority.settings, now_s=NOW_S).plan.first_window == 1_169


def test_a_plan_with_other_windows_starts_where_both_meet(small_authority: Any) -> None:
    authority, settings = small_authority.authority, small_authority.settings

    def of(window_s: int) -> Any:
        plan = settings.plan.model_copy(update={"window_s": window_s, "interval_s": 900})
        return settings.model_copy(update={"plan": plan})

    with pytest.raises(PlanError, match=r"divides a window.*--first-window 2004 "):
        authority.rotate(of(1_800), 2_003, now_s=NOW_S)
    assert authority.rotate(of(1_800), 2_004, now_s=NOW_S).plan.window_s == 1_800
    with pytest.raises(PlanError, match=r"divides a window.*--first-window 804 "):
        authority.rotate(of(4_500), 803, now_s=NOW_S)  # 4500 and 1800 meet every 9000 s
    assert authority.rotate(of(4_500), 804, now_s=NOW_S).plan.start_s == 804 * 4_500


def test_a_key_goes_when_nothing_of_it_can_still_come(small_authority: Any) -> None:
    authority, settings = small_authority.authority, small_authority.settings
    old = authority.bundle().plan
    new = authority.rotate(settings, 1_001, now_s=NOW_S).plan
    later_s = 1_001 * HOUR_S + old.horizon_s + old.grace_s + old.late_s
    with pytest.raises(ConfigError, match="rotate first"):
        authority.retire(new.key_id, now_s=later_s)
    with pytest.raises(ConfigError, match="no key"):
        authority.retire("k" + "0" * 16, now_s=later_s)
    with pytest.raises(ConfigError, match=r"ends at 1970-02-11T17:00:00Z; retire it then"):
        authority.retire(old.key_id, now_s=NOW_S, give_up=True)
    with pytest.raises(ConfigError, match=r"batches under it may arrive until 1971-.*add --give-up"):
        authority.retire(old.key_id, now_s=later_s - 1)
    receive(small_authority, small_authority.total("north/f1", window=900, plan=old.plan_id))
    with pytest.raises(ConfigError, match=r"needed: totals under it wait to be released \(1\)"):
        authority.retire(old.key_id, now_s=later_s)
    assert set(authority.vault.secrets.contexts) == {old.key_id, new.key_id}
    version = roster_of(small_authority).version
    authority.retire(old.key_id, now_s=later_s, give_up=True)
    roster = roster_of(small_authority)
    assert roster.version > version
    assert [(plan.plan_id, plan.retired) for plan in roster.plans] == [
        (old.plan_id, True),
        (new.plan_id, False),
    ]
    again = AuthorityHome.open(small_authority.home, small_authority.passphrase.encode())
    assert set(again.vault.secrets.contexts) == {new.key_id}
    again.close()


def test_retiring_again_after_a_crash_tells_the_aggregators(small_authority: Any) -> None:
    authority = small_authority.authority
    old = authority.bundle().plan
    authority.rotate(small_authority.settings, 1_001, now_s=NOW_S)
    authority.vault.save(authority.vault.secrets.without_context(old.key_id))  # and no more than that
    version = roster_of(small_authority).version
    with pytest.raises(ConfigError, match="retired already"):
        authority.retire(old.key_id, now_s=NOW_S)
    assert roster_of(small_authority).version > version


def test_a_plan_that_another_process_has_just_made_is_not_taken_for_retired(small_authority: Any) -> None:
    other = AuthorityHome.open(small_authority.home, small_authority.passphrase.encode())
    other.rotate(small_authority.settings, 1_001, now_s=NOW_S)
    other.close()
    assert [plan.retired for plan in roster_of(small_authority).plans] == [False, False]
