"""The options of a run."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from faults.cluster import Cluster
from faults.outcome import CaseOutcome
from faults.world import LARGE_RING, SMALL_RING, World

__all__ = ["Options"]

_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder made there is private


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Seed, size and output of progress. `scale` shrinks a case's batches and repetitions."""

    seed: int = 1
    batches: int | None = None  # instead of the case's own
    scale: float = 1.0
    minutes: float = 60.0  # of the soak
    large_ring: bool = False
    keep: bool = False
    root: Path | None = None  # the parent of the runs' folders; None: the folder for temporary files
    say: Callable[[str], None] = field(default=lambda line: None)
    mutate: dict[str, str] = field(default_factory=dict)

    def count(self, full: int) -> int:
        """Scale a number of repetitions for this run."""
        return max(1, round(full * self.scale))

    @contextmanager
    def folder(self, case: str, *, memory: bool = False) -> Iterator[Path]:
        """A private folder, deleted at the end unless kept; `memory`: where nothing waits for a disk."""
        root = self.root or (_MEMORY if memory and _MEMORY.is_dir() else None)
        path = Path(tempfile.mkdtemp(prefix=f"gridhe-faults-{case}-", dir=root))
        try:
            yield path
        finally:
            if self.keep:
                self.say(f"kept: {path}")
            else:
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def cluster(
        self, case: str, *, batches: int, meters: int, groups: int = 4, whole: bool = False, **more: Any
    ) -> Iterator[Cluster]:
        """A cluster for so many batches (times `scale`, unless `whole`); `more` goes to World or Cluster."""
        batches = batches if whole else self.batches or self.count(batches)
        windows = max(2, -(-batches // meters))
        of_world = {
            k: more.pop(k) for k in ("minimum_meters", "grace_s", "late_s", "window_s", "ring") if k in more
        }
        with self.folder(case) as folder:
            world = World(
                folder,
                meters=meters,
                groups=groups,
                windows=windows,
                now_s=time.time(),
                **{"ring": LARGE_RING if self.large_ring else SMALL_RING, **of_world},
            )
            more.setdefault("mutate", self.mutate)
            with Cluster(world, case=case, seed=self.seed, say=self.say, **more) as cluster:
                self.say(f"{case}: {world.describe()}")
                yield cluster

    @staticmethod
    def require(outcome: CaseOutcome, held: bool, otherwise: str) -> CaseOutcome:
        """The outcome, with a fault more unless a case's own figure was held."""
        return outcome if held else replace(outcome, faults=(*outcome.faults, otherwise))

    @staticmethod
    def aim(outcome: CaseOutcome, hit: bool, otherwise: str) -> CaseOutcome:
        """The outcome, marked idle unless the faults hit what they were aimed at: it proves too little."""
        return outcome if hit else replace(outcome, idle=otherwise)
