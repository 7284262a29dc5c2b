"""`release --out`: every released total has one line, whatever happens to processes, disks and files."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gridhe.base.commands import run_command
from gridhe.errors import StateError
from gridhe.keyring.cli.command import cli
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.out_file import OutFile
from gridhe.keyring.release.queue import ReleaseOutcome
from gridhe.keyring.release.service import ReleaseService
from gridhe.wire.total import open_total

Run = Callable[..., tuple[int, str, str]]
SUPPORT = Path(__file__).parents[1] / "support"


def arrive(small: Any, *payloads: bytes) -> None:
    inbox = Inbox(small.home / "inbox.db")
    inbox.store([(open_total(payload, len(payload)).header, payload) for payload in payloads], "now")
    inbox.close()


def windows(path: Path) -> list[int]:
    """The window of each line; every line is whole."""
    assert not path.exists() or not path.read_bytes() or path.read_bytes().endswith(b"\n")
    return [json.loads(line)["window"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_authority: Any
) -> Run:
    """`gridhe-keyring release --offline` in this process; its exit code, stdout and stderr."""
    monkeypatch.setenv("GRIDHE_PASSPHRASE", small_authority.passphrase)
    monkeypatch.chdir(tmp_path)

    def called(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        command = ["release", "--home", str(small_authority.home), "--offline", *map(str, args)]
        with pytest.raises(SystemExit) as ended:
            run_command(cli, command)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return called


def process(small: Any, out: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """The same as a process of its own."""
    command = [sys.executable, "-m", "gridhe.keyring.cli", "release", "--home", str(small.home), "--offline"]
    return subprocess.run(
        [*command, "--out", str(out)],
        env={**os.environ, "GRIDHE_PASSPHRASE": small.passphrase, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


# -- kills -----------------------------------------------------------------------------------------


def test_repro_a_follower_killed_twenty_times_loses_and_doubles_no_line(mosquitto: Path) -> None:
    # In a process of its own: it forks, and this one may have threads. `make hostile` has 200 kills.
    command = [sys.executable, "-m", "gridhe_testing.release_lines"]
    done = subprocess.run(
        [*command, "--kills", os.environ.get("GRIDHE_RELEASE_KILLS", "20"), "--seed", "20261125"],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout)
    for none in ("lost", "doubled", "torn", "wrong", "refusals_lost", "refusals_doubled"):
        assert found[none] == 0, found
    assert found["retained_is_not_the_newest"] == found["last_exit"] == 0, found
    assert found["killed_before_all_lines"] > 0, found  # kills came before lines, too


POINTS = (
    *("release.1.checked", "release.2.listed", "release.2.decided", "release.4.decrypted"),
    *("release.5.stored", "release.6.closed"),
    *("release.7.written", "release.7.given", "release.8.marked", "release.9.settled"),
)


def test_repro_a_release_killed_at_each_step_gives_one_line(small_authority: Any, tmp_path: Path) -> None:
    out = tmp_path / "released.jsonl"
    for number, point in enumerate(POINTS):
        arrive(small_authority, small_authority.total("north/f1", window=number))
        done = process(small_authority, out, GRIDHE_FAULT_POINT=point)
        assert done.returncode == -signal.SIGKILL, (point, done.stderr)
    assert process(small_authority, out).returncode == 0
    assert sorted(windows(out)) == list(range(len(POINTS)))


# -- disks -----------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "gridhe-test", str(folder)], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def test_repro_a_full_disk_is_one_line_and_the_next_start_writes_what_is_missing(
    run: Run, small_authority: Any, tmp_path: Path
) -> None:
    arrive(small_authority, *(small_authority.total("north/f1", window=window) for window in range(12)))
    with small_disk(tmp_path / "disk", 64) as disk:
        out, filler = disk / "released.jsonl", disk / "filler"
        filler.write_bytes(bytes(60 << 10))
        code, _, err = run("--out", out)
        assert code == 6
        assert [line for line in err.splitlines() if line.startswith("error: ")] == [
            f"error: cannot write {out}: No space left on device; make room and start again: no total is lost"
        ]
        assert "Traceback" not in err
        before = windows(out)  # whole lines only
        assert 0 < len(before) < 12
        assert run("--out", out)[0] == 6
        assert windows(out) == before
        filler.unlink()
        assert run("--out", out)[0] == 0
        assert windows(out) == list(range(12))
        # A disk too full even for an empty file.
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
        arrive(small_authority, small_authority.total("north/f1", window=12))
        code, _, err = run("--out", out)
        assert code == 6
        filler.unlink()
        assert run("--out", out)[0] == 0
        assert windows(out) == list(range(13))


# -- what stands in the file -----------------------------------------------------------------------


def test_repro_a_file_of_earlier_runs_is_never_emptied(
    run: Run, small_authority: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "released.jsonl"
    arrive(small_authority, small_authority.total("north/f1"))
    assert run("--out", out)[0] == 0
    first = out.read_bytes()
    assert windows(out) == [100]
    with monkeypatch.context() as patched:
        patched.setenv("GRIDHE_PASSPHRASE", "not the right one")
        assert run("--out", out)[0] == 5
        assert out.read_bytes() == first
    assert run("--out", out)[0] == 0  # nothing new
    assert out.read_bytes() == first
    arrive(small_authority, small_authority.total("north/f1", window=101))
    assert run("--out", out)[0] == 0
    assert windows(out) == [100, 101]


def test_a_broker_that_is_away_leaves_the_file_alone(
    small_authority: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "released.jsonl"
    out.write_text('{"an older line":1}\n')
    monkeypatch.setenv("GRIDHE_PASSPHRASE", small_authority.passphrase)
    command = ["release", "--home", str(small_authority.home), "--out", str(out)]
    away = ["--broker", "mqtt://127.0.0.1:9", "--set", "broker.connect_timeout_s=0.5"]
    with pytest.raises(SystemExit) as ended:
        run_command(cli, [*command, *away])
    assert ended.value.code == 7
    assert out.read_text() == '{"an older line":1}\n'


def test_repro_what_was_released_without_a_file_gets_its_line_with_the_first_file(
    run: Run, small_authority: Any, tmp_path: Path
) -> None:
    out = tmp_path / "released.jsonl"
    arrive(small_authority, *(small_authority.total("north/f1", window=window) for window in (100, 101)))
    assert run()[0] == 0
    assert run("--out", out)[0] == 0
    assert windows(out) == [100, 101]
    assert run("--out", out)[0] == 0
    assert windows(out) == [100, 101]


def test_repro_a_torn_last_line_is_cut_off_and_written_again(
    run: Run, small_authority: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import sqlite3

    out = tmp_path / "released.jsonl"
    arrive(small_authority, *(small_authority.total("north/f1", window=window) for window in (100, 101)))
    assert run("--out", out)[0] == 0
    whole = out.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    database = sqlite3.connect(small_authority.home / "answers.db")
    for cut in (1, 2, last // 2, last - 1, last - 5, last):  # as a crash in the middle of the write leaves it
        with database:
            database.execute("DELETE FROM given WHERE win = 101")
        out.write_bytes(whole[:-cut])
        assert run("--out", out)[0] == 0
        assert out.read_bytes() == whole, cut
    out.write_bytes(whole + bytes(100))  # as some file systems leave it
    assert run("--out", out)[0] == 0
    assert out.read_bytes() == whole
    database.close()


def test_a_file_that_is_not_one_of_released_lines_is_not_touched(
    run: Run, small_authority: Any, tmp_path: Path
) -> None:
    arrive(small_authority, small_authority.total("north/f1"))
    notes = tmp_path / "notes.txt"
    notes.write_text("milk\nbread")
    code, _, err = run("--out", notes)
    assert code == 2
    assert "does not end in a released line; give --out a file of its own" in err
    assert notes.read_text() == "milk\nbread"


def test_repro_a_link_a_pipe_and_a_device_are_refused_with_the_way_out(
    run: Run, small_authority: Any, tmp_path: Path
) -> None:
    arrive(small_authority, small_authority.total("north/f1"))
    victim, link, dangling, pipe = (tmp_path / name for name in ("victim", "link", "dangling", "pipe"))
    victim.write_text("untouched\n")
    link.symlink_to(victim)
    dangling.symlink_to(tmp_path / "made")
    os.mkfifo(pipe)
    for path in (link, dangling, Path("/dev/stdout")):
        code, _, err = run("--out", path)
        assert (code, err.count("\n")) == (2, 1), err
        assert "is a symbolic link" in err
        assert "--json" in err
    for path in (pipe, Path("/dev/null")):
        code, _, err = run("--out", path)
        assert (code, err.count("\n")) == (2, 1), err
        assert "is not a regular file" in err
    assert run("--out", tmp_path / "absent" / "file")[0] == 2
    assert victim.read_text() == "untouched\n"
    assert not (tmp_path / "made").exists()
    out = run("--json")[1]  # nothing was given out before
    assert [json.loads(line)["window"] for line in out.splitlines()] == [100]


def test_two_processes_do_not_write_to_one_file(small_authority: Any, tmp_path: Path) -> None:
    path = tmp_path / "released.jsonl"
    first = OutFile(path)
    with pytest.raises(StateError, match="in use by another gridhe-keyring"):
        OutFile(path)
    first.close()
    OutFile(path).close()


def test_repro_a_file_that_is_moved_away_is_opened_anew_and_not_filled_again(
    run: Run, small_authority: Any, tmp_path: Path
) -> None:
    out, moved = tmp_path / "released.jsonl", tmp_path / "released.jsonl.1"
    arrive(small_authority, *(small_authority.total("north/f1", window=window) for window in range(4)))

    def move(outcome: ReleaseOutcome) -> None:
        if outcome.stored.window == 1:
            out.rename(moved)

    with ReleaseService(small_authority.authority, small_authority.settings, emit=move, out=out) as service:
        service.offline()
    assert (windows(moved), windows(out)) == ([0, 1], [2, 3])
    out.rename(tmp_path / "released.jsonl.2")
    assert run("--out", out)[0] == 0
    assert windows(out) == []
    arrive(small_authority, small_authority.total("north/f1", window=4))
    assert run("--out", out)[0] == 0
    assert windows(out) == [4]


def test_all_and_group_complete_a_file_of_their_own_and_take_nothing_from_the_usual_one(
    run: Run, small_authority: Any, tmp_path: Path
) -> None:
    usual, complete, one = (tmp_path / name for name in ("usual", "complete", "one"))
    arrive(small_authority, *(small_authority.total("north/f1", window=window) for window in (100, 101)))
    assert run("--out", usual)[0] == 0
    arrive(small_authority, small_authority.total("south/f1", window=102))
    for _ in range(2):
        assert run("--group", "south/f1", "--out", one)[0] == 0
        assert run("--all", "--out", complete)[0] == 0
        assert (windows(one), windows(complete)) == ([102], [100, 101, 102])
    usual.write_text(usual.read_text().splitlines(keepends=True)[0])  # a line was lost
    assert run("--all", "--out", usual)[0] == 0
    assert windows(usual) == [100, 101, 102]
    assert run("--out", usual)[0] == 0
    assert windows(usual) == [100, 101, 102]


def test_a_follower_of_one_group_fills_no_new_file_with_old_totals(
    small_authority: Any, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    arrive(
        small_authority, small_authority.total("north/f1"), small_authority.total("south/f1", {"south/f1": 9})
    )
    for out in (first, second):
        with ReleaseService(
            small_authority.authority,
            small_authority.settings,
            emit=lambda outcome: None,
            groups=["north/f1"],
            out=out,
        ) as service:
            service.offline()
    assert (windows(first), windows(second)) == ([100], [])


def test_a_refusal_has_one_line_until_its_reason_changes(
    run: Run, small_authority: Any, tmp_path: Path
) -> None:
    out = tmp_path / "released.jsonl"
    arrive(small_authority, small_authority.total("north/f1", {"north/f1": 3}))
    for _ in range(3):
        assert run("--out", out)[0] == 0
    [line] = out.read_text().splitlines()
    assert json.loads(line)["refused"] == "minimum"
    for _ in range(2):
        assert run("--out", out, "--set", "release.minimum_meters=7")[0] == 0
    assert [json.loads(line)["message"][-1] for line in out.read_text().splitlines()] == ["5", "7"]


def test_a_home_from_before_lines_were_marked_fills_no_file_again(
    run: Run, small_authority: Any, tmp_path: Path
) -> None:
    import sqlite3

    out = tmp_path / "released.jsonl"
    arrive(small_authority, small_authority.total("north/f1"))
    assert run()[0] == 0
    database = sqlite3.connect(small_authority.home / "answers.db")
    database.execute("DROP TABLE given")
    database.commit()
    database.close()
    arrive(small_authority, small_authority.total("north/f1", window=101))
    assert run("--out", out)[0] == 0
    assert windows(out) == [101]


def test_a_total_stays_waiting_until_it_was_given_out(small_authority: Any) -> None:
    arrive(small_authority, *(small_authority.total("north/f1", window=window) for window in (100, 101)))
    seen: list[int] = []

    def full_at_the_second(outcome: ReleaseOutcome) -> None:
        if len(seen) == 1:
            raise StateError("cannot write to stdout: No space left on device")
        seen.append(outcome.stored.window)

    def again(emit: Callable[[ReleaseOutcome], None]) -> None:
        with ReleaseService(small_authority.authority, small_authority.settings, emit=emit) as service:
            service.offline()

    with pytest.raises(StateError, match="No space"):
        again(full_at_the_second)
    again(lambda outcome: seen.append(outcome.stored.window))
    assert seen == [100, 101]
