"""The doctor finds what is wrong, and only that."""

import importlib.metadata
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from gridhe.base.commands import run_command
from gridhe.broker.server.mosquitto_config import aggregator_user
from gridhe.cli import cli
from gridhe.config.settings import BrokerSettings, Settings
from gridhe.doctor import checks
from gridhe.doctor.certificates import check_certificates
from gridhe.keyring.home.ca import CertificateAuthority
from gridhe.wire.credential import AggregatorCredential, DeviceCredential, FleetCredential
from gridhe.wire.ingest import new_ingest_secret
from gridhe.wire.signing import SigningKey
from gridhe_testing.doctor import examine

DEVICE = DeviceCredential(
    meter="m1",
    group="north/f1",
    password="the password of m1",
    ingest_key=bytes(32),
    guard_key=bytes(32),
    home_key=bytes(32),
    authority_key=SigningKey.generate().verify_key,
)


def test_a_machine_that_can_run_everything_passes(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = examine(capsys)
    assert code == 0
    assert {check["state"] for name, (check, *_) in found.items() if name != "broker"} == {"ok"}
    assert {"python", "gridhe", "numpy", "tenseal", "paho-mqtt", "settings", "plan"} <= found.keys()
    assert found["encryption"][0]["text"] == "two batches encrypted, folded, decrypted: exact"


def test_every_requirement_of_gridhe_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = examine(capsys)
    requirements = [Requirement(line) for line in importlib.metadata.requires("gridhe") or []]
    needed = [one for one in requirements if one.marker is None or "extra" not in str(one.marker)]
    assert len(needed) >= 9
    for requirement in needed:
        assert requirement.name in found, requirement


def test_lines_for_people_end_with_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command(cli, ["doctor", "--set", "plan.windw_s=5"])
    out = capsys.readouterr().out
    assert "fail  settings: unknown setting plan.windw_s; did you mean plan.window_s?" in out
    assert "      -> correct it there; `gridhe config` prints all settings" in out
    assert out.splitlines()[-1].endswith(" 1 failed")


def test_settings_that_are_refused_fail_and_the_rest_is_still_looked_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("gridhe.yaml").write_text("plan: {window_s: 5}\nbroker: {ulr: x}\n", encoding="utf-8")
    code, found = examine(capsys)
    assert code == 1
    assert [check["state"] for check in found["settings"]] == ["fail", "fail"]
    assert "encryption" in found
    assert "broker" not in found


def test_the_settings_name_their_file_and_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("gridhe.yaml").write_text("", encoding="utf-8")
    monkeypatch.setenv("GRIDHE_PLAN__GRACE_S", "1")
    _, found = examine(capsys)
    assert found["settings"][0]["text"] == (
        "gridhe.yaml (working directory); from the environment: GRIDHE_PLAN__GRACE_S"
    )


def test_variables_that_nobody_reads_are_no_fault_and_a_likely_mistake_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDHE_BROKER_PORT_1883_TCP", "tcp://10.0.0.5:1883")
    monkeypatch.setenv("GRIDHE_BROKER_URL", "mqtt://10.0.0.5")
    code, found = examine(capsys)
    assert code == 0
    assert found["settings"][0]["text"] == "built-in defaults"
    (check,) = found["environment"]
    assert check["state"] == "warn"
    assert check["text"].endswith("did you mean GRIDHE_BROKER__URL?")


def test_a_plan_that_cannot_be_exact_fails_with_the_nearest_that_can(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, found = examine(
        capsys, "--set", "ckks.preset=light", "--set", "plan.window_s=2592000", "--set", "plan.interval_s=60"
    )
    assert code == 1
    assert found["plan"][0]["state"] == "fail"
    assert "Nearest exact plan" in found["plan"][0]["text"]


def test_a_missing_package_fails_and_a_missing_extra_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        "not-here-base>=1.0",
        'not-here-extra>=2.1; extra == "demo"',
        'gridhe[operator]; extra == "demo"',
        'not-here-test; extra == "test"',
        'not-here-on-windows; sys_platform == "win32" and extra == "demo"',
        'not-here-on-10 (>=1); python_version == "3.10"',
        "numpy>=999",
        "click!=0.1,>=8.1rc1,<999",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    found = {check.name: check for check in checks.check_packages()}
    assert found.keys() == {"gridhe", "not-here-base", "not-here-extra", "numpy", "click"}
    assert (found["not-here-base"].state, found["not-here-base"].hint) == (
        "fail",
        "pip install 'not-here-base>=1.0'",
    )
    assert (found["not-here-extra"].state, found["not-here-extra"].hint) == (
        "warn",
        "pip install 'gridhe[demo]'",
    )
    assert found["numpy"].state == "fail"
    assert found["numpy"].text.endswith(", needs >=999")
    assert found["click"].state == "ok"


def test_repro_a_package_that_is_too_new_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["paho-mqtt>=2.2,<2.2.1"])
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.3.0")
    _, found = checks.check_packages()
    assert (found.state, found.text) == ("fail", "2.3.0, needs <2.2.1,>=2.2")


def test_a_broken_package_is_reported_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "gridhe.doctor.probes", raising=False)
    monkeypatch.delattr("gridhe.doctor.probes", raising=False)
    monkeypatch.setitem(sys.modules, "tenseal", None)  # as `import tenseal` fails where it is not installed
    code, found = examine(capsys)
    assert code == 1
    assert found["imports"][0]["state"] == "fail"
    assert "tenseal" in found["imports"][0]["text"]


