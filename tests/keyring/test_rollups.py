"""Wider totals: added up out of opened pieces, or decrypted with the guards of all pieces' members."""

import contextlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gridhe.config.settings import ReleaseSettings
from gridhe.errors import ReleaseRefused, StateError
from gridhe.keyring.release.answers import Answer
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.ledger import verify_ledger
from gridhe.keyring.release.opening import Opener, decode_sums, encode_sums
from gridhe.keyring.release.queue import ReleaseOutcome
from gridhe.keyring.release.releaser import Releaser
from gridhe.keyring.release.service import ReleaseService
from gridhe.plan.guards import Guards, GuardSums
from gridhe.plan.slots import MISSING
from gridhe.wire.total import open_total

FEEDERS = {"north/f1": 10, "north/f2": 6}
Open = Callable[[], Releaser]


@pytest.fixture
def open_releaser(small_authority: Any) -> Open:
    authority = small_authority.authority
    return lambda: Releaser(
        authority.paths,
        plans=authority.paths.read_plans(),
        secrets=lambda: authority.vault.secrets,
        enrolment=authority.enrolment,
        settings=ReleaseSettings(coverage=0),
        now=lambda: "2026-01-01T00:00:00.000Z",
    )


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many totals were decrypted, and how many members were proven."""
    counted = {"decrypted": 0, "proven": 0}
    real_open, real_prove = Opener.open, Guards.prove

    def opened(self: Opener, *args: Any) -> NDArray[np.int64]:
        counted["decrypted"] += 1
        return real_open(self, *args)

    def proven(self: Guards, *args: Any) -> Any:
        counted["proven"] += 1
        return real_prove(self, *args)

    monkeypatch.setattr(Opener, "open", opened)
    monkeypatch.setattr(Guards, "prove", proven)
    return counted


def release(releaser: Releaser, payload: bytes) -> Answer:
    return releaser.release(open_total(payload, len(payload)))[2]


def refusal(releaser: Releaser, payload: bytes) -> ReleaseRefused:
    with pytest.raises(ReleaseRefused) as caught:
        release(releaser, payload)
    return caught.value


def numbers(answer: Answer) -> list[int]:
    return [value for kinds in answer.blocks.values() for values in kinds.values() for value in values]


def feeders(small: Any) -> list[bytes]:
    return [
        small.total(group, {group: meters}, rows=small.readings(meters, seed))
        for seed, (group, meters) in enumerate(FEEDERS.items())
    ]


def test_a_total_of_opened_pieces_is_added_up_and_not_decrypted(
    small_authority: Any, open_releaser: Open, work: dict[str, int]
) -> None:
    with open_releaser() as releaser:
        for payload in feeders(small_authority):
            release(releaser, payload)
    assert work == {"decrypted": 2, "proven": 16}
    foreign = small_authority.encrypt(np.ones(small_authority.plan.parameters.slots, np.int64))
    region = small_authority.total("north", FEEDERS, ciphertext=foreign)
    with open_releaser() as releaser:  # after a restart too
        answer = release(releaser, region)
    assert work == {"decrypted": 2, "proven": 16}
    assert numbers(answer) == small_authority.sums["north", 100, 0].tolist()
    assert answer.expected == 16


def test_a_total_with_a_piece_of_withheld_intervals_is_decrypted_with_stored_guard_sums(
    small_authority: Any, open_releaser: Open, work: dict[str, int]
) -> None:
    rows = small_authority.readings(6, 9)
    rows[2:, 1] = MISSING  # two present: withheld in the feeder, and 12 of 16 in the region
    with open_releaser() as releaser:
        release(releaser, small_authority.total("north/f1", {"north/f1": 10}))
        answer = release(releaser, small_authority.total("north/f2", rows=rows))
        assert answer.withheld["import_wh"] == ("", "isolates", "", "")
    region = small_authority.total("north", FEEDERS)
    with open_releaser() as releaser:
        answer = release(releaser, region)
    assert work == {"decrypted": 3, "proven": 16}
    # The region minus the first feeder is the second one: still withheld.
    assert answer.withheld["import_wh"] == ("", "isolates", "", "")
    for kind, values in answer.blocks["import_wh"].items():
        total = small_authority.sums["north", 100, 0][small_authority.plan.layout.block("import_wh", kind)]
        assert [values[i] for i in (0, 2, 3)] == [total[i] for i in (0, 2, 3)]


def test_only_pieces_that_bring_their_list_cost_a_proof(
    small_authority: Any, open_releaser: Open, work: dict[str, int]
) -> None:
    with open_releaser() as releaser:
        for payload in feeders(small_authority):
            release(releaser, payload)
        region = small_authority.total("north", {**FEEDERS, "north/f3": 5})
        answer = release(releaser, region)
        assert work == {"decrypted": 3, "proven": 16 + 5}
        assert numbers(answer) == small_authority.sums["north", 100, 0].tolist()
        grid = small_authority.total("grid", {**FEEDERS, "north/f3": 5, "south/f1": 7})
        assert numbers(release(releaser, grid)) == small_authority.sums["grid", 100, 0].tolist()
        assert work == {"decrypted": 4, "proven": 16 + 5 + 7}  # the list of north/f3 was proven before


def test_repro_damaged_guard_sums_do_not_fail_an_honest_total(
    small_authority: Any, open_releaser: Open
) -> None:
    with open_releaser() as releaser:
        for payload in feeders(small_authority):
            release(releaser, payload)
        path = releaser.answers.path
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for rowid, sums in database.execute("SELECT rowid, sums FROM lists").fetchall():
            database.execute("UPDATE lists SET sums = ? WHERE rowid = ?", (sums[:-1] + b"\x01", rowid))
    with open_releaser() as releaser:
        region = small_authority.total("north", {**FEEDERS, "north/f3": 5})
        assert numbers(release(releaser, region)) == small_authority.sums["north", 100, 0].tolist()


def test_repro_a_wider_total_with_one_batch_more_than_its_lists_is_unsound(
    small_authority: Any, open_releaser: Open
) -> None:
    def one_more(slots: NDArray[np.int64]) -> None:
        batch, _ = small_authority.batches(["stranger"], small_authority.readings(1), 100)
        slots += batch

    with open_releaser() as releaser:
        for payload in feeders(small_authority):
            release(releaser, payload)
        region = small_authority.total("north", {**FEEDERS, "north/f3": 5}, change=one_more)
        assert refusal(releaser, region).rule == "unsound"
        # Its lists are spent, in whatever total they come again.
        again = small_authority.total("grid", {**FEEDERS, "north/f3": 5, "south/f1": 7})
        assert refusal(releaser, again).rule == "members_twice"


def test_a_total_without_its_list_and_one_of_a_newer_roster_are_refused_in_one_line(
    small_authority: Any, open_releaser: Open
) -> None:
    from dataclasses import replace

    from gridhe.wire.total import seal_total

    payload = small_authority.total("north/f1")
    total = open_total(payload, len(payload))
    [piece] = total.header.pieces
    headers = [
        replace(total.header, pieces=(replace(piece, members=None),)),
        replace(total.header, roster=total.header.roster + 1),
    ]
    with open_releaser() as releaser:
        bare, newer = (
            refusal(releaser, seal_total(header, total.ciphertext, small_authority.signing_key))
            for header in headers
        )
        assert (bare.rule, newer.rule) == ("members", "members")
        assert "north/f1 part 0, which was not opened and brings no list" in str(bare)
        assert f"roster version {total.header.roster + 1}, and the authority has" in str(newer)
        assert "\n" not in f"{bare}{newer}"
        release(releaser, payload)


def test_a_former_meter_may_be_a_member(small_authority: Any, open_releaser: Open) -> None:
    small_authority.enrol("north/f1", 7)
    payload = small_authority.total("north/f1", {"north/f1": 7})
    small_authority.authority.enrolment.enrol_meters([("north-f1-003", "south/f1")], move=True)
    small_authority.authority.enrolment.revoke(["north-f1-004"])
    with open_releaser() as releaser:
        answer = release(releaser, payload)
    assert numbers(answer) == small_authority.sums["north/f1", 100, 0].tolist()
    assert answer.expected == 5


def test_repro_a_lie_in_the_bins_withholds_the_interval_with_its_mark(
    small_authority: Any, open_releaser: Open
) -> None:
    layout = small_authority.plan.layout

    def lie(used: NDArray[np.int64]) -> None:
        used[layout.block("import_wh", "bin:0").start + 2] += 1  # in two bins at once

    with open_releaser() as releaser:
        answer = release(releaser, small_authority.total("north/f1", {"north/f1": 10}, lie=lie))
        assert answer.withheld["import_wh"] == ("", "", "inconsistent", "")
        assert {values[2] for values in answer.blocks["import_wh"].values()} == {0}
        region = small_authority.total("north", FEEDERS)
        # It counts as withheld: the region's interval has the lie too, and is withheld in turn.
        release(releaser, small_authority.total("north/f2", rows=small_authority.readings(16)[10:]))
        region = small_authority.total("north", FEEDERS)
        assert release(releaser, region).withheld["import_wh"][2] == "inconsistent"


def test_guard_sums_are_stored_exactly_in_as_few_bytes_as_they_fit(small_authority: Any) -> None:
    plan = small_authority.plan
    for largest, width in ((2**32 - 1, 4), (2**32, 8)):
        guards = np.arange(plan.guards, dtype=np.int64)
        guards[7] = largest
        present = np.arange(plan.intervals, dtype=np.int64)[None]
        sums = GuardSums(meters=70_000, present=present, guards=guards)
        data = encode_sums(sums)
        assert abs(len(data) - width * (plan.guards + plan.intervals)) < 20
        found = decode_sums(data, plan)
        assert found.meters == 70_000
        np.testing.assert_array_equal(found.guards, guards)
        np.testing.assert_array_equal(found.present, present)
        for damaged in (b"", data[:-1], data[:5]):
            with pytest.raises(StateError, match=r"restore answers\.db"):
                decode_sums(damaged, plan)


# -- stored lists ---------------------------------------------------------------------------------


def change(small: Any, statement: str) -> None:
    db = sqlite3.connect(small.home / "answers.db")
    db.execute(statement)
    db.commit()
    db.close()


def test_a_changed_and_a_lost_member_list_stop_the_program(small_authority: Any, open_releaser: Open) -> None:
    with open_releaser() as releaser:
        release(releaser, small_authority.total("north/f1"))
    other = small_authority.total("north/f2")
    change(small_authority, "UPDATE lists SET bitmap = x'3d'")
    with (
        open_releaser() as releaser,
        pytest.raises(StateError, match=r"member list .* does not match the ledger"),
    ):
        release(releaser, other)
    change(small_authority, "DELETE FROM lists")
    with pytest.raises(
        StateError, match=r"no member list of north/f1 window 100 part 0.* newer copy of answers"
    ):
        open_releaser()


def test_a_list_without_a_decision_does_not_count(
    small_authority: Any, open_releaser: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a crash leaves it; then the aggregator's part is refused, and its meters come in another one."""
    from gridhe.keyring.release import releaser as module

    class Crash(BaseException):
        pass

    def crash(name: str) -> None:
        if name == "release.2.listed":
            raise Crash

    payload = small_authority.total("north/f1")
    other = small_authority.total("north/f1", {"north/f1": 8}, rows=small_authority.readings(8, 5))
    with monkeypatch.context() as patched, open_releaser() as releaser:
        patched.setattr(module, "failpoint", crash)
        with pytest.raises(Crash):
            release(releaser, payload)
    kinds: list[str] = []
    with open_releaser() as releaser:
        assert numbers(release(releaser, other)) == small_authority.sums["north/f1", 100, 0].tolist()
    with open_releaser() as releaser:
        assert refusal(releaser, payload).rule == "changed_members"
        assert (
            releaser.register.lists((small_authority.plan.plan_id, 100))["north/f1", 0].names[-1]
            == "north-f1-007"
        )
    verify_ledger(
        small_authority.home / "ledger.jsonl", on_record=lambda record: kinds.append(record["kind"])
    )
    assert kinds == ["decided", "answered", "refused"]


