"""Checks before a key is made or deleted: the windows that the existing keys have counted.

`gridhe.plan.succession` has the rules. Totals under a deleted key can never be decrypted. So a key may be
deleted only once no batch under it can arrive and no total under it waits, unless the operator gives them up.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from gridhe.base.times import iso
from gridhe.errors import ConfigError
from gridhe.keyring.home.paths import HomePaths
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.ledger import LedgerRecord, verify_ledger
from gridhe.plan.plan import Plan
from gridhe.plan.succession import Succession, last_arrival_s
from gridhe.wire.total import TotalKey

__all__ = ["Counted", "check_retirement", "read_counted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """`until_s`: end of the latest window with an arrived or decided total. `waiting`: totals by plan."""

    until_s: float
    waiting: Mapping[str, int]


def read_counted(paths: HomePaths, plans: Mapping[str, Plan]) -> Counted:
    """Read inbox and ledger for totals of these plans. Raises StateError if one of the files is damaged."""
    newest: dict[str, int] = {}
    waiting: list[TotalKey] = []
    answered: set[TotalKey] = set()  # these need no key, even while they wait to be given out

    def see(plan_id: str, window: int) -> None:
        newest[plan_id] = max(window, newest.get(plan_id, window))

    if paths.inbox.exists():
        inbox = Inbox(paths.inbox)
        try:
            for stored in inbox.totals(states=("waiting", "refused", "released")):
                see(stored.plan, stored.window)
                if stored.state == "waiting":
                    waiting.append(stored.total)
        finally:
            inbox.close()

    def on_record(record: LedgerRecord) -> None:
        if record["kind"] == "decided":
            see(record["plan"], record["window"])
        elif record["kind"] == "answered":
            answered.add(TotalKey(record["plan"], record["group"], record["window"], record["part"]))

    if paths.ledger.exists():
        verify_ledger(paths.ledger, on_record=on_record)
    ends = [(window + 1) * plans[plan_id].window_s for plan_id, window in newest.items() if plan_id in plans]
    unanswered = Counter(total.plan for total in waiting if total not in answered)
    return Counted(until_s=max(ends, default=0), waiting=unanswered)


def check_retirement(
    key_id: str, plans: Mapping[str, Plan], counted: Counted, *, now_s: float, give_up: bool
) -> None:
    """Raise ConfigError unless this key may be deleted; `give_up` allows it while totals need the key."""
    succession = Succession.of(plans.values())
    periods = {p.plan_id: p for p in succession.periods if plans[p.plan_id].key_id == key_id}
    for plan_id, period in periods.items():
        if period is succession.periods[-1]:
            raise ConfigError(f"key {key_id} belongs to the current plan; rotate first")
        if period.end_s > now_s:
            raise ConfigError(
                f"key {key_id} belongs to plan {plan_id}, which ends at {iso(period.end_s)}; retire it then"
            )
    arrivals = [last_arrival_s(plans[plan_id], period.end_s) for plan_id, period in periods.items()]
    waiting = sum(counted.waiting.get(plan_id, 0) for plan_id in periods)
    reasons = []
    if arrivals and max(arrivals) > now_s:
        reasons.append(f"batches under it may arrive until {iso(max(arrivals))}")
    if waiting:
        reasons.append(f"totals under it wait to be released ({waiting})")
    if reasons and not give_up:
        raise ConfigError(
            f"key {key_id} is still needed: {' and '.join(reasons)}. To lose them for ever, add --give-up"
        )
