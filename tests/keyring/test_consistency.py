"""A home of which a part was restored from an older backup is refused, before anything is decrypted."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gridhe.base.commands import run_command
from gridhe.keyring.cli.command import cli
from gridhe.keyring.release.inbox import Inbox
from gridhe.wire.total import open_total

Run = Callable[..., tuple[int, str, str]]
PARTS = {
    "ledger": ("ledger.jsonl",),
    "answers": ("answers.db",),
    "inbox": ("inbox.db", "inbox.commits"),
    "enrolment": ("enrolment.db",),
}


def arrive(small: Any, *payloads: bytes) -> None:
    inbox = Inbox(small.home / "inbox.db")
    inbox.store([(open_total(payload, len(payload)).header, payload) for payload in payloads], "now")
    inbox.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, small_authority: Any) -> Run:
    """Runs the command; its exit code, stdout and stderr."""
    monkeypatch.setenv("GRIDHE_PASSPHRASE", small_authority.passphrase)
    small_authority.authority.close()  # no connection of the test's: files are exchanged

    def called(command: str, *args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(cli, [command, "--home", str(small_authority.home), *map(str, args)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return called


class Backups:
    """Copies of a home's files, by name."""

    def __init__(self, home: Path, folder: Path) -> None:
        self._home, self._folder = home, folder

    def take(self, name: str) -> None:
        shutil.copytree(self._home, self._folder / name)

    def restore(self, name: str, *parts: str) -> None:
        for part in parts:
            for file in PARTS[part]:
                self.remove(file)
                shutil.copy2(self._folder / name / file, self._home / file)

    def remove(self, file: str) -> None:
        for path in (self._home / file, self._home / f"{file}-wal", self._home / f"{file}-shm"):
            path.unlink(missing_ok=True)


@pytest.fixture
def backups(small_authority: Any, run: Run, tmp_path: Path) -> Backups:
    """`old`: one total is released. `new`: a feeder of 25 meters too, and an aggregator is revoked."""
    made = Backups(small_authority.home, tmp_path / "backups")
    out = ("--out", tmp_path / "released.jsonl")
    assert run("enrol", "--aggregator", "agg2")[0] == 0
    arrive(small_authority, small_authority.total("north/f1", window=99))
    assert run("release", "--offline", *out)[0] == 0
    made.take("old")
    assert run("enrol", "--revoke", "agg2")[0] == 0
    arrive(small_authority, small_authority.total("north/f1", {"north/f1": 25}))
    assert run("release", "--offline", *out)[0] == 0
    made.take("new")
    return made


# The region less its feeder of 25 is one household.
REGION = {"north/f1": 25, "north/f2": 1}


def test_repro_a_partial_restore_that_gave_out_a_household_is_refused(
    small_authority: Any, run: Run, backups: Backups
) -> None:
    arrive(small_authority, small_authority.total("north", REGION))
    assert "isolates" in run("release", "--offline")[2]
    backups.restore("old", "ledger", "answers")
    ledger = (small_authority.home / "ledger.jsonl").read_bytes()
    code, out, err = run("release", "--offline")
    assert (code, out) == (6, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "restore a copy of the ledger that is no older than inbox.db" in err
    assert (small_authority.home / "ledger.jsonl").read_bytes() == ledger  # nothing was decided


SUBSETS = [
    subset for size in range(1, len(PARTS) + 1) for subset in itertools.combinations(PARTS, size)
]  # what is restored from the old backup


def test_repro_every_mixture_of_an_old_and_a_new_backup_is_refused(
    small_authority: Any, run: Run, backups: Backups, tmp_path: Path
) -> None:
    out = tmp_path / "released.jsonl"
    for subset in SUBSETS:
        backups.restore("new", *PARTS)
        assert run("release", "--offline", "--out", out)[0] == 0, subset
        backups.restore("old", *subset)
        # A home that is old as a whole contradicts nothing in itself: the file with its lines is newer.
        whole = {"ledger", "answers", "inbox"} <= set(subset)
        arguments = ("--out", out) if whole else ()
        code, _, err = run("release", "--offline", *arguments)
        assert code == 6, subset
        assert err.count("\n") == 1, err
        assert "restore" in err, err
        if whole:
            assert "the home is older than the file" in err


@pytest.mark.parametrize("file", ["ledger.jsonl", "answers.db", "inbox.db", "enrolment.db"])
def test_repro_a_missing_file_is_refused_and_again_at_the_next_start(
    run: Run, backups: Backups, small_authority: Any, file: str
) -> None:
    backups.remove(file)
    for _ in range(2):
        code, _, err = run("release", "--offline")
        assert code == 6
        assert err.count("\n") == 1
        assert file in err
        assert "restore" in err
    part = next(name for name, files in PARTS.items() if file in files)
    backups.restore("new", part)
    assert run("release", "--offline")[0] == 0


def test_a_lost_inbox_can_be_given_up_as_the_message_says(
    small_authority: Any, run: Run, backups: Backups, caplog: pytest.LogCaptureFixture
) -> None:
    for file in ("inbox.db", "inbox.commits"):
        backups.remove(file)
    err = run("release", "--offline")[2]
    assert f"move {small_authority.home}/inbox.* away" in err
    command = err[err.index("install ") :].split()
    assert command == ["install", "-m", "600", "/dev/null", f"{small_authority.home}/inbox.db"]
    (small_authority.home / "inbox.db").touch(0o600)
    assert run("release", "--offline")[0] == 0
    arrive(small_authority, small_authority.total("north", REGION), small_authority.total("south/f1"))
    code, out, err = run("release", "--offline")
    assert code == 0
    assert "isolates" in err  # what was released is known
    assert "1 total released, 1 refused" in out
    assert run("release", "--offline", "--all")[1].endswith("3 totals released, 1 refused\n")
    backups.restore("new", "inbox")  # the one that was given up turns up again
    assert run("release", "--offline")[0] == 6


def test_a_home_that_is_used_on_after_any_crash_contradicts_nothing(
    small_authority: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gridhe.keyring.release import queue, releaser

    class Crash(BaseException):
        pass

    points = []

    def crash_at(name: str) -> None:
        points.append(name)
        if name == points_to_crash_at[0]:
            raise Crash

    for number, point in enumerate(
        ("release.1.checked", "release.2.listed", "release.2.decided", "release.4.decrypted",
         "release.5.stored", "release.6.closed", "release.9.settled")
    ):  # fmt: skip
        points_to_crash_at = [point]
        arrive(small_authority, small_authority.total("north/f1", window=number))
        with monkeypatch.context() as patched:
            patched.setattr(releaser, "failpoint", crash_at)
            patched.setattr(queue, "failpoint", crash_at)
            with pytest.raises(Crash):
                run_command(cli, ["release", "--home", str(small_authority.home), "--offline"])
        assert point in points
    assert run("release", "--offline")[0] == 0
    assert run("release", "--offline", "--all")[1].endswith("7 totals released, 0 refused\n")


def test_inspect_notices_a_ledger_older_than_the_inbox(run: Run, backups: Backups) -> None:
    assert run("inspect")[0] == 0
    backups.restore("old", "ledger", "answers")
    code, _, err = run("inspect")
    assert code == 6
    assert "is not the line whose hash inbox.db has" in err