# -- the queue ------------------------------------------------------------------------------------


def arrive(small: Any, *payloads: bytes) -> None:
    inbox = Inbox(small.home / "inbox.db")
    inbox.store([(open_total(payload, len(payload)).header, payload) for payload in payloads], "now")
    inbox.close()


def offline(small: Any, **options: Any) -> tuple[list[tuple[str, int, str]], list[ReleaseOutcome]]:
    seen: list[ReleaseOutcome] = []
    with ReleaseService(small.authority, small.settings, emit=seen.append, **options) as service:
        outcomes = service.offline()
    assert outcomes == seen
    return [(each.stored.group, each.stored.part, each.rule) for each in outcomes], outcomes


def test_narrow_groups_are_released_first_and_each_outcome_has_its_aggregator(small_authority: Any) -> None:
    payloads = feeders(small_authority)
    region = small_authority.total("north", {**FEEDERS, "north/f3": 5})
    grid = small_authority.total("grid", {**FEEDERS, "north/f3": 5, "south": 6})
    arrive(
        small_authority, grid, region, *reversed(payloads), small_authority.total("east/f1", {"east/f1": 4})
    )
    found, outcomes = offline(small_authority)
    assert found == [
        ("east/f1", 0, "minimum"),
        ("north/f1", 0, ""),
        ("north/f2", 0, ""),
        ("north", 0, ""),
        ("grid", 0, ""),
    ]
    assert {outcome.aggregator for outcome in outcomes} == {"agg1"}


