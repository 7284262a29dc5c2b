"""The authority's home: enrolment, credentials, plans and the broker's files."""

import base64
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from gridhe.config.settings import BrokerSettings, Settings
from gridhe.errors import BundleError, ConfigError, PlanError, StateError, VaultError
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.home.enrolment import derive_password, read_meters_csv
from gridhe.keyring.home.paths import HomePaths
from gridhe.keyring.home.vault import Kdf
from gridhe.wire.bundle import Bundle
from gridhe.wire.credential import load_aggregator, load_device, load_fleet
from gridhe.wire.ingest import derive_key
from gridhe.wire.roster import Roster

CHEAP = Kdf(n=2**14)


def test_a_new_home_has_a_plan_signed_by_its_authority_and_is_closed_to_others(small_authority: Any) -> None:
    authority, home = small_authority.authority, small_authority.home
    [(bundle, data)] = authority.paths.read_bundles().values()
    assert Bundle.decode(data, authority.verify_key) == bundle
    assert bundle.plan.window_s == 3600
    assert list(authority.vault.secrets.contexts) == [bundle.plan.key_id]
    assert home.stat().st_mode & 0o777 == 0o700
    for name in (
        "vault",
        "enrolment.db",
        "broker/passwords",
        "broker/acl",
        "credentials/aggregator-agg1.json",
    ):
        assert (home / name).stat().st_mode & 0o777 == 0o600, name


def test_the_public_key_in_the_bundle_cannot_decrypt(small_authority: Any) -> None:
    import tenseal as ts

    context = ts.context_from(small_authority.authority.bundle().public_key, n_threads=1)
    assert context.has_public_key()
    assert not context.is_private()
    assert not context.has_galois_keys()
    assert not context.has_relin_keys()


def test_a_home_opens_again_with_its_passphrase_only(small_authority: Any) -> None:
    again = AuthorityHome.open(small_authority.home, small_authority.passphrase.encode())
    assert again.vault.secrets == small_authority.authority.vault.secrets
    again.close()
    with pytest.raises(VaultError, match="wrong passphrase"):
        AuthorityHome.open(small_authority.home, b"something else")
    with pytest.raises(StateError, match="not an authority's home"):
        AuthorityHome.open(small_authority.home / "plans", b"x")


def test_a_folder_in_use_is_not_made_a_home(tmp_path: Path, small_settings: Settings) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(StateError, match="not empty"):
        AuthorityHome.init(tmp_path, small_settings, b"correct horse", kdf=CHEAP)


def test_an_impossible_plan_or_an_open_broker_is_refused_before_anything_is_written(
    tmp_path: Path, small_settings: Settings
) -> None:
    huge = small_settings.model_copy(
        update={"plan": small_settings.plan.model_copy(update={"window_s": 31 * 86_400, "interval_s": 1})}
    )
    with pytest.raises(PlanError, match="Nearest"):
        AuthorityHome.init(tmp_path / "a", huge, b"correct horse", kdf=CHEAP)
    far = small_settings.model_copy(update={"broker": BrokerSettings(url="mqtt://broker.example:1883")})
    with pytest.raises(ConfigError, match="clear"):
        AuthorityHome.init(tmp_path / "a", far, b"correct horse", kdf=CHEAP)
    assert not (tmp_path / "a").exists()


def test_a_device_credential_holds_what_a_meter_needs(small_authority: Any) -> None:
    authority, settings = small_authority.authority, small_authority.settings
    [path] = authority.enrol_meters([("anna", "north/f1")], settings, from_s=7200)
    device = load_device(path)
    assert (device.meter, device.group) == ("anna", "north/f1")
    assert device.ingest_key == derive_key(authority.vault.secrets.ingest_secret, "anna")
    assert device.authority_key == authority.verify_key
    assert len(device.password) == 32
    roster = Roster.decode(authority.roster(), authority.verify_key)
    assert [(e.meter, e.group, e.from_s) for e in roster.entries] == [("anna", "north/f1", 7200)]


def test_enrolling_again_gives_the_same_credential_and_renew_another_password(small_authority: Any) -> None:
    authority, settings = small_authority.authority, small_authority.settings

    def enrol(**more: bool) -> Any:
        [path] = authority.enrol_meters([("anna", "north/f1")], settings, **more)
        return load_device(path)

    first = enrol()
    assert enrol() == first
    renewed = enrol(renew=True)
    assert renewed.password != first.password
    assert renewed.ingest_key == first.ingest_key
    assert enrol() == renewed


def test_a_meter_moves_only_with_the_move_option(small_authority: Any) -> None:
    authority, settings = small_authority.authority, small_authority.settings
    authority.enrol_meters([("anna", "north/f1")], settings)
    with pytest.raises(ConfigError, match="--move"):
        authority.enrol_meters([("anna", "north/f2")], settings)
    authority.enrol_meters([("anna", "north/f2")], settings, move=True, from_s=3600)
    assert [(e.group, e.from_s) for e in authority.enrolment.entries()] == [("north/f2", 3600)]


