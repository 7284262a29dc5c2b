"""Files: whole or not at all, and nobody else's business."""

import os
import stat
from pathlib import Path

import pytest

from gridhe.base.files import check_private, make_private_dir, read_private, stranger, write_private
from gridhe.errors import CredentialError, StateError


@pytest.fixture(autouse=True, params=[0o022, 0o000, 0o077], ids=["umask 022", "umask 000", "umask 077"])
def _umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_there_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"one")
    assert (path.read_bytes(), mode_of(path)) == (b"one", 0o600)
    check_private(path)


def test_writing_again_replaces_all_of_it_and_makes_it_private(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"something longer")
    path.chmod(0o644)
    write_private(path, b"two")
    assert (path.read_bytes(), mode_of(path)) == (b"two", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "secret"
    victim.write_bytes(b"untouched")
    path.symlink_to(victim)
    write_private(path, b"secret")
    assert victim.read_bytes() == b"untouched"
    assert not path.is_symlink()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_where_the_disk_refuses_the_old_content_stays_and_no_draft_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "secret"
    write_private(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if step == "fsync" else (Path, "replace", full)))
    with pytest.raises(StateError, match=f"cannot write {path}: No space left on device"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_and_folder_are_flushed_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        real_fsync(handle)

    def replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_private(tmp_path / "secret", b"x")
    assert steps == ["file", "rename", "folder"]


def test_a_folder_that_is_not_there_or_is_the_target_is_a_state_error(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="No such file"):
        write_private(tmp_path / "absent" / "secret", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StateError):
        write_private(tmp_path / "folder", b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_repro_every_folder_made_is_private_not_the_last_one_alone(tmp_path: Path) -> None:
    make_private_dir(tmp_path / "a" / "b" / "c")
    for folder in ("a", "a/b", "a/b/c"):
        assert mode_of(tmp_path / folder) == 0o700


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(0o755)
    (tmp_path / "a").chmod(0o755)
    make_private_dir(tmp_path / "a")
    make_private_dir(tmp_path / "a" / "b")
    assert mode_of(tmp_path / "a") == 0o755
    assert mode_of(tmp_path / "a" / "b") == 0o700


def test_a_file_in_the_way_of_a_folder_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(StateError, match="cannot make the folder"):
            make_private_dir(path)


def test_a_folder_given_relative_to_here_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_private_dir(Path("a/b"))
    assert mode_of(tmp_path / "a") == mode_of(tmp_path / "a" / "b") == 0o700
    make_private_dir(Path())


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o610, 0o777])
def test_a_file_open_to_others_is_refused_with_its_mode_and_the_way_out(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    write_private(path, b"x")
    path.chmod(mode)
    with pytest.raises(CredentialError, match=f"mode {mode:04o}.*chmod 600 {path}"):
        check_private(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="not a file"):
        check_private(tmp_path)
    with pytest.raises(CredentialError, match="No such file"):
        check_private(tmp_path / "absent")


def test_what_is_read_is_what_was_checked_and_no_more_than_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"12345")
    assert read_private(path, maximum_bytes=5) == b"12345"
    with pytest.raises(CredentialError, match="larger than 4 bytes"):
        read_private(path, maximum_bytes=4)
    path.chmod(0o644)
    with pytest.raises(CredentialError, match=f"chmod 600 {path}"):
        read_private(path)
    with pytest.raises(CredentialError, match="No such file"):
        read_private(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(CredentialError, match="not a file"):
        read_private(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_repro_root_refuses_a_private_file_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"x")
    os.chown(path, 12345, -1)
    for refuse in (check_private, read_private):
        with pytest.raises(CredentialError, match=f"{path} belongs to user 12345.*chown 0 {path}"):
            refuse(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("owner", "expected"), [(0, None), (12345, None), (54321, "user 54321")])
def test_a_service_may_use_files_of_its_own_and_of_root_but_of_nobody_else(
    tmp_path: Path, owner: int, expected: str | None
) -> None:
    path = tmp_path / "secret"
    write_private(path, b"x")
    os.chown(path, owner, -1)
    status = path.stat()
    os.seteuid(12345)
    try:
        assert stranger(status) == expected
    finally:
        os.seteuid(0)


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as systemd 254 makes it for a service, with one file."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "passphrase").write_bytes(b"x")
    (folder / "passphrase").chmod(0o440)
    folder.chmod(0o550)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def test_repro_a_services_credential_may_show_its_access_list_in_the_groups_bits(credentials: Path) -> None:
    check_private(credentials / "passphrase")
    (credentials / "passphrase").chmod(0o400)
    check_private(credentials / "passphrase")


@pytest.mark.parametrize("mode", [0o460, 0o450, 0o444, 0o441, 0o404, 0o420])
def test_a_services_credential_with_any_other_bit_is_refused(credentials: Path, mode: int) -> None:
    (credentials / "passphrase").chmod(mode)
    with pytest.raises(CredentialError, match=f"mode {mode:04o}"):
        check_private(credentials / "passphrase")


@pytest.mark.parametrize("mode", [0o551, 0o555, 0o570, 0o554])
def test_a_services_credential_in_a_folder_open_to_others_is_refused(credentials: Path, mode: int) -> None:
    credentials.chmod(mode)
    with pytest.raises(CredentialError, match="mode 0440"):
        check_private(credentials / "passphrase")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", [".", "passphrase"])
def test_a_services_credential_of_somebody_else_is_refused(credentials: Path, name: str) -> None:
    os.chown(credentials / name, 12345, -1)
    with pytest.raises(CredentialError, match=r"mode 0440|belongs to user 12345"):
        check_private(credentials / "passphrase")


def test_a_file_that_is_not_beneath_the_credentials_folder_is_as_strict_as_ever(
    credentials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"x")
    outside.chmod(0o440)
    credentials.chmod(0o750)
    (credentials / "link").symlink_to(outside)
    for path in (outside, credentials / ".." / "outside", credentials / "link"):
        with pytest.raises(CredentialError, match="mode 0440"):
            check_private(path)
    for folder in ("", str(tmp_path / "absent"), str(outside)):
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", folder)
        with pytest.raises(CredentialError, match="mode 0440"):
            check_private(credentials / "passphrase")
