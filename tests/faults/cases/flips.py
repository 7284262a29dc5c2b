"""A flipped bit in a state file while no process runs."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from faults.options import Options
from faults.outcome import CaseOutcome
from faults.simulation import Envelopes, Simulation
from faults.world import World
from gridhe.config.settings import MeterSettings
from gridhe.errors import StateError
from gridhe.meter_agent.outbox import Outbox, SealedBatch

__all__ = ["flipped_bytes"]

_METERS, _WINDOWS = 4, 4
_AUTHORITY = "a0123456789abcdef"


def flipped_bytes(options: Options) -> CaseOutcome:
    """One bit of a state file flipped while no process runs: reported or harmless, never a wrong total."""
    begun, rng = time.monotonic(), random.Random(options.seed)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    tries = options.batches or options.count(2_000)
    with options.folder("flipped", memory=True) as folder:
        world = World(folder, meters=_METERS, groups=2, windows=_WINDOWS, now_s=time.time())
        envelopes = Envelopes(world)
        for clean in (False, True):
            source = folder / f"aggregator-{clean}"
            first = _half_life(envelopes, source, clean=clean)
            go_on = partial(_life_after, first=first, envelopes=envelopes)
            _flip(source, tries * 3 // 8, rng, counts, faults, go_on)
            source = folder / f"outbox-{clean}"
            kept = _outbox(source, clean=clean)
            _flip(source, tries // 8, rng, counts, faults, partial(_reread, kept=kept))
            options.say(f"{'stopped cleanly' if clean else 'killed'}: {dict(counts)}")
    return CaseOutcome(
        case="flipped-bytes",
        seed=options.seed,
        sent=sum(counts[what] for what in ("told", "harmless", "wrong")),
        accepted=counts["told"] + counts["harmless"],
        lost=counts["wrong"],
        duplicated=0,
        released=0,
        recovery_s=0.0,
        faults=tuple(faults[:20]),
        figures=dict(counts),
        seconds=round(time.monotonic() - begun, 1),
    )


def _half_life(envelopes: Envelopes, folder: Path, *, clean: bool) -> Simulation:
    """A state with closed windows, an open one, receipted batches and others to come; killed, or stopped."""
    simulation = Simulation(envelopes, folder / "live" if not clean else folder, seed=1)
    simulation.start()
    windows = list(simulation.world.all_windows)
    for window in windows[:-2]:
        simulation.send((meter, window) for meter in simulation.world.meters)
        simulation.commit()
    simulation.send((meter, windows[-2]) for meter in simulation.world.meters[:3])
    simulation.commit()
    simulation.send([(simulation.world.meters[0], windows[-1])])
    simulation.commit()
    if not clean:
        # As after a kill: the log is not yet merged into the database.
        for path in sorted((folder / "live").iterdir()):
            if not path.name.endswith("-shm"):
                shutil.copy(path, folder / path.name)
    simulation.crash()
    shutil.rmtree(folder / "live", ignore_errors=True)
    return simulation


def _life_after(folder: Path, *, first: Simulation, envelopes: Envelopes) -> list[str] | None:
    """Continue with this state until all is released; return what is wrong, None if damage was reported."""
    simulation = Simulation(envelopes, folder, seed=1)
    simulation.outbox = dict(first.outbox)
    simulation.oracle.resume(first.oracle)
    told = False
    try:
        simulation.start()
        simulation.drain()
    except StateError:
        told = True
    finally:
        simulation.crash()
    wrong = simulation.oracle.faults + [str(each) for each in simulation.oracle.duplicated()]
    if not told:
        wrong += [f"missing {each}" for each in simulation.oracle.lost()]
    return wrong or (None if told else [])


def _flip(
    source: Path,
    tries: int,
    rng: random.Random,
    counts: Counter[str],
    faults: list[str],
    go_on: Callable[[Path], list[str] | None],
) -> None:
    """Change one bit of a copy of the state, many times over, and check the result."""
    files = [path for path in sorted(source.iterdir()) if path.is_file() and path.stat().st_size]
    sizes = {path.name: path.stat().st_size for path in files if path.name != "lock"}
    copy = source.with_name("copy")
    for _ in range(tries):
        shutil.copytree(source, copy)
        name = rng.choices(list(sizes), weights=[size**0.5 for size in sizes.values()])[0]
        # Half of them at the beginnings of pages, where SQLite stores its own structures.
        offset = rng.randrange(sizes[name])
        if rng.random() < 0.5:
            offset = min(sizes[name] - 1, offset // 4096 * 4096 + rng.randrange(128))
        bit = rng.randrange(8)
        data = bytearray((copy / name).read_bytes())
        data[offset] ^= 1 << bit
        (copy / name).write_bytes(data)
        wrong = go_on(copy)
        verdict = "told" if wrong is None else "wrong" if wrong else "harmless"
        counts[verdict] += 1
        counts[f"{name}_{verdict}"] += 1
        if wrong:
            faults.append(f"{name} byte {offset} bit {bit}: {wrong[:2]}")
        shutil.rmtree(copy)


Kept = tuple[object, ...]


def _outbox(folder: Path, *, clean: bool) -> Kept:
    """An outbox with batches that wait, a journal, a watermark and a note; returns its contents."""
    live = folder if clean else folder.with_name("live")
    rng = random.Random(7)
    with Outbox(live, authority=_AUTHORITY, settings=MeterSettings()) as outbox:
        outbox.set_note("start_s", "1000")
        for window in range(6):
            batches = [
                SealedBatch(
                    meter=m, plan="p", window=window, until_s=window + 1, payload=rng.randbytes(20_000)
                )
                for m in ("m0", "m1")
            ]
            outbox.commit(sealed=batches, journals={"m0": rng.randbytes(400)})
        kept = _held(outbox)
        if not clean:
            shutil.copytree(live, folder, ignore=shutil.ignore_patterns("*-shm"))
    if not clean:
        shutil.rmtree(live)
    return kept


def _held(outbox: Outbox) -> Kept:
    batches = [(m, each, outbox.payload(each.id)) for m in ("m0", "m1") for each in outbox.waiting(m)]
    return batches, outbox.journal("m0"), outbox.sealed_until_s(), outbox.note("start_s")


def _reread(folder: Path, *, kept: Kept) -> list[str] | None:
    """The differences of an outbox from before; None if it reported the damage."""
    try:
        with Outbox(folder, authority=_AUTHORITY, settings=MeterSettings()) as outbox:
            return [] if _held(outbox) == kept else ["the outbox holds something else"]
    except StateError:
        return None
