"""The vault keeps its secrets, and says one quiet line when it cannot."""

import os
import struct
from pathlib import Path

import msgpack
import pytest

from gridhe.errors import VaultError
from gridhe.keyring.home.passphrase import ask_passphrase
from gridhe.keyring.home.vault import Kdf, Secrets, Vault

CHEAP = Kdf(n=2**14)
PASSPHRASE = b"correct horse battery"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


def some_secrets() -> Secrets:
    return Secrets(
        signing_key=os.urandom(32),
        ingest_secret=os.urandom(32),
        noise_key=os.urandom(32),
        broker_secret=os.urandom(32),
        guard_secret=os.urandom(32),
        contexts={"k0123456789abcdef": os.urandom(70_000)},
    )


def test_a_vault_returns_the_stored_secrets(home: Path) -> None:
    secrets = some_secrets()
    Vault.create(home / "vault", PASSPHRASE, secrets, kdf=CHEAP)
    assert Vault.open(home / "vault", PASSPHRASE).secrets == secrets
    assert (home / "vault").stat().st_mode & 0o777 == 0o600


def test_no_secret_is_readable_in_the_file_or_in_a_repr(home: Path) -> None:
    secrets = some_secrets()
    Vault.create(home / "vault", PASSPHRASE, secrets, kdf=CHEAP)
    data = (home / "vault").read_bytes()
    for secret in (secrets.signing_key, secrets.ingest_secret, secrets.noise_key, PASSPHRASE):
        assert secret[:8] not in data
        assert repr(secret)[2:10] not in repr(secrets)


def test_a_rewritten_vault_has_a_new_nonce_and_the_old_passphrase(home: Path) -> None:
    vault = Vault.create(home / "vault", PASSPHRASE, some_secrets(), kdf=CHEAP)
    before = (home / "vault").read_bytes()
    more = vault.secrets.with_context("kfedcba9876543210", b"another")
    vault.save(more)
    after = (home / "vault").read_bytes()
    assert before[-64:] != after[-64:]
    other = Vault.open(home / "vault", PASSPHRASE)
    assert other.secrets == more
    vault.save(more.without_context("kfedcba9876543210"))
    assert other.secrets == more
    other.reload()
    assert other.secrets == vault.secrets
    assert list(Vault.open(home / "vault", PASSPHRASE).secrets.contexts) == ["k0123456789abcdef"]


def test_a_wrong_passphrase_and_a_damaged_body_say_the_same_line(home: Path) -> None:
    path = home / "vault"
    Vault.create(path, PASSPHRASE, some_secrets(), kdf=CHEAP)
    with pytest.raises(VaultError) as wrong:
        Vault.open(path, b"incorrect horse")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(VaultError) as damaged:
        Vault.open(path, PASSPHRASE)
    assert str(wrong.value) == str(damaged.value)
    assert "\n" not in str(wrong.value)
    assert "horse" not in str(wrong.value)


def test_every_byte_of_the_header_is_authenticated(home: Path) -> None:
    path = home / "vault"
    Vault.create(path, PASSPHRASE, some_secrets(), kdf=CHEAP)
    whole = path.read_bytes()
    (length,) = struct.unpack_from("<I", whole, 8)
    for at in range(12 + length):
        changed = bytearray(whole)
        changed[at] ^= 1 if at < 12 else 4
        path.write_bytes(changed)
        with pytest.raises(VaultError):
            Vault.open(path, PASSPHRASE)


@pytest.mark.parametrize(
    "change",
    [{"n": 2**30}, {"n": 1000}, {"n": "x"}, {"n": True}, {"r": 10**6}, {"p": 999}, {"n": 2**20, "r": 16}],
)
def test_doctored_scrypt_parameters_are_refused_before_scrypt_runs(
    home: Path, change: dict[str, object]
) -> None:
    path = home / "vault"
    Vault.create(path, PASSPHRASE, some_secrets(), kdf=CHEAP)
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 8)
    header = msgpack.packb({**msgpack.unpackb(data[12 : 12 + length]), **change})
    path.write_bytes(data[:8] + struct.pack("<I", len(header)) + header + data[12 + length :])
    with pytest.raises(VaultError, match="scrypt"):
        Vault.open(path, PASSPHRASE)


@pytest.mark.parametrize(
    "data", [b"", b"GRIDHEV1", b"GRIDHEV1\xff\xff\xff\xff", b"x" * 100, b"GRIDHEV1\x01\0\0\0\xc1"]
)
def test_a_file_that_is_no_vault_is_refused(home: Path, data: bytes) -> None:
    path = home / "vault"
    path.touch(0o600)
    path.write_bytes(data)
    with pytest.raises(VaultError, match="not a"):
        Vault.open(path, PASSPHRASE)