def test_a_tenseal_whose_ciphertexts_are_others_fails_with_the_way_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # TenSEAL 0.3.16 brought an older SEAL: it cannot load what gridhe writes ("incompatible version").
    from gridhe.doctor import probes

    good = probes.to_tenseal
    monkeypatch.setattr(probes, "to_tenseal", lambda *args: good(*args)[:-100])
    code, found = examine(capsys)
    assert code == 1
    assert found["encryption"][0]["text"].startswith("TenSEAL's ciphertexts have an unknown format")
    assert found["encryption"][0]["hint"] == "pip install --force-reinstall gridhe"


def test_a_fold_that_adds_wrongly_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gridhe.aggregator.fold.accumulator import Accumulator

    once = Accumulator.fold

    def twice(self: Accumulator, planes: Any) -> None:
        once(self, planes)
        once(self, planes)

    monkeypatch.setattr(Accumulator, "fold", twice)
    code, found = examine(capsys)
    assert code == 1
    assert found["encryption"][0]["text"] == "the sum of two encrypted batches is wrong"


def test_repro_the_ends_of_different_certificates_have_different_errors(tmp_path: Path) -> None:
    made = datetime(2026, 3, 1, tzinfo=UTC)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    ca = CertificateAuthority(home, bytes(32), authority="a1", now=lambda: made)
    ca.issue_server(["localhost"], home / "broker/tls")
    (client,) = ca.issue_clients(["anna"], tmp_path / "c")
    settings = Settings(
        broker=BrokerSettings(ca_file=str(ca.cert_file), client_cert_file=str(client.cert_file))
    )

    def states(days: int) -> list[str]:
        return [each.state for each in check_certificates(settings, home, made + timedelta(days=days))]

    assert states(0) == ["ok", "ok", "ok"]  # CA, client, broker
    assert states(-2) == ["fail", "fail", "fail"]
    assert states(705) == ["ok", "warn", "warn"]
    assert states(730) == ["ok", "fail", "fail"]
    assert states(3_640) == ["warn", "fail", "fail"]
    assert states(3_650) == ["fail", "fail", "fail"]
    early, *_ = check_certificates(settings, home, made - timedelta(days=2))
    late, *_ = check_certificates(settings, home, made + timedelta(days=3_650))
    assert "is not yet valid" in early.text
    assert early.hint == "set this machine's clock"
    assert "has expired" in late.text
    assert "--renew-ca" in late.hint
    client.cert_file.write_text("no certificate")
    assert [each.state for each in check_certificates(settings, None, made)] == ["ok", "fail"]
    assert list(check_certificates(None, None, made)) == []


