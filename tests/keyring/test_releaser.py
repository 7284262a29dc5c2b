"""Releasing real totals, and crashing at every step of it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridhe.config.settings import ReleaseSettings
from gridhe.errors import ReleaseRefused, StateError
from gridhe.keyring.release import releaser as module
from gridhe.keyring.release.answers import Answer, Answers
from gridhe.keyring.release.ledger import Ledger, verify_ledger
from gridhe.keyring.release.releaser import Releaser
from gridhe.plan.slots import MISSING
from gridhe.wire.credential import load_aggregator
from gridhe.wire.signing import SigningKey
from gridhe.wire.total import TotalKey, open_total

Open = Callable[..., Releaser]


@pytest.fixture
def open_releaser(small_authority: Any) -> Open:
    authority = small_authority.authority

    def opened(minimum_meters: int | None = None) -> Releaser:
        return Releaser(
            authority.paths,
            plans={plan_id: bundle.plan for plan_id, (bundle, _) in authority.paths.read_bundles().items()},
            secrets=lambda: authority.vault.secrets,
            enrolment=authority.enrolment,
            settings=ReleaseSettings(minimum_meters=minimum_meters),
            now=lambda: "2026-01-01T00:00:00.000Z",
        )

    return opened


def release(releaser: Releaser, payload: bytes) -> Answer:
    return releaser.release(open_total(payload, len(payload)))[2]


def refusal(releaser: Releaser, payload: bytes) -> str:
    with pytest.raises(ReleaseRefused) as caught:
        release(releaser, payload)
    return caught.value.rule


def numbers(answer: Answer) -> list[int]:
    return [value for kinds in answer.blocks.values() for values in kinds.values() for value in values]


def kinds(home: Path) -> list[str]:
    found: list[str] = []
    verify_ledger(home / "ledger.jsonl", on_record=lambda record: found.append(record["kind"]))
    return found


def enrol_again(small_authority: Any) -> SigningKey:
    """The aggregator's new signing key."""
    path = small_authority.authority.enrol_aggregator(small_authority.aggregator, small_authority.settings)
    return SigningKey.from_private_bytes(load_aggregator(path).signing_key)


def test_repro_what_arrived_before_its_aggregator_was_enrolled_again_is_released(
    small_authority: Any, open_releaser: Open
) -> None:
    before = small_authority.total("north/f1")
    content = {"ciphertext": open_total(before, len(before)).ciphertext}
    again, late = (
        small_authority.total("north/f1", **content, key=enrol_again(small_authority)) for _ in range(2)
    )
    with open_releaser() as releaser:
        answer = release(releaser, before)
        # Its receipt was lost, and the aggregator has signed it anew: it is the same total.
        assert release(releaser, again) == answer
        assert release(releaser, late) == answer
        assert refusal(releaser, small_authority.total("north/f2", key=SigningKey.generate())) == "signature"
    assert kinds(small_authority.home).count("decided") == 1


def test_what_a_revoked_aggregator_has_signed_stays_refused_when_it_is_enrolled_again(
    small_authority: Any, open_releaser: Open
) -> None:
    before = small_authority.total("north/f1")
    enrol_again(small_authority)
    small_authority.authority.revoke([small_authority.aggregator], small_authority.settings)
    enrol_again(small_authority)
    with open_releaser() as releaser:
        assert refusal(releaser, before) == "signature"


def test_a_total_is_released_as_its_integers(small_authority: Any, open_releaser: Open) -> None:
    payload = small_authority.total("north/f1")
    with open_releaser() as releaser:
        answer = release(releaser, payload)
    assert numbers(answer) == small_authority.sums["north/f1", 100, 0].tolist()
    assert kinds(small_authority.home) == ["decided", "answered"]