def test_a_vault_without_a_guard_secret_is_refused_with_the_way_out(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gridhe.keyring.home import vault as module

    with monkeypatch.context() as patched:
        patched.setattr(module, "_KEYS", tuple(key for key in module._KEYS if key != "guard_secret"))
        Vault.create(home / "vault.bin", PASSPHRASE, some_secrets(), kdf=Kdf(n=2**14))
    with pytest.raises(
        VaultError, match=r"no guard secret.* restore a backup .*gridhe-keyring init"
    ) as refused:
        Vault.open(home / "vault.bin", PASSPHRASE)
    assert "\n" not in str(refused.value)


def test_a_missing_vault_is_refused(home: Path) -> None:
    with pytest.raises(VaultError, match="cannot read"):
        Vault.open(home / "vault", PASSPHRASE)


def test_a_vault_is_never_overwritten_by_create(home: Path) -> None:
    Vault.create(home / "vault", PASSPHRASE, some_secrets(), kdf=CHEAP)
    with pytest.raises(VaultError, match="never overwritten"):
        Vault.create(home / "vault", PASSPHRASE, some_secrets(), kdf=CHEAP)


def test_a_vault_that_others_can_read_is_refused_with_the_chmod_to_run(home: Path) -> None:
    path = home / "vault"
    Vault.create(path, PASSPHRASE, some_secrets(), kdf=CHEAP)
    path.chmod(0o640)
    with pytest.raises(VaultError, match=f"chmod 600 {path}"):
        Vault.open(path, PASSPHRASE)


def test_a_folder_that_others_can_enter_is_refused_with_the_chmod_to_run(home: Path) -> None:
    Vault.create(home / "vault", PASSPHRASE, some_secrets(), kdf=CHEAP)
    home.chmod(0o755)
    with pytest.raises(VaultError, match=f"chmod 700 {home}"):
        Vault.open(home / "vault", PASSPHRASE)


def test_the_default_cost_is_what_the_documentation_says() -> None:
    assert (Kdf().n, Kdf().r, Kdf().p) == (2**17, 8, 1)


def test_a_passphrase_file_wins_over_the_environment_and_loses_its_line_break(tmp_path: Path) -> None:
    path = tmp_path / "phrase"
    path.touch(0o600)
    path.write_text("from the file\n")
    named = tmp_path / "named"
    named.touch(0o600)
    named.write_text("named in the environment\r\n")
    environ = {"GRIDHE_PASSPHRASE": "from the environment", "GRIDHE_PASSPHRASE_FILE": str(named)}
    assert ask_passphrase(file=path, environ=environ) == b"from the file"
    assert ask_passphrase(environ=environ) == b"named in the environment"
    del environ["GRIDHE_PASSPHRASE_FILE"]
    assert ask_passphrase(environ=environ) == b"from the environment"


def test_a_passphrase_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "phrase"
    path.write_text("hush hush")
    path.chmod(0o644)
    with pytest.raises(VaultError, match="chmod 600"):
        ask_passphrase(file=path, environ={})


def test_repro_a_passphrase_that_systemd_hands_over_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    path = folder / "passphrase"
    path.write_text("hush hush\n")
    path.chmod(0o440)
    folder.chmod(0o550)
    with pytest.raises(VaultError, match="chmod 600"):
        ask_passphrase(environ={"GRIDHE_PASSPHRASE_FILE": str(path)})
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert ask_passphrase(environ={"GRIDHE_PASSPHRASE_FILE": str(path)}) == b"hush hush"


def test_the_same_characters_typed_differently_are_the_same_passphrase() -> None:
    composed = ask_passphrase(environ={"GRIDHE_PASSPHRASE": "caf\u00e9 au lait"})
    assert composed == ask_passphrase(environ={"GRIDHE_PASSPHRASE": "cafe\u0301 au lait"})


def test_a_new_passphrase_must_not_be_short() -> None:
    with pytest.raises(VaultError, match="too short"):
        ask_passphrase(environ={"GRIDHE_PASSPHRASE": "short"}, confirm=True)


def test_without_a_terminal_the_ways_to_give_a_passphrase_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoTerminal:
        @staticmethod
        def isatty() -> bool:
            return False

    monkeypatch.setattr("sys.stdin", NoTerminal())
    with pytest.raises(VaultError, match="--passphrase-file"):
        ask_passphrase(environ={})


def test_a_prompt_on_a_terminal_is_hidden_and_confirmed_only_for_a_new_vault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, object]] = []

    def prompt(_text: str, **how: object) -> str:
        asked.append(how)
        return "typed by hand"

    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("click.prompt", prompt)
    assert ask_passphrase(environ={}) == b"typed by hand"
    assert ask_passphrase(environ={}, confirm=True) == b"typed by hand"
    assert [how["hide_input"] for how in asked] == [True, True]
    assert [how["confirmation_prompt"] for how in asked] == [False, True]


@pytest.mark.parametrize(("data", "why"), [(b"x" * 5000, "larger"), (b"\xff\xfe", "UTF-8"), (b"\n", "empty")])
def test_a_passphrase_file_that_holds_none_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "phrase"
    path.touch(0o600)
    path.write_bytes(data)
    with pytest.raises(VaultError, match=why):
        ask_passphrase(file=path, environ={})
