"""A disk that is full, fails or loses power."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from faults.bad_disk import BadDisk, BadOs, Mode, installed
from faults.options import Options
from faults.outcome import CaseOutcome
from faults.simulation import Envelopes, Simulation
from faults.world import World
from gridhe.config.settings import MeterSettings
from gridhe.errors import StateError
from gridhe.keyring.release import ledger as ledger_module
from gridhe.keyring.release.answers import Answers, digest_of
from gridhe.keyring.release.ledger import Ledger
from gridhe.meter_agent.outbox import Outbox, SealedBatch, Settled
from gridhe.wire.total import TotalKey

__all__ = ["aggregator_disk", "outbox_disk"]

_METERS, _WINDOWS = 4, 4
_MODES: tuple[Mode, ...] = ("error", "full", "power")


def _steps(at: int, every: int, rng: random.Random) -> int:
    """The next operation to fail: every one, or about every `every`th."""
    return at + (1 if every <= 1 else rng.randrange(1, 2 * every))


def _scenario(simulation: Simulation) -> None:
    """A short run: every window in two commits, one restart."""
    simulation.start()
    for window in simulation.world.all_windows:
        for half in (0, 1):
            simulation.send((meter, window) for meter in simulation.world.meters[half::2])
            simulation.commit()


def aggregator_disk(options: Options) -> CaseOutcome:
    """The aggregator's state with the nth write, sync or truncation failing, for every n and each kind."""
    begun, rng = time.monotonic(), random.Random(options.seed)
    every = max(1, round(1 / options.scale))
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with options.folder("aggregator-disk", memory=True) as folder, installed() as disk:
        world = World(folder, meters=_METERS, groups=2, windows=_WINDOWS, now_s=time.time())
        envelopes = Envelopes(world)
        for mode in _MODES:
            at = 0
            while True:
                at = _steps(at, every, rng)
                state = folder / f"{mode}-{at}"
                simulation = Simulation(envelopes, state, seed=at)
                disk.arm(mode, at)
                survived = _broken_run(simulation, disk, rng, faults)
                counts[mode] += 1
                counts["points"] += disk.failed > 0
                lost = simulation.oracle.lost()
                counts["lost"] += len(lost) + len(simulation.outbox)
                counts["released"] += len(simulation.oracle.totals)
                faults += [f"{mode} at {at}: {fault}" for fault in simulation.oracle.faults]
                if lost or simulation.oracle.duplicated():
                    options.say(f"{mode} at {at}: lost {lost[:3]}")
                counts["duplicated"] += len(simulation.oracle.duplicated())
                shutil.rmtree(state, ignore_errors=True)
                if survived:
                    break  # the run has fewer operations than that
            options.say(f"{mode}: {counts[mode]} runs, up to operation {at}")
    batches = world.batches * counts["points"]
    return CaseOutcome(
        case="aggregator-disk",
        seed=options.seed,
        sent=batches,
        accepted=batches - counts["lost"],
        lost=counts["lost"],
        duplicated=counts["duplicated"],
        released=counts["released"],
        recovery_s=0.0,
        faults=tuple(faults[:20]),
        figures={mode: counts[mode] for mode in _MODES},
        seconds=round(time.monotonic() - begun, 1),
    )


def _broken_run(simulation: Simulation, disk: BadDisk, rng: random.Random, faults: list[str]) -> bool:
    """Run until the disk fails, then restart on a good one; return whether it never failed."""
    survived = False
    try:
        _scenario(simulation)
        survived = True
    except StateError as error:
        if "\n" in str(error) or len(str(error)) > 400:
            faults.append(f"not one clear line: {error}")
    if disk.failed and survived:
        survived = False  # it failed in an operation without consequences (a checkpoint)
    power = disk.mode == "power"
    simulation.crash()
    if power and disk.failed:
        disk.aftermath(rng)
    disk.repair()
    try:
        simulation.start()
        simulation.drain()
    except StateError as error:
        faults.append(f"{disk.mode}: no recovery with room again: {error}")
    simulation.crash()
    return survived


# -- outbox ------------------------------------------------------------------------------------------


def _batch(number: int) -> SealedBatch:
    payload = random.Random(number).randbytes(20_000)
    return SealedBatch(
        meter=f"m{number % 3}",
        plan="p" + "0" * 16,
        window=number // 3,
        until_s=number // 3 + 1,
        payload=payload,
    )


