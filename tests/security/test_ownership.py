"""Whose file it is counts as much as its mode: nothing of another user is used, not even by root."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gridhe.base.sqlite import SqliteDatabase
from gridhe.broker.client.stream import tls_context
from gridhe.config import Settings, load_settings
from gridhe.errors import ConfigError, CredentialError, GridHEError, StateError, VaultError
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.home.ca import CertificateAuthority
from gridhe.keyring.home.passphrase import ask_passphrase
from gridhe.keyring.home.vault import Kdf
from gridhe.keyring.release.ledger import Ledger
from gridhe.wire.credential import load_aggregator, load_device, load_fleet

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
SOMEBODY = 12_345
PASSPHRASE = b"correct horse battery"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which everything is root's."""
    home = tmp_path_factory.mktemp("ownership") / "home"
    settings = Settings()
    authority = AuthorityHome.init(home, settings, PASSPHRASE, kdf=Kdf(n=2**14))
    authority.enrol_aggregator("main", settings)
    authority.enrol_meters([("anna", "north/f1")], settings)
    authority.enrol_meters([("bert", "north/f1")], settings, fleet_file=home / "credentials/fleet.json")
    issuer = CertificateAuthority(
        home, authority.vault.secrets.broker_secret, authority="a", now=lambda: datetime.now(UTC)
    )
    issuer.issue_clients(["anna"], authority.paths.credentials)
    authority.close()
    Ledger(home / "ledger.jsonl", now=str).close()
    (home / "passphrase").touch(0o600)
    (home / "passphrase").write_bytes(PASSPHRASE)
    return home


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "home"))


def client_certificate(home: Path) -> None:
    tls_context.cache_clear()
    folder = home / "credentials"
    tls_context(str(home / "ca/ca.crt"), str(folder / "anna.crt"), str(folder / "anna.key"))


USES: dict[str, tuple[Callable[[Path], object], type[GridHEError]]] = {
    "credentials/anna.json": (lambda home: load_device(home / "credentials/anna.json"), CredentialError),
    "credentials/fleet.json": (lambda home: load_fleet(home / "credentials/fleet.json"), CredentialError),
    "credentials/aggregator-main.json": (
        lambda home: load_aggregator(home / "credentials/aggregator-main.json"),
        CredentialError,
    ),
    "credentials/anna.key": (client_certificate, CredentialError),
    "passphrase": (lambda home: ask_passphrase(file=home / "passphrase"), VaultError),
    "vault": (lambda home: AuthorityHome.open(home, PASSPHRASE).close(), VaultError),
    ".": (lambda home: AuthorityHome.open(home, PASSPHRASE).close(), VaultError),
    "enrolment.db": (lambda home: AuthorityHome.open(home, PASSPHRASE).close(), StateError),
    "ledger.jsonl": (lambda home: Ledger(home / "ledger.jsonl", now=str).close(), StateError),
}


@pytest.mark.parametrize("name", USES)
def test_repro_root_does_not_use_what_belongs_to_somebody_else(home: Path, name: str) -> None:
    use, refused = USES[name]
    use(home)
    os.chown(home / name, SOMEBODY, -1)
    with pytest.raises(refused, match=rf"{home / name}( belongs|.* belongs) to user {SOMEBODY}"):
        use(home)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_repro_a_clients_key_that_others_can_read_is_refused(home: Path, mode: int) -> None:
    (home / "credentials/anna.key").chmod(mode)
    with pytest.raises(CredentialError, match=r"anna\.key can be read by others.*chmod 600"):
        client_certificate(home)


def test_repro_settings_of_somebody_else_are_used_only_when_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gridhe.yaml").write_text("broker: {insecure: true}\n")
    assert load_settings(environ={}).broker.insecure
    os.chown("gridhe.yaml", SOMEBODY, -1)
    with pytest.raises(ConfigError, match=rf"belongs to another user \(number {SOMEBODY}\).*--config"):
        load_settings(environ={})
    assert load_settings(Path("gridhe.yaml"), environ={}).broker.insecure


def test_a_database_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    SqliteDatabase(path, "CREATE TABLE IF NOT EXISTS t (x)").close()
    os.chown(path, SOMEBODY, -1)
    before = {each.name: each.stat().st_uid for each in tmp_path.iterdir()}
    with pytest.raises(StateError, match="run this as that user"):
        SqliteDatabase(path, "CREATE TABLE IF NOT EXISTS t (x)")
    assert {each.name: each.stat().st_uid for each in tmp_path.iterdir()} == before


def test_repro_a_working_directory_that_may_not_be_entered_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sudo -u gridhe` finds /root: there may be a gridhe.yaml, and it must not go unread silently."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o700)
    os.seteuid(SOMEBODY)
    try:
        with pytest.raises(ConfigError, match=r"cannot check for gridhe\.yaml.*Permission denied.*--config"):
            load_settings(environ={})
    finally:
        os.seteuid(0)
    tmp_path.chmod(0o755)


def test_a_working_directory_that_is_gone_holds_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        assert load_settings(environ={}) == Settings()
    finally:
        os.chdir(tmp_path)
