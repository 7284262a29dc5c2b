"""Credential files: 0600, whole, of the right kind, and never quoted in a message."""

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gridhe.errors import CredentialError
from gridhe.wire.credential import (
    AggregatorCredential,
    DeviceCredential,
    FleetCredential,
    load_aggregator,
    load_device,
    load_fleet,
)
from gridhe.wire.signing import authority_id

AUTHORITY = b"A" * 32
PASSWORD = "pass-" + "w" * 20
DEVICE = DeviceCredential(
    meter="m1",
    group="north/f1",
    password=PASSWORD,
    ingest_key=b"\x11" * 32,
    guard_key=b"\x55" * 32,
    home_key=b"\x66" * 32,
    authority_key=AUTHORITY,
)
FLEET = FleetCredential(
    devices=(DEVICE, replace(DEVICE, meter="m2", ingest_key=b"\x22" * 32)), password="fleet-" + PASSWORD
)
AGGREGATOR = AggregatorCredential(
    aggregator="main",
    password=PASSWORD,
    ingest_secret=b"\x33" * 32,
    signing_key=b"\x44" * 32,
    authority_key=AUTHORITY,
)
KINDS = [
    pytest.param(DEVICE, load_device, id="device"),
    pytest.param(FLEET, load_fleet, id="fleet"),
    pytest.param(AGGREGATOR, load_aggregator, id="aggregator"),
]
SECRETS = [PASSWORD, *(f"{number}{number}" * 16 for number in range(1, 7))]
Loader = Callable[[Path], Any]


@pytest.mark.parametrize(("credential", "load"), KINDS)
def test_a_credential_survives_its_file_which_only_its_owner_can_read(
    tmp_path: Path, credential: Any, load: Loader
) -> None:
    path = tmp_path / "credential.json"
    credential.save(path)
    assert load(path) == credential
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["credential.json"]


def test_a_fleet_without_a_connection_of_its_own_needs_no_password(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    replace(FLEET, password=None).save(path)
    assert load_fleet(path).password is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610, 0o601])
@pytest.mark.parametrize(("credential", "load"), KINDS)
def test_a_file_that_others_can_open_is_refused_with_the_command_that_fixes_it(
    tmp_path: Path, credential: Any, load: Loader, mode: int
) -> None:
    path = tmp_path / "credential.json"
    credential.save(path)
    path.chmod(mode)
    with pytest.raises(CredentialError, match=f"chmod 600 {path}"):
        load(path)
    path.chmod(0o400)
    assert load(path) == credential


@pytest.mark.parametrize(("credential", "load"), KINDS)
def test_a_credential_of_another_kind_is_refused_and_both_kinds_named(
    tmp_path: Path, credential: Any, load: Loader
) -> None:
    path = tmp_path / "credential.json"
    credential.save(path)
    kind = json.loads(path.read_text())["kind"]
    for other, wanted in ((load_device, "device"), (load_fleet, "fleet"), (load_aggregator, "aggregator")):
        if other is not load:
            with pytest.raises(CredentialError, match=f"kind '{wanted}' \\(it is '{kind}'\\)"):
                other(path)


@pytest.mark.parametrize(("credential", "load"), KINDS)
def test_every_missing_or_wrong_field_is_refused_without_quoting_a_secret(
    tmp_path: Path, credential: Any, load: Loader
) -> None:
    path = tmp_path / "credential.json"
    credential.save(path)
    whole = json.loads(path.read_text())
    wrong: list[Any] = []
    for name in whole:
        if not (load is load_fleet and name == "password"):
            wrong.append({key: value for key, value in whole.items() if key != name})
        wrong.extend({**whole, name: value} for value in (7, ["x"], {"a": 1}))
        if isinstance(whole[name], str) and len(whole[name]) == 64:
            wrong.extend(
                {**whole, name: value} for value in (whole[name][:-2], whole[name] + "00", "zz" * 32, "")
            )
    wrong.extend(({**whole, "devices": [1]}, {**whole, "devices": "abc"}) if load is load_fleet else ())
    for record in wrong:
        path.write_text(json.dumps(record))
        with pytest.raises(CredentialError) as caught:
            load(path)
        assert not any(secret in str(caught.value) for secret in SECRETS), record
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["guard_key", "home_key"])
@pytest.mark.parametrize(("credential", "load"), KINDS[:2])
def test_a_credential_without_guard_keys_is_refused_with_the_command_that_makes_a_new_one(
    tmp_path: Path, credential: Any, load: Loader, missing: str
) -> None:
    path = tmp_path / "credential.json"
    credential.save(path)
    record = json.loads(path.read_text())
    for device in record.get("devices", [record]):
        del device[missing]
    path.write_text(json.dumps(record))
    with pytest.raises(CredentialError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}: the credential of m1 has no guard keys; make a new one with: "
        "gridhe-keyring enrol m1 --group north/f1"
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"text"', PASSWORD.encode()])
@pytest.mark.parametrize("load", [load_device, load_fleet, load_aggregator])
def test_a_file_that_is_no_credential_is_refused(tmp_path: Path, load: Loader, content: bytes) -> None:
    path = tmp_path / "credential.json"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(CredentialError) as caught:
        load(path)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("load", [load_device, load_fleet, load_aggregator])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, load: Loader) -> None:
    with pytest.raises(CredentialError, match="No such file"):
        load(tmp_path / "absent.json")
    with pytest.raises(CredentialError, match="not a file"):
        load(tmp_path)


def test_illegal_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "credential.json"
    for credential, load in (
        (replace(DEVICE, meter="authority"), load_device),
        (replace(DEVICE, meter="M"), load_device),
        (replace(DEVICE, group="grid"), load_device),
        (replace(AGGREGATOR, aggregator="a/b"), load_aggregator),
        (FleetCredential(devices=(DEVICE, DEVICE)), load_fleet),
    ):
        credential.save(path)  # type: ignore[attr-defined]
        with pytest.raises(CredentialError):
            load(path)


def test_a_fleet_is_of_one_authority(tmp_path: Path) -> None:
    mixed = FleetCredential(devices=(DEVICE, replace(DEVICE, meter="m2", authority_key=b"B" * 32)))
    for fleet in (mixed, FleetCredential(devices=())):
        with pytest.raises(CredentialError, match="all of one authority"):
            fleet.save(tmp_path / "fleet.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("credential", [DEVICE, FLEET, AGGREGATOR])
def test_a_credential_does_not_print_its_secrets(credential: Any) -> None:
    shown = f"{credential!r} {credential}"
    assert PASSWORD not in shown
    for byte in (0x11, 0x22, 0x33, 0x44, 0x55, 0x66):
        assert repr(bytes([byte]) * 4)[2:-1] not in shown


def test_a_credential_names_its_authority() -> None:
    assert DEVICE.authority == AGGREGATOR.authority == authority_id(AUTHORITY)
