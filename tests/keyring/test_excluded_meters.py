"""A meter that is excluded: enrolled as before, and left out of the roster until it is resumed."""

from typing import Any

import pytest

from gridhe.keyring.home.enrolment import Enrolment
from gridhe.wire.roster import Roster


@pytest.fixture
def enrolled(small_authority: Any) -> Any:
    small_authority.authority.enrol_meters(
        [(name, "north/f1") for name in ("anna", "bert", "carl")], small_authority.settings
    )
    return small_authority


def roster(small_authority: Any) -> Roster:
    authority = small_authority.authority
    return Roster.decode(authority.roster(), authority.verify_key)


def test_an_excluded_meter_is_a_former_one_on_the_roster_and_keeps_its_place(enrolled: Any) -> None:
    enrolment = enrolled.authority.enrolment
    before, version = enrolment.group_meters("north/f1", enrolment.version), enrolment.version
    assert enrolment.exclude({"bert"}, returned={})
    assert enrolment.version == version + 1
    assert [entry.meter for entry in roster(enrolled).entries] == ["anna", "carl"]
    assert [place.meter for place in roster(enrolled).former] == ["bert"]
    # Bitmaps of parts that hold its batch refer to the same list as before.
    assert enrolment.group_meters("north/f1", enrolment.version) == before == ["anna", "bert", "carl"]
    assert [meter.name for meter in enrolment.meters()] == before


def test_an_exclusion_that_is_there_already_leaves_the_version(enrolled: Any) -> None:
    enrolment = enrolled.authority.enrolment
    enrolment.exclude({"bert"}, returned={})
    version = enrolment.version
    assert not enrolment.exclude({"bert"}, returned={})
    assert enrolment.version == version


def test_a_meter_returns_from_the_time_of_its_return_on(enrolled: Any) -> None:
    enrolment = enrolled.authority.enrolment
    enrolment.exclude({"bert", "anna"}, returned={})
    assert enrolment.exclude({"anna"}, returned={"bert": 7_200})
    assert {entry.meter: entry.from_s for entry in roster(enrolled).entries} == {"bert": 7_200, "carl": 0}
    assert [place.meter for place in roster(enrolled).former] == ["anna"]
    enrolment.exclude((), returned={"anna": 3_600})
    enrolment.exclude({"bert"}, returned={})
    enrolment.exclude((), returned={"bert": 10})  # never earlier than before
    assert {entry.meter: entry.from_s for entry in roster(enrolled).entries} == {
        "anna": 3_600,
        "bert": 7_200,
        "carl": 0,
    }


def test_enrolling_moving_and_revoking_do_not_include_an_excluded_meter(enrolled: Any) -> None:
    authority, settings = enrolled.authority, enrolled.settings
    authority.enrolment.exclude({"bert"}, returned={})
    for change in (
        lambda: authority.enrol_meters([("bert", "north/f1")], settings, renew=True),
        lambda: authority.enrol_meters([("bert", "north/f2")], settings, move=True),
        lambda: authority.revoke(["bert"], settings),
        lambda: authority.enrol_meters([("bert", "north/f1")], settings),
    ):
        change()
        assert [entry.meter for entry in roster(enrolled).entries] == ["anna", "carl"]
    assert authority.enrolment.excluded() == {"bert"}


def test_an_excluded_meter_may_still_publish_so_that_it_is_told_why_it_does_not_count(enrolled: Any) -> None:
    authority = enrolled.authority
    authority.enrolment.exclude({"bert"}, returned={})
    authority.write_broker_files(enrolled.settings.broker)
    assert "batch/north/f1/bert" in (authority.paths.broker / "acl").read_text()


def test_names_to_resume_wait_in_the_enrolment(enrolled: Any) -> None:
    path = enrolled.authority.paths.enrolment
    other = Enrolment(path)
    version = other.version
    other.ask_resume(["bert", "agg1"])
    other.ask_resume(["bert"])
    other.close()
    enrolment = enrolled.authority.enrolment
    assert enrolment.resumes() == ["agg1", "bert"]
    enrolment.forget_resumes(["agg1"])
    assert enrolment.resumes() == ["bert"]
    assert enrolment.version == version
