"""A disk that is really full: small file systems in memory under the aggregator and a fleet. Needs root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.options import Options
from faults.outcome import CaseOutcome
from gridhe.config.settings import AggregatorSettings, MeterSettings
from gridhe.errors import StateError

__all__ = ["can_mount", "full_disk"]


def can_mount() -> bool:
    """Whether this process may mount file systems."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


@contextmanager
def _small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir(mode=0o700)
    mount, umount = shutil.which("mount") or "mount", shutil.which("umount") or "umount"
    size = f"size={megabytes}m,mode=0700"
    try:
        done = subprocess.run([mount, "-t", "tmpfs", "-o", size, "gridhe-faults", str(folder)], check=False)
        if done.returncode:
            raise StateError(f"cannot mount a small disk at {folder}: run as root, where mounting is allowed")
        yield folder
    finally:
        if folder.is_mount():
            subprocess.run([umount, "--lazy", str(folder)], check=False)


def _resize(folder: Path, megabytes: int) -> None:
    mount = shutil.which("mount") or "mount"
    subprocess.run([mount, "-o", f"remount,size={megabytes}m", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """Fill the file system."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 14, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return filler


def full_disk(options: Options) -> CaseOutcome:
    """The aggregator ends with one clear line and exit code 6; the fleet waits. Nothing is lost."""
    with options.cluster(
        "full-disk",
        batches=2_000,
        meters=20,
        meter=MeterSettings(unreceipted_max=2),
        aggregator=AggregatorSettings(commit_interval_s=0.3, redeliver_s=3.0),
    ) as cluster:
        folder = cluster.world.folder
        with _small_disk(folder / "aggregator", 96) as state, _small_disk(folder / "fleet0", 1) as outbox:
            cluster.start()
            # 1 MB is too little from the start.
            cluster.wait(lambda: "no room on the disk" in cluster.fleets[0].tail(1_000), 60, "a full outbox")
            cluster.idle(3.0)
            alive = cluster.fleets[0].running
            cluster.say(f"the fleet {'waits' if alive else 'ended'}: {cluster.fleets[0].tail(1)}")
            _resize(outbox, 48)
            cluster.after(cluster.world.batches // 5)
            filler = _fill(state)
            cluster.wait(lambda: not cluster.aggregator.running, 60, "the aggregator's end on a full disk")
            code, said = cluster.aggregator.exit_code, cluster.aggregator.tail(1).strip()
            cluster.say(f"the aggregator ended with {code}: {said}")
            filler.unlink()
            cluster.recoveries.append(cluster.start_aggregator())
            outcome = cluster.finish()
            cluster.figures |= {"aggregator_exit": code, "fleet_waits": alive}
        outcome = options.require(outcome, code == 6, f"the aggregator's exit code was {code}")
        outcome = options.require(
            outcome, "error: " in said and "no room on the disk" in said, f"it said: {said}"
        )
        return options.require(outcome, alive, "the fleet did not wait")
