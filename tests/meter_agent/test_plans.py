"""The plan book: only the authority's bundles, the latest start wins, and all of it known offline."""

from pathlib import Path
from typing import Any

import pytest

from gridhe.meter_agent.plans import PlanBook
from gridhe.plan.parameters import CkksParameters

DAY_S = 86_400


def test_bundles_are_known_again_after_a_restart(tmp_path: Path, authority: Any) -> None:
    book = PlanBook(tmp_path, authority.signing_key.verify_key)
    assert book.at(5 * DAY_S) is None
    assert book.add(authority.encoded()) == authority.plan
    assert book.add(authority.encoded()) is None
    again = PlanBook(tmp_path, authority.signing_key.verify_key)
    assert again.at(5 * DAY_S) == authority.plan
    assert again.encryptor(authority.plan).plan_id == authority.plan.plan_id


def test_an_old_bundle_sent_again_does_not_bring_its_plan_back(tmp_path: Path, authority: Any) -> None:
    book = PlanBook(tmp_path, authority.signing_key.verify_key)
    later = authority.with_plan(first_window=10)
    book.add(later.encoded())
    book.add(authority.encoded())
    assert book.at(10 * DAY_S) == later.plan
    assert book.at(10 * DAY_S - 1) == authority.plan
    assert book.next_start_s(5 * DAY_S) == 10 * DAY_S
    assert book.latest == later.plan


def test_junk_and_other_authorities_bundles_are_counted_and_change_nothing(
    tmp_path: Path, authority: Any, authority_of: Any
) -> None:
    book = PlanBook(tmp_path, authority.signing_key.verify_key)
    stranger = authority_of(CkksParameters(2048, (40, 14)), 16)
    flipped = bytearray(authority.encoded())
    flipped[len(flipped) // 2] ^= 1
    for data in (b"", b"junk", stranger.encoded(), bytes(flipped)):
        assert book.add(data) is None
    assert (len(book), book.junk) == (0, 4)
    assert list(tmp_path.glob("*.bundle")) == []


def test_a_damaged_cached_bundle_is_left_out_with_a_warning(
    tmp_path: Path, authority: Any, caplog: pytest.LogCaptureFixture
) -> None:
    PlanBook(tmp_path, authority.signing_key.verify_key).add(authority.encoded())
    (path,) = tmp_path.glob("*.bundle")
    path.write_bytes(path.read_bytes()[:-1])
    assert len(PlanBook(tmp_path, authority.signing_key.verify_key)) == 0
    assert "is not used" in caplog.text


def test_only_so_many_plans_and_contexts_are_kept(tmp_path: Path, authority: Any) -> None:
    book = PlanBook(tmp_path, authority.signing_key.verify_key)
    plans = [authority.with_plan(first_window=i) for i in range(18)]
    for made in plans:
        book.add(made.encoded())
    assert len(book) == len(list(tmp_path.glob("*.bundle"))) == 16
    assert book.at(DAY_S) is None
    assert book.at(99 * DAY_S) == plans[-1].plan
    assert len(book._encryptors) == 2