def _outbox_life(outbox: Outbox, told: dict[tuple[str, int], bytes], gone: set[tuple[str, int]]) -> None:
    for number in range(0, 12, 3):
        batches = [_batch(n) for n in range(number, number + 3)]
        outbox.commit(sealed=batches, journals={"m0": b"journal %d" % number})
        told.update({(b.meter, b.window): b.payload for b in batches})
        if number >= 3:
            word = Settled(meter="m0", plan=batches[0].plan, window=number // 3 - 1)
            gone.add(("m0", word.window))  # from here on it may be deleted
            outbox.commit(settled=[word])


def outbox_disk(options: Options) -> CaseOutcome:
    """The outbox and the ledger with the nth operation failing: acknowledged data is there, byte for byte."""
    begun, rng = time.monotonic(), random.Random(options.seed)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with options.folder("outbox-disk", memory=True) as folder, installed() as disk:
        for mode in _MODES:
            at, survived = 0, False
            while not survived:
                at += 1
                state = folder / f"{mode}-{at}"
                told: dict[tuple[str, int], bytes] = {}
                gone: set[tuple[str, int]] = set()
                disk.arm(mode, at)
                survived = _outbox_run(state, told, gone, disk, rng)
                counts[mode] += 1
                faults += [f"outbox, {mode} at {at}: {each}" for each in _outbox_faults(state, told, gone)]
                shutil.rmtree(state, ignore_errors=True)
            at, survived = 0, False
            while not survived:
                at += 1
                state = folder / f"ledger-{mode}-{at}"
                state.mkdir()
                survived = _ledger_run(state, mode, at, disk, rng, faults)
                counts[f"ledger_{mode}"] += 1
    return CaseOutcome(
        case="outbox-disk",
        seed=options.seed,
        sent=12 * sum(counts[mode] for mode in _MODES),
        accepted=12 * sum(counts[mode] for mode in _MODES),
        lost=sum("missing" in fault for fault in faults),
        duplicated=0,
        released=0,
        recovery_s=0.0,
        faults=tuple(faults[:20]),
        figures=dict(counts),
        seconds=round(time.monotonic() - begun, 1),
    )


def _outbox_run(
    state: Path,
    told: dict[tuple[str, int], bytes],
    gone: set[tuple[str, int]],
    disk: BadDisk,
    rng: random.Random,
) -> bool:
    outbox = None
    survived = False
    try:
        outbox = Outbox(state, authority="a" * 17, settings=MeterSettings())
        _outbox_life(outbox, told, gone)
        survived = disk.failed == 0
    except StateError:
        pass
    if outbox is not None:
        outbox.close()
    if disk.mode == "power" and disk.failed:
        disk.aftermath(rng)
    disk.repair()
    return survived


def _outbox_faults(
    state: Path, told: dict[tuple[str, int], bytes], gone: set[tuple[str, int]]
) -> Iterator[str]:
    """Batches that the outbox had acknowledged and has lost."""
    try:
        with Outbox(state, authority="a" * 17, settings=MeterSettings()) as outbox:
            held = {
                (meter, each.window): outbox.payload(each.id)
                for meter in ("m0", "m1", "m2")
                for each in outbox.waiting(meter)
            }
            until = outbox.sealed_until_s()
            fresh = outbox.commit(sealed=[replace(_batch(2), window=99, until_s=100)])
    except StateError as error:
        yield f"no recovery: {error}"
        return
    for place, payload in told.items():
        if place not in held and place not in gone:
            yield f"{place} is missing"
        elif place in held and held[place] != payload:
            yield f"{place} has other bytes"
        if until.get(place[0], 0) <= place[1]:
            yield f"{place}: its window could be sealed again"
    if not fresh.stored:
        yield "it takes no more batches"


# -- ledger ------------------------------------------------------------------------------------------


def _ledger_run(
    state: Path, mode: Mode, at: int, disk: BadDisk, rng: random.Random, faults: list[str]
) -> bool:
    """decide, store, close, three times over; then all decisions and answers must still be there."""
    given: dict[int, bytes] = {}
    answers = ledger = None
    survived = False
    disk.arm(mode, at)
    decided = 0
    try:
        with patch.object(ledger_module, "os", BadOs(disk)):
            answers = Answers(state / "answers.db")
            ledger = Ledger(
                state / "ledger", now=lambda: "2026-01-01T00:00:00Z", heads={"answers.db": answers.head()}
            )
            for window in range(3):
                ledger.append("decided", plan="p", window=window, group="g", part=0)
                decided += 1
                body = b"answer %d" % window
                answers.store(TotalKey("p", "g", window, 0), body, ledger.head)
                ledger.append("answered", plan="p", window=window, group="g", part=0, answer=digest_of(body))
                given[window] = body
        survived = disk.failed == 0
    except StateError:
        pass
    for each in (ledger, answers):
        if each is not None:
            each.close()
    if mode == "power" and disk.failed:
        disk.aftermath(rng)
    disk.repair()
    kinds: Counter[str] = Counter()
    try:
        answers = Answers(state / "answers.db")
        ledger = Ledger(
            state / "ledger",
            now=lambda: "2026-01-01T00:00:00Z",
            heads={"answers.db": answers.head()},
            on_record=lambda record: kinds.update([record["kind"]]),
        )
    except StateError as error:
        faults.append(f"ledger, {mode} at {at}: no recovery: {error}")
        return survived
    for window, body in given.items():
        if answers.get(TotalKey("p", "g", window, 0)) != body:
            faults.append(f"ledger, {mode} at {at}: the answer of window {window} is missing")
    if kinds["decided"] < decided or kinds["answered"] < len(given):
        faults.append(
            f"ledger, {mode} at {at}: {dict(kinds)}, not {decided} decided, {len(given)} answered: missing"
        )
    ledger.append("decided", plan="p", window=9, group="g", part=0)
    ledger.close()
    answers.close()
    return survived
