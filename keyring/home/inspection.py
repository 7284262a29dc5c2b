"""`gridhe-keyring inspect`: the contents of a home and a check of its ledger, without the passphrase."""

from collections import Counter, deque
from typing import Any

from gridhe.base.times import iso
from gridhe.keyring.home.enrolment import Enrolment
from gridhe.keyring.home.paths import HomePaths
from gridhe.keyring.home.vault import check_private_dir
from gridhe.keyring.release.answers import Answers
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.ledger import Head, LedgerRecord, verify_ledger
from gridhe.keyring.release.stops import FAILURES_OF_KEY, Stops
from gridhe.wire.signing import authority_id

__all__ = ["inspect_home", "lines_of"]

_ALARMS = 10  # the newest failed totals that are shown


def inspect_home(paths: HomePaths) -> dict[str, Any]:
    """Everything that is not secret. Raises StateError (ledger broken, no home), BundleError, VaultError."""
    verify_key = paths.read_verify_key()
    check_private_dir(paths.home)
    counts: Counter[str] = Counter()
    used: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    stops, failed = Stops(), deque[LedgerRecord](maxlen=_ALARMS)

    def count(record: LedgerRecord) -> None:
        counts[record["kind"]] += 1
        stops.record(record)
        if record["kind"] == "decided":
            used[record["key"]] += 1
        elif record["kind"] == "refused":
            rules[record["rule"]] += 1
        elif record["kind"] == "dropped":
            dropped.update(record["reasons"])
        elif record["kind"] == "unsound":
            failed.append(record)

    heads: dict[str, Head] = {}
    if paths.answers.exists():
        answers = Answers(paths.answers)
        heads[paths.answers.name] = answers.head()
        answers.close()
    if paths.inbox.exists():
        inbox = Inbox(paths.inbox)
        heads[paths.inbox.name] = inbox.head()
        inbox.close()
    head = verify_ledger(paths.ledger, on_record=count, heads=heads)
    return {
        "home": str(paths.home),
        "authority": authority_id(verify_key),
        "plans": [
            {
                "plan": plan_id,
                "key": bundle.plan.key_id,
                "first_window": bundle.plan.first_window,
                "from": iso(bundle.plan.window_start_s(bundle.plan.first_window)),
                "ring": str(bundle.plan.parameters),
                "largest_rollup": bundle.plan.largest_rollup,
                "minimum_meters": bundle.plan.minimum_meters,
                "guard_bits": bundle.plan.guard_bits,
                "decryptions_used": used[bundle.plan.key_id],
                "decryptions": bundle.plan.decryptions,
                "failed_totals": stops.failures.get(bundle.plan.key_id, 0),
            }
            for plan_id, (bundle, _) in paths.read_bundles().items()
        ],
        **_enrolled(paths),
        "stopped": {
            "aggregators": sorted(stops.aggregators),
            "groups": sorted(stops.groups),
            "keys": stops.stopped_keys(),
            "meters": sorted(stops.excluded),
        },
        # Meters that are in all failed totals of their group without another suspect.
        "in_all_failed": {
            group: {"totals": count, "meters": sorted(meters)}
            for group, (count, meters) in sorted(stops.common.items())
            if count > 1 and len(meters) <= _ALARMS
        },
        "alarms": [_alarm(record) for record in failed],
        "inbox": _inbox(paths),
        "ledger": {
            "records": head.count,
            "head": head.hash,
            "kinds": dict(sorted(counts.items())),
            "refusals": dict(sorted(rules.items())),
            "dropped": dict(sorted(dropped.items())),
        },
    }


def _alarm(record: LedgerRecord) -> dict[str, Any]:
    names = ("at", "group", "window", "part", "aggregator", "check", "suspects", "excluded")
    return {name: record[name] for name in names}


def _enrolled(paths: HomePaths) -> dict[str, Any]:
    enrolment = Enrolment(paths.enrolment)
    try:
        meters, aggregators = enrolment.meters(revoked=True), enrolment.aggregators(revoked=True)
        return {
            "roster_version": enrolment.version,
            "groups": dict(sorted(Counter(m.group for m in meters if not m.revoked).items())),
            "meters": sum(not meter.revoked for meter in meters),
            "revoked": [
                *(each.name for each in meters if each.revoked),
                *(each.name for each in aggregators if each.revoked),
            ],
            "aggregators": [each.name for each in aggregators if not each.revoked],
        }
    finally:
        enrolment.close()


def _inbox(paths: HomePaths) -> dict[str, Any]:
    if not paths.inbox.exists():
        return {"waiting": 0, "released": 0, "refused": []}
    inbox = Inbox(paths.inbox)
    try:
        totals = inbox.totals(states=("waiting", "released", "refused"))
    finally:
        inbox.close()
    states = Counter(stored.state for stored in totals)
    return {
        "waiting": states["waiting"],
        "released": states["released"],
        "refused": [
            {
                "group": each.group,
                "window": each.window,
                "part": each.part,
                "rule": each.rule,
                "message": each.message,
            }
            for each in totals
            if each.state == "refused"
        ],
    }


def lines_of(inspection: dict[str, Any]) -> list[str]:
    """The result of `inspect_home` as lines of text."""
    lines = [f"authority   {inspection['authority']}  in {inspection['home']}"]
    for plan in inspection["plans"]:
        lines.append(
            f"plan        {plan['plan']}  from window {plan['first_window']} ({plan['from']}), "
            f"{plan['ring']}, up to {plan['largest_rollup']} meters, at least {plan['minimum_meters']}, "
            f"guards of {plan['guard_bits']} bits"
        )
        lines.append(
            f"  key       {plan['key']}  {plan['decryptions_used']} of {plan['decryptions']} decryptions "
            f"used, {plan['failed_totals']} of {FAILURES_OF_KEY} totals failed"
        )
    groups = ", ".join(f"{group} {count}" for group, count in inspection["groups"].items())
    lines.append(f"meters      {inspection['meters']}" + (f"  ({groups})" if groups else ""))
    lines.append(f"aggregators {', '.join(inspection['aggregators']) or 'none'}")
    if inspection["revoked"]:
        lines.append(f"revoked     {', '.join(inspection['revoked'])}")
    for kind, names in inspection["stopped"].items():
        if names:
            how = {"keys": "stopped, rotate", "meters": "excluded"}.get(kind, "suspended")
            lines.append(f"STOPPED     {kind} {how}: {', '.join(names)}")
    for group, each in inspection["in_all_failed"].items():
        lines.append(
            f"SUSPECT     in all {each['totals']} failed totals of {group}: {', '.join(each['meters'])}"
        )
    for each in inspection["alarms"]:
        suspects = ", ".join(f"{meter} of {group}: {fault}" for meter, group, fault in each["suspects"])
        lines.append(
            f"ALARM       {each['at']}  {each['group']} window {each['window']} part {each['part']} of "
            f"aggregator {each['aggregator']} failed ({each['check']}); suspects: {suspects or 'none named'}"
        )
    inbox, ledger = inspection["inbox"], inspection["ledger"]
    lines.append(
        f"inbox       {inbox['waiting']} waiting, {inbox['released']} released, "
        f"{len(inbox['refused'])} refused"
    )
    lines += [f"  refused   {each['message']}" for each in inbox["refused"]]
    kinds = ", ".join(f"{count} {kind}" for kind, count in ledger["kinds"].items())
    lines.append(f"ledger      whole: {ledger['records']} records" + (f" ({kinds})" if kinds else ""))
    if ledger["dropped"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in ledger["dropped"].items())
        lines.append(f"  dropped   totals that were not stored: {reasons}")
    return lines
