"""Measures that SIGKILL at random moments loses no failed total and counts none twice.

make hostile      # runs this too, with 100 kills

Spoilt totals of several groups and two aggregators are released one after the other by processes that are
killed; each opens the ledger anew, and resumes what is suspended. The kill comes at a random moment after
the ledger has grown by one to three lines. After each kill the ledger is read by a second, simple count
of the rules. At the end comes a run without a kill, which goes on until the key is stopped.
"""

import argparse
import json
import os
import random
import select
import signal
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from gridhe.keyring.home.enrolment import Enrolment
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.ledger import LedgerRecord, verify_ledger
from gridhe.keyring.release.resuming import ask_resume, read_stops
from gridhe.keyring.release.service import ReleaseService
from gridhe.wire.total import Total, open_total
from gridhe_testing.spoilt import FAULTS, SpoiltGrid

_PATIENCE_S = 120.0
_GROUPS = {"north/f1": 20, "north/f2": 6, "south/f1": 6}
_AGGREGATORS = ("agg1", "agg2")
_TOTALS = 72  # more than stop a key
_KEY_FAILURES = 64


def broken_rules(records: list[LedgerRecord]) -> list[str]:
    """What a ledger says against the rules: counted by hand, without gridhe.keyring.release.stops."""
    wrong: list[str] = []
    keys, seen = Counter[str](), Counter[tuple[str, int, int]]()
    excluded: set[str] = set()
    recent: dict[str, list[datetime]] = {}
    runs: dict[str, set[int]] = {}
    for record in records:
        kind = record["kind"]
        if kind == "resumed":
            recent.pop(record.get("aggregator", ""), None)
            runs.pop(record.get("group", ""), None)
            excluded.discard(record.get("meter", ""))
        if kind != "unsound":
            continue
        total = record["group"], record["window"], record["part"]
        name, at = record["aggregator"], datetime.fromisoformat(record["at"])
        seen[total] += 1
        if seen[total] > 1:
            wrong.append(f"{total} was counted twice")
        if keys[record["key"]] >= _KEY_FAILURES:
            wrong.append(f"{total} was judged under a stopped key")
        if len(recent.get(name, [])) >= 3:
            wrong.append(f"{total} of {name} was judged while that was suspended")
        if len(runs.get(record["group"], set())) >= 3:
            wrong.append(f"{total} was judged while its group was suspended")
        keys[record["key"]] += 1
        runs.setdefault(record["group"], set()).add(record["window"])
        excluded |= {meter for meter, _ in record["excluded"]}
        faults = {fault for _, _, fault in record["suspects"]}
        names = {meter for meter, _, _ in record["suspects"]}
        if not (faults and faults <= {"without_guards", "other_window"} and names <= excluded):
            recent.setdefault(name, []).append(at)
    return wrong


def kills(count: int, seed: int, folder: Path) -> dict[str, object]:
    """`count` processes that release spoilt totals, each killed at a random moment."""
    rng = random.Random(seed)
    grid = SpoiltGrid(folder, _GROUPS, aggregators=_AGGREGATORS)
    totals = [_total(grid, number) for number in range(_TOTALS)]

    paths = grid.authority.paths
    inbox = Inbox(paths.inbox)
    inbox.store([(total.header, payload) for total, payload in totals], _now())
    inbox.close()

    def work() -> None:
        """Release what is in the inbox, and resume what is suspended, until the key is stopped."""
        grid.authority.enrolment = Enrolment(paths.enrolment)
        for _ in range(_TOTALS):
            with ReleaseService(grid.authority, grid.settings, emit=lambda outcome: None) as service:
                service.offline()
            stops = read_stops(paths)
            if stops.stopped(grid.plan.key_id):
                return
            ask_resume(paths, stops.aggregators | stops.groups)
        raise AssertionError("the key was never stopped")

    def fork(*, grown_bytes: int | None = None, delay_s: float = 0.0) -> bool:
        """Work in a new process; kill it `delay_s` after the ledger grew. Whether it ended before."""
        reading, writing = os.pipe()
        size = _size(paths.ledger)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work()
                os.write(writing, b"done")
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        if grown_bytes is not None:
            deadline = time.monotonic() + _PATIENCE_S
            while _size(paths.ledger) < size + grown_bytes and time.monotonic() < deadline:
                if select.select([reading], [], [], 0.0005)[0]:
                    break  # it ended
            time.sleep(delay_s)
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reading, "rb") as pipe:
            if not select.select([pipe], [], [], _PATIENCE_S)[0]:
                os.kill(child, signal.SIGKILL)
                raise AssertionError(f"the releases take longer than {_PATIENCE_S} s")
            done = pipe.read() == b"done"
        os.waitpid(child, 0)
        return done

    def ledger() -> list[LedgerRecord]:
        records: list[LedgerRecord] = []
        verify_ledger(paths.ledger, on_record=records.append)
        return records

    grid.authority.enrolment.close()  # no connection of ours in the children
    finished, wrong, growth = 0, [], Counter[int]()
    for _ in range(count):
        before = len(ledger())
        # Lines are of 300 bytes or more; a delay of some milliseconds reaches every step of the next total.
        finished += fork(grown_bytes=rng.choice((1, 400, 800)), delay_s=rng.uniform(0.0, 0.03))
        records = ledger()
        growth[len(records) - before] += 1
        wrong += broken_rules(records)
    done = fork()
    records = ledger()
    wrong += broken_rules(records)
    stops, enrolment = read_stops(paths), Enrolment(paths.enrolment)
    on_roster = {entry.meter for entry in enrolment.entries()}
    enrolment.close()
    kinds = Counter(record["kind"] for record in records)
    return {
        "killed": count,
        "finished_before_the_kill": finished,
        "kills_after_which_the_ledger_had_grown": count - growth[0],
        "last_run_done": done,
        "broken_rules": wrong,
        "failed_totals": kinds["unsound"],
        "resumed": kinds["resumed"],
        "torn_lines": kinds["recovered"],
        "key_stopped": stops.stopped(grid.plan.key_id),
        "excluded": sorted(stops.excluded),
        "roster_is_right": on_roster == grid.devices.keys() - stops.excluded.keys(),
        "seed": seed,
    }


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _total(grid: SpoiltGrid, number: int) -> tuple[Total, bytes]:
    groups = sorted(_GROUPS)
    payload = grid.total(
        groups[number % len(groups)],
        100 + number,
        fault=FAULTS[number % len(FAULTS)],
        at=number % 5,
        aggregator=_AGGREGATORS[number % 2],
    )
    return open_total(payload, len(payload)), payload


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = kills(options.kills, options.seed, Path(scratch))
    print(json.dumps(figures), flush=True)
    good = figures["last_run_done"] and figures["key_stopped"] and figures["roster_is_right"]
    if figures["broken_rules"] or not good or figures["failed_totals"] != _KEY_FAILURES:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