def test_the_same_request_gets_the_stored_answer_without_a_decryption(
    small_authority: Any, open_releaser: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = small_authority.total("north/f1")
    with open_releaser() as releaser:
        first = release(releaser, payload)

    def never(*_: object) -> None:
        raise AssertionError("decrypted twice")

    monkeypatch.setattr(module.Opener, "open", never)
    with open_releaser() as releaser:
        assert release(releaser, payload) == first
        assert releaser.policy.used(small_authority.plan.key_id) == 1
        assert releaser.again(TotalKey(small_authority.plan.plan_id, "north/f1", 100, 0))[2] == first
    assert kinds(small_authority.home) == ["decided", "answered"]


def test_a_total_of_a_stranger_is_refused_and_noted(small_authority: Any, open_releaser: Open) -> None:
    from gridhe.wire.signing import SigningKey

    with open_releaser() as releaser:
        assert refusal(releaser, small_authority.total("f1", aggregator="agg9")) == "signature"
        assert refusal(releaser, small_authority.total("f1", key=SigningKey.generate())) == "signature"
        assert refusal(releaser, small_authority.total("f1", key=SigningKey.generate())) == "signature"
    assert kinds(small_authority.home) == ["refused", "refused"]


def test_a_refusal_is_noted_once_however_often_it_is_asked_for(
    small_authority: Any, open_releaser: Open
) -> None:
    payload = small_authority.total("north/f1", {"north/f1": 3})
    for _ in range(2):
        with open_releaser() as releaser:
            assert refusal(releaser, payload) == "minimum"
            assert refusal(releaser, payload) == "minimum"
    assert kinds(small_authority.home) == ["refused"]


def test_each_rule_on_real_totals(small_authority: Any, open_releaser: Open) -> None:
    make = small_authority.total
    with open_releaser() as releaser:
        assert refusal(releaser, make("f1", plan="p" + "0" * 16)) == "plan"
        assert refusal(releaser, make("f1", {"f1": 101})) == "capacity"
        release(releaser, make("north/f1", {"north/f1": 25}))
        assert refusal(releaser, make("north/f1", {"north/f1": 25})) == "changed_content"  # encrypted anew
        assert refusal(releaser, make("north", {"north/f1": 25, "north/f2": 3})) == "isolates"
        assert refusal(releaser, make("south", {"north/f1": 25})) == "pieces"
    with open_releaser(minimum_meters=7) as releaser:
        assert refusal(releaser, make("south/f1", {"south/f1": 6})) == "minimum"


def test_a_retired_key_refuses_what_is_new_and_repeats_what_was_given(
    small_authority: Any, open_releaser: Open
) -> None:
    payload, later = small_authority.total("north/f1"), small_authority.total("north/f2")
    key_id = small_authority.plan.key_id
    with open_releaser() as releaser:
        first = release(releaser, payload)
    small_authority.authority.rotate(small_authority.settings, 1000, now_s=0.0)
    small_authority.authority.retire(key_id, now_s=1e9)
    with open_releaser() as releaser:
        assert release(releaser, payload) == first
        assert refusal(releaser, later) == "key"


def test_repro_two_plans_over_one_window_give_out_no_household(
    small_authority: Any, open_releaser: Open
) -> None:
    """Six meters under the old plan, the same and one more under the new one: the difference is one."""
    authority = small_authority.authority
    old = small_authority.plan
    rows = small_authority.readings(7)
    six = small_authority.total("north/f1", {"north/f1": 6}, rows=rows[:6], window=1_000)
    authority.rotate(small_authority.settings, 1_000, now_s=0.0)
    small_authority._context = None
    seven = small_authority.total("north/f1", {"north/f1": 7}, rows=rows, window=1_000)
    before = small_authority.total("north/f1", plan=old.plan_id, window=1_000)  # names the new key: no matter
    with open_releaser() as releaser:
        assert refusal(releaser, six) == "after_plan"
        assert refusal(releaser, before) == "after_plan"
        release(releaser, seven)
        assert refusal(releaser, six) == "after_plan"


def test_repro_a_plan_over_a_window_that_was_released_gives_out_no_household(
    small_authority: Any, open_releaser: Open
) -> None:
    """As in a home in which an earlier version rotated into the past."""
    from gridhe.plan.planner import choose

    authority, settings = small_authority.authority, small_authority.settings
    six = small_authority.total("north/f1", {"north/f1": 6}, window=1_000)
    with open_releaser() as releaser:
        first = release(releaser, six)
    halves = settings.plan.model_copy(update={"window_s": 1_800})
    halves = settings.model_copy(update={"plan": halves})
    authority._add_plan(halves, choose(halves), 2_000)
    small_authority._context = None
    inside = [small_authority.total("north/f1", {"north/f1": 7}, window=window) for window in (2_000, 2_001)]
    beyond = small_authority.total("north/f1", {"north/f1": 7}, window=2_002)
    for _ in range(2):  # the ledger's decisions count as those of this run do
        with open_releaser() as releaser:
            assert [refusal(releaser, total) for total in inside] == ["two_plans", "two_plans"]
            release(releaser, beyond)
            assert release(releaser, six) == first  # what was given out is given out again


def test_a_ledger_whose_plans_are_gone_is_refused(small_authority: Any, open_releaser: Open) -> None:
    with open_releaser() as releaser:
        release(releaser, small_authority.total("north/f1"))
    old = small_authority.plan
    small_authority.authority.rotate(small_authority.settings, 1_000, now_s=0.0)
    (small_authority.home / "plans" / f"{old.plan_id}.bundle").unlink()
    with pytest.raises(StateError, match=f"plan {old.plan_id}, whose bundle is missing"):
        open_releaser()


def test_a_ciphertext_of_another_key_is_refused_as_unsound_and_stays_refused(
    small_authority: Any, open_releaser: Open
) -> None:
    import tenseal as ts

    plan = small_authority.plan
    other = ts.context(
        ts.SCHEME_TYPE.CKKS,
        plan.parameters.ring_degree,
        coeff_mod_bit_sizes=list(plan.parameters.prime_bits),
        n_threads=1,
    )
    small_authority._context = other
    foreign = small_authority.total("north/f1")
    transparent = small_authority.total("north/f2", ciphertext=bytes(plan.parameters.wire_bytes))
    for _ in range(2):
        with open_releaser() as releaser:
            assert refusal(releaser, foreign) == "unsound"
            assert refusal(releaser, transparent) == "ciphertext"
            assert releaser.policy.used(plan.key_id) == 1
    assert kinds(small_authority.home) == ["decided", "unsound", "refused"]


def test_intervals_with_few_present_meters_are_withheld(small_authority: Any, open_releaser: Open) -> None:
    rows = small_authority.readings(8)
    rows[4:, 1] = MISSING  # four present: too few
    rows[:, 2] = MISSING  # nobody: nothing to hide
    with open_releaser() as releaser:
        answer = release(releaser, small_authority.total("north/f1", {"north/f1": 8}, rows=rows))
    assert answer.withheld["import_wh"] == ("", "isolates", "", "")
    assert answer.blocks["import_wh"]["present"] == (8, 0, 0, 8)
    assert answer.blocks["import_wh"]["reading"][1] == 0  # withheld, not told
    assert answer.blocks["import_wh"]["reading"][0] == rows[:, 0].sum()


def test_intervals_that_would_isolate_against_an_earlier_run_are_withheld(
    small_authority: Any, open_releaser: Open
) -> None:
    one, two = small_authority.readings(8, 1), small_authority.readings(8, 2)
    two[2:, 3] = MISSING  # in the last interval the second feeder has two meters
    with open_releaser() as releaser:
        release(releaser, small_authority.total("north/f1", {"north/f1": 8}, rows=one))
    region = small_authority.total("north", {"north/f1": 8, "north/f2": 8}, rows=np.concatenate((one, two)))
    with open_releaser() as releaser:
        assert release(releaser, region).withheld["import_wh"] == ("", "", "", "isolates")


class Crash(BaseException):
    """The power fails."""


@pytest.mark.parametrize("step", ["before decrypting", "before storing", "before closing", "before giving"])
def test_a_crash_at_any_step_costs_nothing_and_draws_no_second_noise(
    small_authority: Any, open_releaser: Open, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    payload = small_authority.total("north/f1")
    drawn: list[bytes] = []
    real_decrypt, real_store, real_append = module.Opener.open, Answers.store, Ledger.append

    def decrypt(self: Any, *args: Any) -> Any:
        if step == "before decrypting":
            raise Crash
        found = real_decrypt(self, *args)
        drawn.append(found.tobytes())
        return found

    def store(self: Any, *args: Any) -> None:
        if step == "before storing":
            raise Crash
        real_store(self, *args)

    def append(self: Any, kind: str, **fields: Any) -> Any:
        if kind == "answered" and step == "before closing":
            raise Crash
        record = real_append(self, kind, **fields)
        if kind == "answered" and step == "before giving":
            raise Crash
        return record

    with monkeypatch.context() as patched:
        patched.setattr(module.Opener, "open", decrypt)
        patched.setattr(Answers, "store", store)
        patched.setattr(Ledger, "append", append)
        releaser = open_releaser()
        with pytest.raises(Crash):
            release(releaser, payload)
        releaser.close()
    step = ""
    monkeypatch.setattr(module.Opener, "open", decrypt)
    with open_releaser() as releaser:
        answer = release(releaser, payload)
        assert releaser.policy.used(small_authority.plan.key_id) == 1
    assert numbers(answer) == small_authority.sums["north/f1", 100, 0].tolist()
    assert len(set(drawn)) == 1
    assert kinds(small_authority.home) == ["decided", "answered"]


def test_what_was_decided_before_a_crash_counts_for_every_later_decision(
    small_authority: Any, open_releaser: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeder = small_authority.total("north/f1", {"north/f1": 25})

    def crash(self: Any, *_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(module.Opener, "open", crash)
        releaser = open_releaser()
        with pytest.raises(Crash):
            release(releaser, feeder)
        releaser.close()
    with open_releaser() as releaser:
        assert (
            refusal(releaser, small_authority.total("north", {"north/f1": 25, "north/f2": 3})) == "isolates"
        )
        assert refusal(releaser, small_authority.total("north/f1", {"north/f1": 25})) == "changed_content"


def test_a_changed_answer_and_a_lost_one_stop_everything(small_authority: Any, open_releaser: Open) -> None:
    import sqlite3

    payload = small_authority.total("north/f1")
    with open_releaser() as releaser:
        release(releaser, payload)
    db = sqlite3.connect(small_authority.home / "answers.db")
    [(body,)] = db.execute("SELECT body FROM answers").fetchall()
    db.execute("UPDATE answers SET body = ?", (body[:-2] + b"\x01\xa0",))
    db.commit()
    with open_releaser() as releaser, pytest.raises(StateError, match="does not match the ledger"):
        release(releaser, payload)
    db.execute("DELETE FROM answers")
    db.commit()
    db.close()
    with pytest.raises(StateError, match=r"has no answer .* restore a newer copy of answers\.db"):
        open_releaser()


def test_a_ledger_that_lost_its_end_stops_everything(small_authority: Any, open_releaser: Open) -> None:
    with open_releaser() as releaser:
        release(releaser, small_authority.total("north/f1"))
    (small_authority.home / "ledger.jsonl").write_bytes(b"")
    with pytest.raises(StateError, match=r"line 0 is not the line whose hash answers\.db has"):
        open_releaser()


def test_an_answer_without_a_decision_stops_everything(small_authority: Any, open_releaser: Open) -> None:
    import sqlite3

    with open_releaser() as releaser:
        release(releaser, small_authority.total("north/f1"))
    db = sqlite3.connect(small_authority.home / "answers.db")
    db.execute("UPDATE answers SET grp = 'north/f9'")
    db.commit()
    db.close()
    with pytest.raises(StateError, match="has no decision on it"):
        open_releaser()


def test_no_number_but_integers_leaves(
    small_authority: Any, open_releaser: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(0), open_releaser() as releaser:
        answer = release(releaser, small_authority.total("north/f1"))
    assert {type(value) for value in numbers(answer)} == {int}
    assert len(numbers(answer)) == small_authority.plan.layout.used
    [record] = caplog.records
    told = record.__dict__.keys() - logging.makeLogRecord({}).__dict__.keys() - {"message", "asctime"}
    assert told == {"plan", "window", "group", "part", "meters", "expected"}
