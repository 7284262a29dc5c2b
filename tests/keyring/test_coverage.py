"""Coverage: when a leaf group's own total may be opened."""

from typing import Any

import pytest

from gridhe.errors import ReleaseRefused
from gridhe.keyring.release.coverage import check_coverage


@pytest.mark.parametrize(
    ("part", "meters", "enrolled", "share", "fine"),
    [
        (0, 5, 10, 0.5, True),
        (0, 5, 11, 0.5, False),
        (0, 10, 10, 1.0, True),
        (0, 9, 10, 1.0, False),
        (0, 5, 0, 0.5, True),  # all of them were moved or revoked since
        (1, 10, 10, 0.5, False),
        (1, 10, 10, 0.01, False),
        (0, 5, 1_000, 0.0, True),
        (1, 5, 1_000, 0.0, True),
    ],
)
def test_a_leaf_total_needs_its_share_of_the_group(
    part: int, meters: int, enrolled: int, share: float, fine: bool
) -> None:
    def check() -> None:
        check_coverage("north/f1", part, meters=meters, enrolled=enrolled, share=share)

    if fine:
        check()
        return
    with pytest.raises(ReleaseRefused) as caught:
        check()
    assert caught.value.rule == "coverage"


def test_the_enrolment_counts_whom_the_roster_has_for_a_window(small_authority: Any) -> None:
    authority, settings = small_authority.authority, small_authority.settings
    names = ("anna", "bert", "carl", "dora")
    authority.enrol_meters([(name, "north/f1") for name in names], settings)
    authority.enrol_meters([("emil", "north/f1")], settings, from_s=7_200)
    authority.enrol_meters([("fred", "north/f2")], settings)
    enrolment = authority.enrolment
    assert [enrolment.enrolled("north/f1", start_s) for start_s in (0, 7_199, 7_200)] == [4, 4, 5]
    authority.revoke(["anna"], settings)
    authority.enrol_meters([("bert", "north/f2")], settings, move=True, from_s=3_600)
    enrolment.exclude({"carl"}, returned={})
    assert enrolment.enrolled("north/f1", 7_200) == 2
    assert [enrolment.enrolled("north/f2", start_s) for start_s in (0, 3_600)] == [1, 2]
    assert enrolment.enrolled("north/f9", 0) == 0
