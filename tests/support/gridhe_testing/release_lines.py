"""Measures the promises of `release --follow --out`: SIGKILL at random moments loses and doubles no line.

make hostile      # runs this too, with 200 kills

In each round four totals arrive, of which one may not be released, and a follower is started and killed. At
the end comes one run without a kill. Then each total has one line, and `release/<group>` the newest window.
"""

import argparse
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

from gridhe.base.commands import run_command
from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Session
from gridhe.config.settings import BrokerSettings
from gridhe.keyring.cli.command import cli
from gridhe.keyring.release.inbox import Inbox
from gridhe.wire import topics
from gridhe.wire.total import open_total
from gridhe_testing.commands import free_port, wait_for
from gridhe_testing.spoilt import PASSPHRASE, SpoiltGrid, small_plan

PATIENCE_S = 60.0
GROUPS = ("north/f1", "north/f2", "south/f1")
TOO_SMALL = "south/f2"
Key = tuple[str, int]  # group, window


class _World:
    """A home, and totals that arrive in its inbox."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        settings = small_plan().model_copy(update={"broker": BrokerSettings(url=url)})
        self.grid = SpoiltGrid(folder, {**dict.fromkeys(GROUPS, 6), TOO_SMALL: 4}, settings=settings)
        self.home = self.grid.authority
        self.sums: dict[Key, list[int]] = {}

    def arrive(self, window: int) -> None:
        payloads = [self._total(group, window) for group in (*GROUPS, TOO_SMALL)]
        inbox = Inbox(self.folder / "authority" / "inbox.db")
        inbox.store([(open_total(payload, len(payload)).header, payload) for payload in payloads], "now")
        inbox.close()

    def _total(self, group: str, window: int) -> bytes:
        readings = self.grid.plan.layout.block("import_wh", "reading")
        batches = [self.grid.batch(meter, window) for meter in self.grid.meters(group)]
        self.sums[group, window] = np.sum([batch.slots[readings] for batch in batches], axis=0).tolist()
        return self.grid.total(group, window)


class _Child:
    """`gridhe-keyring release` in a forked process; its JSON lines come through a pipe."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.started, self._lines = time.monotonic(), 0
        self._log = folder / "log"
        self.out, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(writing, 1)
            with self._log.open("ab") as log:
                os.dup2(log.fileno(), 2)
            # Python's file objects cache the type of the old file, and whether it can seek.
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.environ |= {"GRIDHE_PASSPHRASE": PASSPHRASE, "GRIDHE_RELEASE__PUBLISH": "true"}
            command = [
                "release",
                "--home",
                str(folder / "authority"),
                "--out",
                str(folder / "released.jsonl"),
            ]
            try:
                run_command(cli, [*command, "--json", "--idle-s", "0.1", *more])
            except SystemExit as ended:
                sys.stdout.flush()
                os._exit(int(ended.code or 0))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(writing)

    def read(self, lines: int) -> float:
        """Wait until this many lines are on stdout; return the seconds since the start."""
        deadline = self.started + PATIENCE_S
        while self._lines < lines:
            if not select.select([self.out], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self.end(signal.SIGKILL)
                raise AssertionError(f"no line within {PATIENCE_S:g} s")
            chunk = os.read(self.out, 1 << 20)
            if not chunk:
                raise AssertionError(f"the release ended too early: {self._log.read_text()[-500:]}")
            self._lines += chunk.count(b"\n")
        return time.monotonic() - self.started

    def drain(self) -> None:
        """Read all, until it ends by itself."""
        deadline = self.started + PATIENCE_S
        while select.select([self.out], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not os.read(self.out, 1 << 20):
                return
        self.end(signal.SIGKILL)
        raise AssertionError(f"a release takes longer than {PATIENCE_S:g} s")

    def end(self, number: int | None = None) -> int:
        if number is not None:
            os.kill(self.pid, number)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.out)
        return os.waitstatus_to_exitcode(status)


def lines_of(path: Path) -> tuple[list[dict[str, object]], int]:
    """The file's complete lines, and the number of torn ones."""
    whole: list[dict[str, object]] = []
    torn = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            whole.append(json.loads(line))
            torn += not line.endswith(b"\n")
        except ValueError:
            torn += 1
    return whole, torn


def kills(count: int, seed: int, folder: Path) -> dict[str, object]:
    """Kill this many `release --follow` processes, and count the lines."""
    mosquitto = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if mosquitto is None:
        raise AssertionError("there is no mosquitto here; apt install mosquitto")
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    os.environ["GRIDHE_BROKER__URL"] = url
    world, rng = _World(folder, url), random.Random(seed)
    world.home.enrolment.close()  # no connection of ours in the children
    path = folder / "released.jsonl"
    broker = subprocess.Popen(
        [mosquitto, "-c", str(folder / "authority" / "broker" / "mosquitto.conf")], stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port, broker)
        world.arrive(1)
        child = _Child(folder, "--follow")
        first_s, usual_s = child.read(1), child.read(len(GROUPS) + 1)
        child.end(signal.SIGTERM)
        open_at_the_kill = 0
        for window in range(2, count + 2):
            world.arrive(window)
            before = len(lines_of(path)[0])
            child = _Child(folder, "--follow")
            if window % 2:
                time.sleep(rng.uniform(0.0, usual_s * 1.1))
            else:  # while lines are written
                child.read(1)
                time.sleep(rng.uniform(0.0, (usual_s - first_s) * 1.1))
            child.end(signal.SIGKILL)
            open_at_the_kill += len(lines_of(path)[0]) < before + len(GROUPS) + 1
        child = _Child(folder)
        child.drain()
        code = child.end()
        retained = _retained(world, url)
    finally:
        broker.terminate()
        broker.wait(10)
    return {
        **_judged(world, path),
        "killed": count,
        "killed_before_all_lines": open_at_the_kill,
        "last_exit": code,
        "retained_is_not_the_newest": sum(retained.get(group) != count + 1 for group in GROUPS),
        "seed": seed,
    }


def _judged(world: _World, path: Path) -> dict[str, object]:
    whole, torn = lines_of(path)
    released, refused, wrong = Counter[Key](), Counter[Key](), 0
    for line in whole:
        key = str(line["group"]), int(str(line["window"]))
        if "refused" in line:
            refused[key] += 1
            continue
        released[key] += 1
        intervals = line["intervals"]
        assert isinstance(intervals, list)
        wrong += [each["import_wh"]["sum"] for each in intervals] != world.sums[key]
    expected = {key for key in world.sums if key[0] != TOO_SMALL}
    too_small = world.sums.keys() - expected
    return {
        "totals": len(expected),
        "lost": len(expected - released.keys()),
        "doubled": sum(released.values()) - len(released),
        "torn": torn,
        "wrong": wrong,
        "refusals": len(too_small),
        "refusals_lost": len(too_small - refused.keys()),
        "refusals_doubled": sum(refused.values()) - len(refused),
    }


def _retained(world: _World, url: str) -> dict[str, int]:
    """The window published on release/<group>, read as the operator."""
    password = (world.folder / "authority" / "credentials" / "operator.password").read_text().strip()
    found: dict[str, int] = {}

    def take(topic: str, payload: bytes) -> None:
        record = json.loads(payload)
        assert topic == topics.release(record["group"])
        found[record["group"]] = record["window"]

    with EventLoop() as loop:
        session = Session(
            settings=BrokerSettings(url=url),
            client_id="operator",
            username="operator",
            password=password,
            on_message=take,
            subscriptions=(f"{topics.PREFIX}/release/#",),
        )
        loop.add(session)
        loop.run_until(lambda: len(found) == len(GROUPS), PATIENCE_S)
        session.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(kills(options.kills, options.seed, Path(scratch))), flush=True)


if __name__ == "__main__":
    main()
