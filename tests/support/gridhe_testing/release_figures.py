"""Measures the promises of release: the noise's deviation, the rounding, and kills in the middle.

make hostile      # runs this too, at full size

noise      that many draws of one coefficient's and one slot's flooding noise, against the plan's
rounding   totals of the plan's most meters, decrypted with flooding, against the integer sums
kills      releases killed with SIGKILL at random moments: the same answer afterwards, one noise draw each
"""

import argparse
import hashlib
import json
import os
import random
import select
import signal
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.bench.authority import MadeUpAuthority
from gridhe.config.settings import ReleaseSettings, Settings
from gridhe.custody.ring import embed
from gridhe.keyring.home.enrolment import Enrolment
from gridhe.keyring.release import decrypt
from gridhe.keyring.release.decrypt import Decryptor, Unsound, gaussian
from gridhe.keyring.release.ledger import verify_ledger
from gridhe.keyring.release.releaser import Releaser
from gridhe.plan.guards import GuardSums, home_key
from gridhe.plan.planner import choose, make_plan
from gridhe.wire.total import open_total
from gridhe_testing.spoilt import SpoiltGrid
from gridhe_testing.totals import make_batch

_PATIENCE_S = 120.0


def noise(draws: int) -> dict[str, float]:
    """Deviation over `draws` independent totals' noise, by the deviation the plan promises.

    One coefficient and one slot of each: within a polynomial the slots are correlated.
    """
    plan = make_plan(Settings(), choose(Settings()), authority="a" * 17, key_id="k" * 17, first_window=0)
    n, key = plan.parameters.ring_degree, os.urandom(32)
    coefficient, slot = np.empty(draws), np.empty(draws)
    for i in range(draws):
        drawn = gaussian(key, i.to_bytes(32, "big"), n)
        coefficient[i] = drawn[i % n]
        slot[i] = embed(drawn).real[i % (n // 2)]
    return {
        "draws": draws,
        "coefficient_by_planned": float(coefficient.std()),
        "coefficient_mean": float(coefficient.mean()),
        "slot_by_planned": float(slot.std() / np.sqrt(n / 2)),
        "slot_sigma_by_half_a_unit": float(np.sqrt(n / 2) * plan.flooding_sigma / plan.scale / 0.5),
    }


def rounding(slots: int, seed: int) -> dict[str, object]:
    """At least this many slots of totals of the default plan's most meters, each checked and compared."""
    rng, pool = np.random.default_rng(seed), 64
    made = MadeUpAuthority(Settings(), 0)
    key, plan, guards = made.key, made.plan, made.encryptor.guards
    decryptor = Decryptor(plan, key.secret_context, os.urandom(32), home_key(made.guard_secret))
    batches, proven = [], []
    for number in range(pool):
        values = {"import_wh": rng.integers(0, plan.quantities[0].largest + 1, plan.intervals)}
        device = made.credential_of(f"m{number}", "north")
        batches.append(make_batch(made.encryptor, device, 0, values))
        proven.append(guards.sums(0, [(device.guard_key, batches[-1].proof)]))
    views = [key.planes.views(batch.ciphertext) for batch in batches]
    compared = wrong = unsound = totals = 0
    while compared < slots:
        total, times = Accumulator(key.planes), np.zeros(pool, np.int64)
        for at in rng.integers(0, pool, plan.largest_rollup):
            total.fold(views[at])
            times[at] += 1
        sums = GuardSums(
            meters=plan.largest_rollup,
            present=np.sum([n * each.present for n, each in zip(times, proven, strict=True)], axis=0),
            guards=np.sum([n * each.guards for n, each in zip(times, proven, strict=True)], axis=0),
        )
        slots_sum = np.sum([n * batch.slots for n, batch in zip(times, batches, strict=True)], axis=0)
        expected = slots_sum[: plan.layout.used]
        try:
            found = decryptor.open(total.pack(), window=0, sums=sums)
            wrong += int((found != expected).sum())
        except Unsound:
            unsound += 1
        compared += len(expected)
        totals += 1
    return {
        "slots": compared,
        "totals": totals,
        "meters": plan.largest_rollup,
        "wrong": wrong,
        "unsound": unsound,
        "seed": seed,
    }


class _Spied:
    """Logs each noise draw before it is used, so that draws of a killed process are known too."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._real = decrypt.gaussian

    def __call__(self, key: bytes, label: bytes, count: int) -> object:
        drawn = self._real(key, label, count)
        digest = hashlib.sha256(drawn.tobytes()).hexdigest()
        os.write(self._handle, f"{label.hex()} {digest}\n".encode())
        return drawn


def kills(count: int, seed: int, folder: Path) -> dict[str, object]:
    """`count` releases, each killed at a random moment, then requested twice again."""
    rng, log = random.Random(seed), folder / "draws"
    grid = SpoiltGrid(folder, {"north": 6})
    home, plan = grid.authority, grid.plan
    payloads = [grid.total("north", window) for window in range(count + 1)]
    expected = [
        np.sum([grid.batch(meter, window).slots for meter in grid.meters("north")], axis=0)[
            : plan.layout.used
        ]
        for window in range(count + 1)
    ]

    def release(window: int) -> list[int]:
        """Release in a new process, from opening the ledger; return its answer."""
        with Releaser(
            home.paths,
            plans={plan.plan_id: plan},
            secrets=lambda: home.vault.secrets,
            enrolment=Enrolment(home.paths.enrolment),
            settings=ReleaseSettings(),
            now=lambda: "2026-01-01T00:00:00Z",
        ) as releaser:
            _, _, answer = releaser.release(open_total(payloads[window], 1 << 24))
            return [v for kinds in answer.blocks.values() for block in kinds.values() for v in block]

    def fork(window: int, kill_after_s: float | None) -> tuple[bytes, float]:
        reading, writing = os.pipe()
        started = time.perf_counter()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                decrypt.gaussian = _Spied(log)  # type: ignore[assignment]
                os.write(writing, json.dumps(release(window)).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reading, "rb") as pipe:
            if not select.select([pipe], [], [], _PATIENCE_S)[0]:
                os.kill(child, signal.SIGKILL)
                raise AssertionError(f"a release takes longer than {_PATIENCE_S} s")
            said = pipe.read()
        os.waitpid(child, 0)
        return said, time.perf_counter() - started

    home.enrolment.close()  # no connection of ours in the children
    _, usual_s = fork(count, None)
    died = repeated = wrong = 0
    for window in range(count):
        said, _ = fork(window, rng.uniform(0.0, usual_s * 1.1))
        died += not said
        first, _ = fork(window, None)
        second, _ = fork(window, None)
        repeated += first == second and (not said or said == first)
        wrong += json.loads(first) != expected[window].tolist()
    records: list[dict[str, object]] = []
    verify_ledger(home.paths.ledger, on_record=records.append)
    draws: dict[str, set[str]] = defaultdict(set)
    lines = log.read_text().split()
    for label, digest in zip(lines[::2], lines[1::2], strict=True):
        draws[label].add(digest)
    kinds = [record["kind"] for record in records]
    return {
        "killed": count,
        "died_before_answering": died,
        "same_answer_afterwards": repeated,
        "wrong_answers": wrong,
        "decided": kinds.count("decided"),
        "answered": kinds.count("answered"),
        "totals": count + 1,
        "drawn": len(lines) // 2,
        "most_different_draws_of_a_total": max(map(len, draws.values())),
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=100_000)
    parser.add_argument("--slots", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps({"kills": kills(options.kills, options.seed, Path(scratch))}), flush=True)
    if options.draws:
        print(json.dumps({"noise": noise(options.draws)}), flush=True)
    if options.slots:
        print(json.dumps({"rounding": rounding(options.slots, options.seed)}), flush=True)


if __name__ == "__main__":
    main()
