"""Measures that SIGKILL at random moments costs a group with a rogue meter no more than one strand.

make hostile      # runs this too, with 200 kills

Processes that fold the same batches, publish totals and take the authority's answers are killed: half of
them at one of the aggregator's fail points, half at any moment. The authority refuses every leaf total with a
rogue in it as unsound. Whatever was killed, a place (group, window, part) never has two contents, the strands
of a refused part are a partition of its members, and in the end the widest holds every other meter once.
"""

import argparse
import json
import logging
import os
import random
import select
import signal
import tempfile
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

from gridhe.wire.signing import SigningKey
from gridhe.wire.total import Total
from gridhe_testing.closing_world import Place, World, plan_of

_PATIENCE_S = 120.0
_SIZES = {"a": 48, "b": 60, "c": 30, "d": 3}
_ROGUES = {"a7", "b0", "c29"}
_POINTS = ("gridhe.aggregator.engine", "gridhe.aggregator.fold.verdicts")
_PASSAGES = 45  # fail points that one process passes, about
_LONGEST_S = 0.3  # a process without a kill takes about half of it
_ROUNDS = 12  # commits of one process; a whole window takes four


def _world(folder: Path) -> World:
    """The world that every process has, with the same keys."""
    groups = {group: [f"{group}{i}" for i in range(size)] for group, size in _SIZES.items()}
    key = SigningKey.from_private_bytes(bytes([9]) * 32)
    return World(folder, groups, plan_of(largest_group=60, largest_rollup=150), aggregator_key=key)


def _work(folder: Path, report: int) -> None:
    """Fold, publish and take answers until nothing new comes; write each total seen to `report`."""
    world = _world(folder)
    seen: set[Place] = set()
    for place, total in world.take(world.engine.send_again()).items():
        _report(report, place, total, world)
        seen.add(place)
    for meter in world.number:
        world.send(meter)
    for at in range(_ROUNDS):
        # The last one is after the grace and late times, so that no part stays open.
        totals = world.commit(world.now + (0 if at < _ROUNDS - 4 else 700 * at))
        for place, total in totals.items():
            _report(report, place, total, world)
        seen |= totals.keys()
        world.judge(
            (
                place,
                "unsound" if place[0] in _SIZES and _ROGUES & set(world.members(world.totals[place])) else "",
            )
            for place in sorted(seen)
        )
    os.write(report, b"done\n")


def _report(report: int, place: Place, total: Total, world: World) -> None:
    members = dict(world.members(total))
    line = json.dumps([place, sha256(total.ciphertext).hexdigest(), members])
    os.write(report, line.encode() + b"\n")


def _fork(folder: Path, *, passage: int | None, delay_s: float | None) -> tuple[list[Any], bool]:
    """One process, killed or not. Returns what it reported, and whether it ended by itself."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            logging.disable(logging.CRITICAL)
            left = passage or 0

            def point(name: str) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            with patch(f"{_POINTS[0]}.failpoint", point), patch(f"{_POINTS[1]}.failpoint", point):
                _work(folder, writing)
        finally:
            os._exit(1)
    os.close(writing)
    if delay_s is not None:
        select.select([], [], [], delay_s)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        if not select.select([pipe], [], [], _PATIENCE_S)[0]:
            os.kill(child, signal.SIGKILL)
            raise AssertionError(f"a process takes longer than {_PATIENCE_S} s")
        lines = pipe.read().split(b"\n")[:-1]  # a line that was cut off is dropped
    os.waitpid(child, 0)
    return [json.loads(line) for line in lines if line != b"done"], bool(lines) and lines[-1] == b"done"


def kills(count: int, seed: int, folder: Path) -> dict[str, object]:
    """`count` killed processes, window after window in a folder of its own; then one without a kill."""
    rng = random.Random(seed)
    figures = Counter[str]()
    wrong: list[str] = []
    at = 0
    while at < count:
        state, contents = folder / f"state{at}", dict[Place, tuple[str, dict[str, int]]]()
        for _ in range(rng.randint(1, 12)):
            passage = rng.randint(1, _PASSAGES) if rng.random() < 0.5 else None
            delay_s = None if passage else rng.uniform(0.0, _LONGEST_S)
            reported, done = _fork(state, passage=passage, delay_s=delay_s)
            figures["finished_before_the_kill"] += done
            wrong += _take(contents, reported)
            at += 1
        reported, done = _fork(state, passage=None, delay_s=None)
        wrong += _take(contents, reported)
        wrong += [] if done else ["the process without a kill did not end"]
        wrong += _broken_rules(contents)
        figures["windows"] += 1
        figures["strands"] += sum(group in _SIZES and part > 0 for group, _, part in contents)
    return {"killed": at, **figures, "broken_rules": wrong, "seed": seed}


def _take(contents: dict[Place, tuple[str, dict[str, int]]], reported: list[Any]) -> list[str]:
    wrong = []
    for place, digest, members in reported:
        key = (place[0], place[1], place[2])
        if contents.setdefault(key, (digest, members))[0] != digest:
            wrong.append(f"{key} has two contents")
    return wrong


def _broken_rules(contents: dict[Place, tuple[str, dict[str, int]]]) -> list[str]:
    """What the totals of one window say against the rules."""
    wrong: list[str] = []
    lost: set[str] = set()
    for group, size in _SIZES.items():
        meters = {f"{group}{i}" for i in range(size)}
        parts = {part: members for (name, _, part), (_, members) in contents.items() if name == group}
        refused = [set(members) for members in parts.values() if _ROGUES & set(members)]
        strands = Counter[str]()
        for part, members in parts.items():
            if part:
                strands.update(members)
        if set(parts.get(0, ())) != meters or (len(parts) > 1 and strands != Counter(meters)):
            wrong.append(f"the strands of {group} are no partition of its meters")
        if meters & _ROGUES:
            lost |= min(refused, key=len)
    widest = Counter[str]()
    for (group, _, _), (_, members) in contents.items():
        if group == "grid":
            widest.update(members)
    everyone = {f"{group}{i}" for group, size in _SIZES.items() for i in range(size)}
    if widest != Counter(everyone - lost):
        wrong.append("the widest totals do not hold every meter outside the bad strands once")
    if len(lost) >= sum(size for group, size in _SIZES.items() if group != "d") / 2:
        wrong.append(f"{len(lost)} meters were lost")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = kills(options.kills, options.seed, Path(scratch))
    print(json.dumps(figures), flush=True)
    if figures["broken_rules"] or not figures["strands"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