def test_a_refused_enrolment_enrols_nobody(small_authority: Any) -> None:
    authority, settings = small_authority.authority, small_authority.settings
    authority.enrol_meters([("anna", "north/f1")], settings)
    version = authority.enrolment.version
    for wanted, why in (
        ([("bert", "north/f1"), ("Not A Name", "north/f1")], "legal name"),
        ([("bert", "north/f1"), ("bert", "north/f1")], "twice"),
        ([("bert", "north")], "also contains"),
        ([("bert", "north/f1/a")], "also contains"),
        ([("bert", "grid")], "roll-up"),
        ([("agg1", "north/f1")], "aggregator"),
        ([("fleet", "north/f1")], "role"),
        ([], "no meters"),
    ):
        with pytest.raises(ConfigError, match=why):
            authority.enrol_meters(wanted, settings)
    assert [meter.name for meter in authority.enrolment.meters()] == ["anna"]
    assert authority.enrolment.version == version
    with pytest.raises(ConfigError, match="is a meter"):
        authority.enrol_aggregator("anna", settings)


def test_a_revoked_meter_is_in_neither_roster_nor_broker_files_and_comes_back_renewed(
    small_authority: Any,
) -> None:
    authority, settings = small_authority.authority, small_authority.settings
    [path] = authority.enrol_meters([("anna", "north/f1")], settings)
    before = load_device(path).password
    assert authority.revoke(["anna"], settings) == 1
    assert not path.exists()
    assert Roster.decode(authority.roster(), authority.verify_key).entries == ()
    assert "anna" not in (small_authority.home / "broker" / "acl").read_text()
    assert "anna" not in (small_authority.home / "broker" / "passwords").read_text()
    with pytest.raises(ConfigError, match="not enrolled"):
        authority.revoke(["anna"], settings)
    [path] = authority.enrol_meters([("anna", "south")], settings)
    assert load_device(path).password != before


def test_a_new_enrolment_of_an_aggregator_replaces_its_keys(small_authority: Any) -> None:
    authority, settings = small_authority.authority, small_authority.settings
    path = small_authority.home / "credentials" / "aggregator-agg1.json"
    old = load_aggregator(path)
    new = load_aggregator(authority.enrol_aggregator("agg1", settings))
    assert new.signing_key != old.signing_key
    assert new.password != old.password
    assert new.ingest_secret == old.ingest_secret == authority.vault.secrets.ingest_secret
    [enrolled] = authority.enrolment.aggregators()
    assert enrolled.verify_key != small_authority.signing_key.verify_key


def test_the_brokers_files_know_everybody(small_authority: Any) -> None:
    authority, settings = small_authority.authority, small_authority.settings
    authority.enrol_meters([("anna", "north/f1")], settings)
    authority.enrol_meters(
        [("f1", "north/f2"), ("f2", "north/f2")], settings, fleet_file=small_authority.home / "fl"
    )
    folder = small_authority.home / "broker"
    users = {line.split(":")[0] for line in (folder / "passwords").read_text().splitlines()}
    assert users == {"anna", "f1", "f2", "fleet", "aggregator-agg1", "authority", "operator"}
    acl = (folder / "acl").read_text()
    assert "write gridhe/v1/batch/north/f1/anna" in acl
    assert "write gridhe/v1/batch/north/f2/f2" in acl.split("user fleet\n")[1].split("user")[0]
    assert "listener 1883 127.0.0.1" in (folder / "mosquitto.conf").read_text()
    fleet = load_fleet(small_authority.home / "fl")
    assert [device.meter for device in fleet.devices] == ["f1", "f2"]
    assert fleet.password == derive_password(authority.vault.secrets.broker_secret, "fleet", 1)


def test_a_thousand_meters_are_enrolled_in_seconds(small_authority: Any) -> None:
    settings = small_authority.settings
    large = settings.plan.model_copy(update={"largest_group": 1_000, "largest_rollup": 1_000})
    plan = small_authority.authority.rotate(settings.model_copy(update={"plan": large}), now_s=0.0).plan
    start = time.monotonic()
    small_authority.authority.enrol_meters(
        [(f"m{i}", "north/f1") for i in range(1000)],
        settings,
        from_s=plan.start_s,
        fleet_file=small_authority.home / "fleet.json",
    )
    assert time.monotonic() - start < 10
    assert len(load_fleet(small_authority.home / "fleet.json").devices) == 1000


