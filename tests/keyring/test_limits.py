"""No group outgrows what the plans sum: refused at enrolment and at rotation, with the way out."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gridhe.config.settings import Settings
from gridhe.errors import ConfigError, PlanError
from gridhe.keyring.cli.command import cli
from gridhe.keyring.home.enrolment import read_meters_csv
from gridhe.keyring.home.limits import Limit

SMALL = {"largest_group": 4, "largest_rollup": 6}


def with_plan(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update={"plan": settings.plan.model_copy(update=changes)})


def meters(count: int, group: str, prefix: str = "m") -> list[tuple[str, str]]:
    return [(f"{prefix}{i}", group) for i in range(count)]


@pytest.fixture
def small_settings(small_settings: Settings) -> Settings:
    return with_plan(small_settings, **SMALL)


def test_repro_more_meters_than_the_plan_sums_in_a_group_are_refused_whole(
    small_authority: Any, small_settings: Settings
) -> None:
    authority = small_authority.authority
    with pytest.raises(ConfigError) as refused:
        authority.enrol_meters(meters(5, "north/f1"), small_settings)
    message = str(refused.value)
    assert "north/f1 would have 5 meters" in message
    assert f"plan {small_authority.plan.plan_id} sums at most 4 (plan.largest_group)" in message
    assert "--set plan.largest_group=5" in message
    assert "--from" in message
    with pytest.raises(ConfigError, match=r"--set plan\.largest_group=7 --set plan\.largest_rollup=7 and"):
        authority.enrol_meters(meters(7, "north/f1"), small_settings)
    assert "\n" not in message
    assert authority.enrolment.meters() == []
    assert list(authority.paths.credentials.glob("m*.json")) == []
    authority.enrol_meters(meters(4, "north/f1"), small_settings)
    authority.enrol_meters(meters(4, "north/f1"), small_settings, renew=True)  # safe to repeat
    with pytest.raises(ConfigError, match="north/f1 would have 5 meters"):
        authority.enrol_meters([("anna", "north/f1")], small_settings)


@pytest.mark.parametrize(
    ("groups", "rollup"), [(["north/f1", "north/f2"], "north"), (["north/f1", "south/f1"], "grid")]
)
def test_repro_more_meters_than_a_roll_up_sums_are_refused(
    small_authority: Any, small_settings: Settings, groups: list[str], rollup: str
) -> None:
    authority = small_authority.authority
    authority.enrol_meters(meters(4, groups[0], "a"), small_settings)
    with pytest.raises(ConfigError, match=f"{rollup} would have 7 meters, .* at most 6 .plan"):
        authority.enrol_meters(meters(3, groups[1], "b"), small_settings)
    authority.enrol_meters(meters(2, groups[1], "b"), small_settings)
    assert len(authority.enrolment.meters()) == 6


def test_repro_a_csv_that_fills_a_group_beyond_the_plan_enrols_nobody(
    small_authority: Any, small_settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "meters.csv"
    rows = [*meters(2, "south/f1", "s"), *meters(5, "north/f1")]
    file.write_text(
        "meter,group\n" + "".join(f"{meter},{group}\n" for meter, group in rows), encoding="utf-8"
    )
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(small_authority.passphrase, encoding="utf-8")
    passphrase.chmod(0o600)
    home = ["--home", str(small_authority.home), "--passphrase-file", str(passphrase)]
    result = CliRunner().invoke(cli, ["enrol", *home, "--from-csv", str(file)])
    assert isinstance(result.exception, ConfigError), result.output
    assert len(read_meters_csv(file)) == 7
    assert small_authority.authority.enrolment.meters() == []


def test_a_meter_that_is_revoked_or_moves_gives_its_place_to_another(
    small_authority: Any, small_settings: Settings
) -> None:
    authority = small_authority.authority
    authority.enrol_meters(meters(4, "north/f1"), small_settings)
    authority.revoke(["m0"], small_settings)
    authority.enrol_meters([("anna", "north/f1")], small_settings)
    with pytest.raises(ConfigError, match="north/f1 would have 5"):
        authority.enrol_meters([("m0", "north/f1")], small_settings)  # back, where its place is taken
    authority.enrol_meters([("anna", "north/f2")], small_settings, move=True)
    authority.enrol_meters([("m0", "north/f1")], small_settings)


def test_repro_a_new_plan_sums_at_least_the_meters_that_are_enrolled(
    small_authority: Any, small_settings: Settings
) -> None:
    authority = small_authority.authority
    authority.enrol_meters([*meters(4, "north/f1"), *meters(2, "north/f2", "n")], small_settings)
    keys = set(authority.vault.secrets.contexts)
    for changes, message in (
        (
            {"largest_group": 3},
            "north/f1 has 4 meters, and plan.largest_group is 3; rotate with --set plan.largest_group=4,",
        ),
        ({"largest_group": 4, "largest_rollup": 5}, "has 6 meters, and plan.largest_rollup is 5"),
    ):
        with pytest.raises(PlanError, match=message):
            authority.rotate(with_plan(small_settings, **changes), now_s=0.0)
    assert set(authority.vault.secrets.contexts) == keys
    assert len(authority.paths.read_plans()) == 1
    authority.rotate(small_settings, now_s=0.0)


def test_a_plan_with_larger_limits_takes_more_meters_from_its_first_window_on(
    small_authority: Any, small_settings: Settings
) -> None:
    authority = small_authority.authority
    authority.enrol_meters(meters(4, "north/f1"), small_settings)
    plan = authority.rotate(with_plan(small_settings, largest_group=6), now_s=0.0).plan
    with pytest.raises(ConfigError, match=r"at most 4 \(plan\.largest_group\)"):
        authority.enrol_meters(meters(2, "north/f1", "n"), small_settings)
    with pytest.raises(ConfigError, match=r"at most 4 \(plan\.largest_group\)"):
        authority.enrol_meters(meters(2, "north/f1", "n"), small_settings, from_s=plan.start_s - 1)
    authority.enrol_meters(meters(2, "north/f1", "n"), small_settings, from_s=plan.start_s)
    # The old plan is over by then, and no longer counts.
    authority.revoke(["n0"], small_settings)
    authority.enrol_meters([("anna", "north/f1")], small_settings, now_s=float(plan.start_s))


def test_a_group_that_is_too_large_already_can_be_made_smaller_step_by_step() -> None:
    limit = Limit(plan="p", largest_group=3, largest_rollup=9)
    seven, six = [("a", 0)] * 7, [("a", 0)] * 6
    assert limit.excess(six, before=seven) is None
    assert limit.excess(seven, before=seven) is None
    found = limit.excess(seven, before=six)
    assert found is not None
    assert (found.group, found.meters, found.limit) == ("a", 7, 3)