def test_every_kind_of_credential_is_known(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    aggregator = AggregatorCredential(
        aggregator="a1",
        password="x",
        ingest_secret=new_ingest_secret(),
        signing_key=SigningKey.generate().private_bytes(),
        authority_key=DEVICE.authority_key,
    )
    from gridhe.doctor import probes

    for credential, user in (
        (DEVICE, "m1"),
        (aggregator, aggregator_user("a1")),
        (FleetCredential(devices=(DEVICE,), password="y"), "fleet"),
        (FleetCredential(devices=(DEVICE,)), None),
    ):
        credential.save(tmp_path / "credential.json")
        check, login = probes.try_credential(tmp_path / "credential.json")
        assert check.state == "ok"
        assert (login.user if login else None) == user


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        ("{}", 0o600, "is not a credential of kind"),
        ('{"kind": "device", "password": "hunter2"', 0o600, "is not a complete device credential"),
        ('{"kind": "device", "password": "hunter2"}', 0o600, "is not a complete device credential"),
        ('{"kind": "device"}', 0o644, "run: chmod 600"),
    ],
)
def test_a_credential_that_is_no_good_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, mode: int, told: str
) -> None:
    file = tmp_path / "c.json"
    file.write_text(content)
    file.chmod(mode)
    code, found = examine(capsys, "--credential", file)
    assert code == 1
    assert told in found["credential"][0]["text"]
    assert "hunter2" not in json.dumps(found)


def test_a_home_in_order_passes_and_counts_the_credentials_in_it(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    code, found = examine(capsys, "--home", home)
    assert code == 0
    assert found["home"][0]["state"] == found["vault"][0]["state"] == "ok"
    assert found["credentials"][0]["state"] == "warn"
    assert found["credentials"][0]["text"].startswith("1 still in")


def test_repro_a_certificate_is_no_secret_and_its_key_is(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    ca = CertificateAuthority(home, bytes(32), authority="a1", now=lambda: datetime.now(UTC))
    (issued,) = ca.issue_clients(["m1"], home / "credentials")
    assert issued.cert_file.stat().st_mode & 0o777 == 0o644
    code, found = examine(capsys, "--home", home)
    assert (code, "credential" in found) == (0, False)
    issued.key_file.chmod(0o644)
    code, found = examine(capsys, "--home", home)
    assert code == 1
    assert [check["text"].split()[0] for check in found["credential"]] == [str(issued.key_file)]


@pytest.mark.parametrize(
    ("name", "path", "mode"),
    [("home", ".", 0o755), ("vault", "vault", 0o640), ("credential", "credentials/m1.json", 0o604)],
)
def test_what_others_can_read_fails_with_the_command_that_mends_it(
    capsys: pytest.CaptureFixture[str], home: Path, name: str, path: str, mode: int
) -> None:
    (home / path).chmod(mode)
    code, found = examine(capsys, "--home", home)
    assert code == 1
    (check,) = found[name]
    assert check["state"] == "fail"
    assert "chmod" in check["text"] + check["hint"]


def test_a_home_that_is_none_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "bare").mkdir(mode=0o700)
    for name, finding in (("absent", "home"), ("file", "home"), ("bare", "vault")):
        code, found = examine(capsys, "--home", tmp_path / name)
        assert code == 1
        assert "gridhe-keyring init" in found[finding][0]["hint"]


def test_where_the_passphrase_comes_from_is_told(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("hunter2")
    for mode, state in ((0o600, "ok"), (0o644, "fail")):
        file.chmod(mode)
        check = checks.check_passphrase({"GRIDHE_PASSPHRASE_FILE": str(file)}, terminal=False)
        assert check.state == state
        assert "hunter2" not in repr(check)
    assert checks.check_passphrase({"GRIDHE_PASSPHRASE": "hunter2"}, terminal=True).state == "warn"
    assert checks.check_passphrase({}, terminal=True).state == "ok"
    assert checks.check_passphrase({}, terminal=False).state == "warn"