def test_asking_for_a_wide_group_releases_the_narrow_ones_and_shows_only_what_was_asked_for(
    small_authority: Any,
) -> None:
    narrow = feeders(small_authority)
    small = [small_authority.total(group, {group: 4}) for group in ("east/f1", "north/f9")]
    arrive(small_authority, small_authority.total("north", FEEDERS), *narrow, *small)
    assert offline(small_authority, groups=["north"])[0] == [("north", 0, "")]
    with closing(Inbox(small_authority.home / "inbox.db")) as inbox:
        assert [each.group for each in inbox.totals()] == ["east/f1"]
        [refused] = inbox.totals(states=("refused",))
        assert (refused.group, refused.rule, refused.message) == ("north/f9", "minimum", "")
    # The others are given by the next run that asks for them.
    assert offline(small_authority, released_too=True)[0] == [
        ("north", 0, ""),
        ("north/f1", 0, ""),
        ("north/f2", 0, ""),
        ("east/f1", 0, "minimum"),
        ("north/f9", 0, "minimum"),
    ]


def test_a_total_that_names_an_unopened_piece_is_refused_and_released_once_the_piece_was_opened(
    small_authority: Any,
) -> None:
    narrow = feeders(small_authority)
    arrive(small_authority, small_authority.total("north", FEEDERS))
    assert offline(small_authority)[0] == [("north", 0, "members")]
    arrive(small_authority, *narrow)
    assert offline(small_authority)[0] == [("north/f1", 0, ""), ("north/f2", 0, ""), ("north", 0, "")]