def test_meters_are_read_from_a_csv_with_named_columns(tmp_path: Path) -> None:
    path = tmp_path / "meters.csv"
    path.write_text("group,meter,note\nnorth/f1,anna,x\nsouth, bert ,\n")
    assert read_meters_csv(path) == [("anna", "north/f1"), ("bert", "south")]
    path.write_text("name,place\nanna,north\n")
    with pytest.raises(ConfigError, match="columns meter and group"):
        read_meters_csv(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_meters_csv(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("meter,group,group\nanna,north,south\n", "the column 'group' is there twice"),
        ("meter, meter,group\nanna,bert,south\n", "the column 'meter' is there twice"),
        ("meter,group,note,note\nanna,north,,\n", "the column 'note' is there twice"),
        ("meter,group\nanna,north\nbert,north,south\n", "line 3 has 3 cells, not 2"),
        ("meter,group\nanna\n", "line 2 has 1 cells, not 2"),
        ("meter,group\n\nanna," + "x" * 200_000, "not a CSV file"),
    ],
)
def test_repro_a_csv_of_meters_that_can_be_read_two_ways_is_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "meters.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_meters_csv(path)


def test_repro_a_fleets_password_is_new_when_the_fleet_is_renewed(small_authority: Any) -> None:
    authority, settings, home = small_authority.authority, small_authority.settings, small_authority.home

    def enrol(renew: bool) -> str:
        wanted = [("f1", "north/f2"), ("f2", "north/f2")]
        authority.enrol_meters(wanted, settings, fleet_file=home / "fl", renew=renew)
        return str(load_fleet(home / "fl").password)

    def line() -> str:
        lines = (home / "broker/passwords").read_text().splitlines()
        return next(each for each in lines if each.startswith("fleet:"))

    first = enrol(renew=False)
    assert enrol(renew=False) == first
    renewed = enrol(renew=True)
    assert renewed != first
    assert is_password(line(), renewed)
    assert not is_password(line(), first)
    authority.enrol_meters([("anna", "north/f1")], settings)
    authority.enrol_meters([("anna", "north/f1")], settings, renew=True)
    assert is_password(line(), renewed)  # a device's own password is not the fleet's
    again = AuthorityHome.open(home, small_authority.passphrase.encode())
    assert again.broker_users() == authority.broker_users()
    again.write_broker_files(settings.broker)
    again.close()
    assert is_password(line(), renewed)


def is_password(line: str, password: str) -> bool:
    """Whether a line of Mosquitto's password file lets this password in."""
    _, _, rounds, salt, digest = line.split(":")[1].split("$")
    made = hashlib.pbkdf2_hmac("sha512", password.encode(), base64.b64decode(salt), int(rounds))
    return made == base64.b64decode(digest)


def test_a_plan_file_of_another_authority_is_refused(small_authority: Any, tmp_path: Path) -> None:
    other = AuthorityHome.init(tmp_path / "other", small_authority.settings, b"correct horse", kdf=CHEAP)
    [path] = other.paths.plans.glob("*.bundle")
    (small_authority.home / "plans" / path.name).write_bytes(path.read_bytes())
    other.close()
    with pytest.raises(BundleError):
        small_authority.authority.paths.read_bundles()


def test_a_vault_of_another_authority_is_refused(small_authority: Any, tmp_path: Path) -> None:
    other = AuthorityHome.init(tmp_path / "other", small_authority.settings, b"correct horse", kdf=CHEAP)
    other.close()
    HomePaths(small_authority.home).vault.write_bytes(other.paths.vault.read_bytes())
    with pytest.raises(VaultError, match="another authority"):
        AuthorityHome.open(small_authority.home, b"correct horse")


def test_two_changes_at_once_are_refused(small_authority: Any) -> None:
    import fcntl
    import os

    handle = os.open(small_authority.home, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(StateError, match="being changed"):
            small_authority.authority.enrol_aggregator("agg2", small_authority.settings)
    finally:
        os.close(handle)


def test_a_damaged_enrolment_database_is_a_state_error(small_authority: Any) -> None:
    small_authority.authority.close()
    for path in small_authority.home.glob("enrolment.db*"):
        path.write_bytes(b"junk " * 1000)
    with pytest.raises(StateError, match="damaged"):
        AuthorityHome.open(small_authority.home, small_authority.passphrase.encode())


def test_repro_the_operator_can_read_releases_also_with_the_files_of_an_older_home(
    small_authority: Any,
) -> None:
    authority, paths = small_authority.authority, small_authority.authority.paths
    password = paths.operator_password
    first = password.read_text()
    assert password.stat().st_mode & 0o777 == 0o600
    assert len(first.strip()) == 32
    for file in (password, paths.broker / "acl", paths.broker / "passwords"):
        file.unlink()  # a home from before there was an operator
    authority.enrol_meters([("anna", "north/f1")], small_authority.settings)
    assert password.read_text() == first
    assert "user operator\ntopic read gridhe/v1/release/#\n" in (paths.broker / "acl").read_text()
    assert "operator:$7$" in (paths.broker / "passwords").read_text()
    assert "operator" in authority.broker_users()
    with pytest.raises(ConfigError, match="name of a role"):
        authority.enrol_meters([("operator", "north/f1")], small_authority.settings)
