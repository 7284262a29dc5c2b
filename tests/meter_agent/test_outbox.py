"""The outbox: durable, bounded, one process at a time, and one version of every window."""

import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gridhe.base.sqlite import DatabaseFull
from gridhe.config.settings import MeterSettings
from gridhe.errors import StateError
from gridhe.meter_agent.outbox import Outbox, SealedBatch, Settled

PLAN = "p" + "0" * 16


@contextmanager
def opened(folder: Path, authority: str = "a1", **settings: object) -> Iterator[Outbox]:
    with Outbox(folder, authority=authority, settings=MeterSettings(**settings)) as outbox:  # type: ignore[arg-type]
        yield outbox


def batch(window: int, payload: bytes = b"x", meter: str = "m1") -> SealedBatch:
    return SealedBatch(meter=meter, plan=PLAN, window=window, until_s=(window + 1) * 60, payload=payload)


def windows(outbox: Outbox, meter: str = "m1") -> list[int]:
    return [waiting.window for waiting in outbox.waiting(meter)]


def test_a_batch_waits_with_the_same_bytes_until_it_is_committed_by_the_aggregator(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        outbox.commit(sealed=[batch(1, b"one"), batch(2, b"two")], journals={"m1": b"open"})
    with opened(tmp_path) as outbox:
        assert [outbox.payload(w.id) for w in outbox.waiting("m1")] == [b"one", b"two"]
        assert outbox.journal("m1") == b"open"
        outbox.commit(settled=[Settled(meter="m1", plan=PLAN, window=1)])
        assert windows(outbox) == [2]
        assert outbox.backlog("m1") == 1


def test_a_window_sealed_once_is_never_stored_again_even_after_its_receipt(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        outbox.commit(sealed=[batch(1, b"one")])
        assert outbox.commit(sealed=[batch(1, b"other")]).repeated == 1
        outbox.commit(settled=[Settled(meter="m1", plan=PLAN, window=1)])
    with opened(tmp_path) as outbox:
        assert outbox.commit(sealed=[batch(1, b"other"), batch(0, b"older")]).repeated == 2
        assert windows(outbox) == []
        assert outbox.sealed_until_s() == {"m1": 120}


def test_a_refused_batch_is_set_aside_and_no_longer_waits(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        outbox.commit(sealed=[batch(1), batch(2)])
        outbox.commit(settled=[Settled(meter="m1", plan=PLAN, window=1, reason="residue")])
        assert windows(outbox) == [2]
        assert outbox.refused("m1") == [(1, "residue")]
        outbox.commit(settled=[Settled(meter="m1", plan=PLAN, window=1, reason="residue")])
        assert outbox.backlog("m1") == 1
    with opened(tmp_path) as outbox:
        assert outbox.backlog("m1") == 1
        outbox.commit(settled=[Settled(meter="m1", plan=PLAN, window=1)])  # it was committed after all
        assert outbox.refused("m1") == []
        assert outbox.backlog("m1") == 1


@pytest.mark.parametrize(("policy", "kept"), [("drop_oldest", [3, 4, 5]), ("drop_newest", [1, 2, 3])])
def test_a_full_outbox_drops_by_its_policy_and_says_how_many(
    tmp_path: Path, policy: str, kept: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path, outbox_max_batches=3, outbox_when_full=policy) as outbox:
        result = outbox.commit(sealed=[batch(w) for w in range(1, 6)])
        assert windows(outbox) == kept
        assert len(result.dropped) == 2
        assert [waiting.window for _, waiting in result.stored] == kept
        assert outbox.commit(sealed=[batch(9, meter="m2")]).dropped == ()  # the bound is per device
    assert "dropped 2 batches" in caplog.text


def test_refused_batches_make_room_before_any_waiting_one(tmp_path: Path) -> None:
    with opened(tmp_path, outbox_max_batches=3, outbox_when_full="drop_newest") as outbox:
        outbox.commit(sealed=[batch(1), batch(2), batch(3)])
        outbox.commit(settled=[Settled(meter="m1", plan=PLAN, window=2, reason="residue")])
        outbox.commit(sealed=[batch(4)])
        assert windows(outbox) == [1, 3, 4]
        assert outbox.refused("m1") == []


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(tmp_path / "state") as outbox:
            outbox.commit(sealed=[batch(1)])
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    finally:
        os.umask(before)
    assert set(modes) >= {"outbox.sqlite", "outbox.sqlite-wal", "lock"}
    assert set(modes.values()) == {0o600}


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with (
        opened(tmp_path),
        pytest.raises(StateError, match=f"in use by process {os.getpid()}"),
        opened(tmp_path),
    ):
        pass
    with opened(tmp_path):
        pass


def test_a_directory_of_another_authority_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, authority="a1"):
        pass
    with (
        pytest.raises(StateError, match="is the state of authority 'a1', not 'a2'"),
        opened(tmp_path, authority="a2"),
    ):
        pass


@pytest.mark.parametrize("damage", ["header", "page", "cut"])
def test_a_damaged_file_is_one_clear_error_with_the_way_out(tmp_path: Path, damage: str) -> None:
    with opened(tmp_path) as outbox:
        for window in range(40):
            outbox.commit(sealed=[batch(window, os.urandom(1_000))])
    path = tmp_path / "outbox.sqlite"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        where = 0 if damage == "header" else 5_000
        data[where : where + 4_000] = os.urandom(4_000)
    path.write_bytes(data)
    with pytest.raises(StateError, match="move it away"), opened(tmp_path):
        pass


def test_a_full_disk_writes_nothing_and_the_same_commit_succeeds_later(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        outbox.commit(sealed=[batch(1)])
        db = outbox._db
        [(pages,)] = db.query("PRAGMA page_count")
        db.write(f"PRAGMA max_page_count = {pages + 2}")  # SQLite's own way to a SQLITE_FULL
        large = [batch(2, os.urandom(200_000))]
        with pytest.raises(DatabaseFull, match="free some space"):
            outbox.commit(sealed=large, journals={"m1": b"later"})
        assert (windows(outbox), outbox.journal("m1"), outbox.backlog("m1")) == ([1], None, 1)
        db.write("PRAGMA max_page_count = 1000000")
        outbox.commit(sealed=large, journals={"m1": b"later"})
        assert (windows(outbox), outbox.journal("m1"), outbox.backlog("m1")) == ([1, 2], b"later", 2)


def test_a_full_disk_at_the_start_is_a_clear_state_error(tmp_path: Path) -> None:
    """A real file size limit of the kernel's: SQLite then sees a failing write."""
    program = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        from gridhe.config.settings import MeterSettings
        from gridhe.errors import StateError
        from gridhe.meter_agent.outbox import Outbox
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            Outbox(Path(sys.argv[1]), authority="a1", settings=MeterSettings())
        except StateError as error:
            print(error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "outbox.sqlite" in done.stdout
    assert done.stdout.count("\n") == 1


# A process that seals windows 0, 1, 2, ... as fast as it can: bytes that differ on every try, each
# printed only after its commit, as a publication is. It journals before it seals, as a device does.
_WRITER = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from gridhe.config.settings import MeterSettings
    from gridhe.meter_agent.outbox import Outbox, SealedBatch
    outbox = Outbox(Path(sys.argv[1]), authority="a1", settings=MeterSettings())
    plan = "p" + "0" * 16
    for waiting in outbox.waiting("m1", limit=100_000):
        print(waiting.window, outbox.payload(waiting.id)[:8].hex(), flush=True)
    window = outbox.sealed_until_s().get("m1", 0) // 60
    while True:
        outbox.commit(journals={"m1": b"read %d" % window})
        group = [
            SealedBatch(meter="m1", plan=plan, window=w, until_s=(w + 1) * 60, payload=os.urandom(24_000))
            for w in range(window, window + 1 + window % 3)
        ]
        window += len(group)
        outbox.commit(sealed=group, journals={"m1": b"sealed %d" % window})
        for batch in group:
            print(batch.window, batch.payload[:8].hex(), flush=True)
    """
)


def test_killed_at_random_moments_no_window_is_missing_and_none_has_two_versions(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    seen: dict[int, set[str]] = {}
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        already = len(seen)
        for _, line in zip(range(already + int(rng.integers(1, 40))), process.stdout, strict=False):
            window, digest = line.split()
            seen.setdefault(int(window), set()).add(digest)
        process.kill()
        for line in process.stdout:
            if line.endswith("\n"):
                window, digest = line.split()
                seen.setdefault(int(window), set()).add(digest)
        process.stdout.close()
        assert process.wait() == -9
    with opened(tmp_path) as outbox:
        waiting = outbox.waiting("m1", limit=100_000)
        kept = {w.window: (outbox.payload(w.id) or b"")[:8].hex() for w in waiting}
        journal = (outbox.journal("m1") or b"").decode()
        assert outbox.sealed_until_s() == {"m1": (max(kept) + 1) * 60}
    assert sorted(kept) == list(range(len(kept)))
    assert journal in (f"read {len(kept)}", f"sealed {len(kept)}")
    assert set(seen) <= set(kept), "a window was published before it was safe"
    for window, digests in seen.items():
        assert digests == {kept[window]}


def test_another_programs_database_is_not_taken_for_an_outbox(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "outbox.sqlite")
    db.execute("CREATE TABLE other (x)")
    db.commit()
    db.close()
    with pytest.raises(StateError), opened(tmp_path):
        pass


@pytest.fixture
def no_directory(tmp_path: Path) -> Callable[[], Path]:
    (tmp_path / "file").write_text("")
    return lambda: tmp_path / "file" / "state"


def test_a_state_directory_that_cannot_be_made_is_a_state_error(no_directory: Callable[[], Path]) -> None:
    with pytest.raises(StateError, match="cannot make the folder"), opened(no_directory()):
        pass
