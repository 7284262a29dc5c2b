"""One demo run: an authority, a broker, an aggregator and a fleet as separate processes on this machine.

    1. the authority's home: plan, keys, credentials of every meter and of the aggregator
    2. an embedded broker (or the user's), with the passwords and ACLs that enrolment wrote
    3. the authority, which releases; the aggregator; then the fleet, which ends when all is receipted
    4. wait until every (group, window) is released, or nothing was released for too long
    5. stop all, the oldest last, and compare the released totals with the plaintext

The fleet's readings are written to a private folder, as a meter's own readings would be; neither broker,
aggregator nor authority gets its path. The folder is removed at the end.
"""

import contextlib
import json
import re
import secrets
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from gridhe.base.files import make_private_dir, write_private
from gridhe.base.processes import Child, ChildFailed, Children, clean_environment
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import Settings
from gridhe.demo.devices import SimulatedMeters
from gridhe.demo.guest import guest_at
from gridhe.demo.progress import DemoProgress
from gridhe.demo.proof import ExpectedTotals, compare, plaintext_of_cells, plaintext_of_source
from gridhe.demo.releases import Release, ReleaseFile, profile_of
from gridhe.demo.report import DemoOutcome
from gridhe.demo.workload import Workload
from gridhe.keyring.home.paths import HomePaths
from gridhe.meter_agent.sources.synthetic import SyntheticSource
from gridhe.plan.names import aggregator_user
from gridhe.plan.plan import Plan

__all__ = ["DemoRun", "RunOptions"]

_AGGREGATOR = "main"
_POLL_S = 0.1  # between two checks of the children and the released totals
_IDLE_S = "0.3"  # the authority releases when no total has arrived for this long
_READY_S = 2.0  # a port's reader has the plan and its first readings by then
_STALLED_S = 90.0  # give up after this long without a release, and report missing totals
_RECEIPTED = re.compile(r"receipted (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of a run, besides settings and workload."""

    broker_url: str | None = None  # None: an embedded broker
    prefer_broker: Literal["auto", "mosquitto", "iotcore"] = "auto"
    live: bool = False  # readings in real time; the workload's windows are then in the future
    ports: bool = False  # with `live`: simulated meters with P1 ports, and a process for each; else synthetic
    seed: int = 0
    keep: bool = False


class DemoRun:
    """One run; call `run` once."""

    def __init__(
        self,
        *,
        settings: Settings,
        workload: Workload,
        options: RunOptions,
        out: Path,
        progress: DemoProgress,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`out` is the folder for releases.jsonl."""
        self._settings, self._workload, self._options = settings, workload, options
        self._out, self._progress, self._now = out, progress, now
        self._broker: EmbeddedBroker | None = None
        self._ports: SimulatedMeters | None = None

    def run(self) -> DemoOutcome:
        """Run all five steps. Raises ChildFailed and other GridHEErrors; ends every process."""
        begun_s = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(_sigterm_unwinds())
            if self._options.broker_url is not None:
                stack.enter_context(guest_at(self._settings.broker, self._workload.meters, _AGGREGATOR))
            folder = stack.enter_context(_private_folder(self._options.keep, self._progress))
            passphrase = folder / "passphrase"
            write_private(passphrase, secrets.token_urlsafe(32).encode())
            env = clean_environment(GRIDHE_PASSPHRASE_FILE=str(passphrase), PYTHONUNBUFFERED="1")
            children = stack.enter_context(Children(folder, env))
            home = folder / "authority"
            self._configure(folder, self._settings)
            plan = self._enrol(children, folder, home)
            self._start_broker(stack, folder, home)
            stack.callback(children.stop_all)  # always before the broker stops
            released = folder / "releases.jsonl"
            authority = children.start("authority", *self._authority_arguments(home, released))
            aggregator = children.start("aggregator", *self._aggregator_arguments(home, folder))
            if self._options.ports:
                self._ports = stack.enter_context(
                    SimulatedMeters(len(self._workload.meters), seed=self._options.seed)
                )
            elif self._options.live:
                self._begin_with(plan.window_of(self._now()) + 1)
            fleet_s = time.monotonic()
            fleet = self._start_fleet(children, folder, home)
            servers = (aggregator, authority)
            if self._ports is not None:
                self._await_readers(self._ports, children, plan)
            self._progress.step(f"encrypting and adding up: {self._workload.origin}")
            answers = ReleaseFile(released)
            self._wait(children, servers, fleet, answers)
            moved_s = time.monotonic() - fleet_s
            for child in (*fleet, *servers):
                if child.stop() != 0:
                    raise ChildFailed(f"{child.name} did not stop cleanly{child.tail()}")
            answers.read()
            shutil.copyfile(released, self._out / "releases.jsonl")
            summary = _added_up([_last_object(child.output) for child in fleet])
            counted = _last_progress(aggregator.log)
        return self._outcome(plan, answers, summary, counted, moved_s, time.monotonic() - begun_s)

    # -- 1 to 3: setting up ------------------------------------------------------------------------

    def _configure(self, folder: Path, settings: Settings) -> None:
        """Write the settings of all processes, as JSON, which is also YAML."""
        write_private(folder / "gridhe.yaml", settings.model_dump_json().encode())

    def _enrol(self, children: Children, folder: Path, home: Path) -> Plan:
        self._progress.step(f"enrolling {len(self._workload.meters)} meters with an authority of their own")
        self._workload.write_meters(folder / "meters.csv")
        keyring, config = "gridhe.keyring.cli", ("--config", "gridhe.yaml")
        children.run("init", keyring, "init", "--home", str(home), *config)
        children.run(
            "enrol-meters", keyring, "enrol", "--home", str(home), "--from-csv", "meters.csv",
            *([] if self._options.ports else ["--fleet", str(folder / "fleet.json")]), *config,
        )  # fmt: skip
        children.run(
            "enrol-aggregator", keyring, "enrol", "--home", str(home), "--aggregator", _AGGREGATOR, *config
        )
        return next(iter(HomePaths(home).read_bundles().values()))[0].plan

    def _start_broker(self, stack: ExitStack, folder: Path, home: Path) -> None:
        url = self._options.broker_url
        if url is None:
            self._broker = EmbeddedBroker(
                folder / "broker",
                prefer=self._options.prefer_broker,
                passwords=(home / "broker" / "passwords").read_text(),
                acl=(home / "broker" / "acl").read_text(),
                settings=self._settings.broker,
            )
            stack.enter_context(self._broker)
            url = self._broker.url
        broker = self._settings.broker.model_copy(update={"url": url})
        self._configure(folder, self._settings.model_copy(update={"broker": broker}))
        self._progress.step(f"broker: {self._broker_name}")

    @property
    def _broker_name(self) -> str:
        return "your own" if self._broker is None else f"{self._broker.kind}, embedded"

    def _authority_arguments(self, home: Path, released: Path) -> list[str]:
        return [
            "gridhe.keyring.cli", "release", "--home", str(home), "--follow", "--idle-s", _IDLE_S,
            "--out", str(released), "--config", "gridhe.yaml",
        ]  # fmt: skip

    def _aggregator_arguments(self, home: Path, folder: Path) -> list[str]:
        credential = home / "credentials" / f"{aggregator_user(_AGGREGATOR)}.json"
        return [
            "gridhe.aggregator.cli", "--credential", str(credential),
            "--state-dir", str(folder / "aggregator"), "--config", "gridhe.yaml", "--no-live",
        ]  # fmt: skip

    def _start_fleet(self, children: Children, folder: Path, home: Path) -> list[Child]:
        """One process for all meters, or one for each port."""
        if self._ports is None:
            return [children.start("fleet", *self._fleet_arguments(folder))]
        return [
            children.start(
                meter,
                "gridhe.meter_agent.cli", "run", "--credential", str(home / "credentials" / f"{meter}.json"),
                "--state-dir", str(folder / meter), "--source", "p1", "--with", f"address={port}", "--json",
                "--config", "gridhe.yaml",
            )
            for meter, port in zip(self._workload.meters, self._ports.ports, strict=True)
        ]  # fmt: skip

    def _await_readers(self, ports: SimulatedMeters, children: Children, plan: Plan) -> None:
        """Wait until each port is read, and begin with the next window. Raises ChildFailed."""
        self._progress.step(f"starting {len(ports.ports)} meters, one process each")
        until_s = time.monotonic() + _STALLED_S
        while not ports.all_read:
            children.check()
            if time.monotonic() > until_s:
                raise ChildFailed(f"a meter's port was not read within {_STALLED_S:.0f} s")
            time.sleep(_POLL_S)
        self._begin_with(plan.window_of(self._now() + _READY_S) + 1)

    def _fleet_arguments(self, folder: Path) -> list[str]:
        workload = self._workload
        arguments = [
            "gridhe.meter_agent.cli", "fleet", "--credentials", str(folder / "fleet.json"),
            "--state-dir", str(folder / "fleet"), "--windows", str(workload.windows), "--json",
            "--config", "gridhe.yaml",
        ]  # fmt: skip
        if self._options.live:
            source = [
                "--source",
                "synthetic",
                "--seed",
                str(self._options.seed),
                "--start",
                str(workload.start_s),
            ]
            return [*arguments, *source, "--speed", "1"]
        make_private_dir(folder / "readings")
        workload.write_csv(folder / "readings" / "meters.csv")
        return [
            *arguments,
            "--source",
            "replay",
            "--csv",
            str(folder / "readings" / "meters.csv"),
            "--speed",
            "max",
        ]

    def _begin_with(self, first: int) -> None:
        """Start a live run with this window. A fleet that starts later makes the same readings."""
        self._workload = replace(self._workload, first_window=first)

    def _of_run(self, releases: Sequence[Release]) -> list[Release]:
        """Without windows before the run or after it: ports are read before and until it is over."""
        if self._ports is None:
            return list(releases)
        first = self._workload.first_window
        return [each for each in releases if first <= each.window < first + self._workload.windows]

    # -- 4: waiting --------------------------------------------------------------------------------

    def _wait(
        self, children: Children, servers: Sequence[Child], fleet: Sequence[Child], answers: ReleaseFile
    ) -> None:
        """Wait until everything is released or refused, or nothing changes. Raises ChildFailed."""
        leaves = set(self._workload.groups)
        wanted = len(self._workload.members()) * self._workload.windows
        patience_s = _STALLED_S + (self._workload.window_s if self._options.live else 0)
        seen, moved_s = -1, time.monotonic()
        while True:
            children.check()
            for server in servers:
                if server.exit_code is not None:
                    raise ChildFailed(f"{server.name} ended before the demo did{server.tail()}")
            if self._broker is not None and self._broker.pid is None:
                raise ChildFailed(f"the broker ended before the demo did: {self._broker.log_tail()}")
            answers.read()
            releases = self._of_run(answers.releases)
            batches = sum(each.meters for each in releases if each.group in leaves)
            if self._ports is None:
                batches = max(batches, _receipted(fleet[0].log))
            self._progress.update(batches=batches, totals=len(releases))
            settled = len(releases) + len(answers.refused)
            ended = self._ports is not None or fleet[0].exit_code is not None
            if ended and settled >= wanted:
                return
            if settled != seen:
                seen, moved_s = settled, time.monotonic()
            elif time.monotonic() - moved_s > patience_s:
                self._progress.step(f"nothing was released for {patience_s:.0f} s: giving up")
                return
            # Answers are lines of a file, which is polled. If the authority ends, this returns at once.
            servers[-1].ended_within(_POLL_S)

    # -- 5: comparing ------------------------------------------------------------------------------

    def _outcome(
        self,
        plan: Plan,
        answers: ReleaseFile,
        summary: dict[str, Any],
        counted: dict[str, Any],
        moved_s: float,
        seconds: float,
    ) -> DemoOutcome:
        workload = self._workload
        quantity = plan.quantities[0]
        if self._ports is not None:
            plain = self._ports.plaintext(workload)
        elif self._options.live:
            source = SyntheticSource(plan, seed=self._options.seed)
            plain = plaintext_of_source(workload, quantity.name, source)
        else:
            plain = plaintext_of_cells(workload, quantity.largest, self._settings.meter)
        published = summary["published"] + summary["resent"]
        releases = self._of_run(answers.releases)
        return DemoOutcome(
            workload=workload,
            plan=plan,
            broker=self._broker_name,
            profiles={group: profile_of(workload, plan, group, releases) for group in workload.members()},
            proof=compare(
                ExpectedTotals(workload, plan, plain),
                plan,
                releases,
                minimum_meters=max(plan.minimum_meters, self._settings.release.minimum_meters or 0),
            ),
            policy_counts=plain.counts,
            policies=self._settings.meter,
            batches_sent=summary["published"],
            batches_folded=counted["folded"],
            duplicates=counted["duplicates"],
            rejected=sum(counted["rejected"].values()),
            refused=len(answers.refused),
            bytes_per_batch=summary["bytes"] / published if published else 0.0,
            seal_ms_per_batch=summary["ms_per_batch"],
            total_ms_per_batch=None if self._options.live else moved_s * 1e3 / workload.batches,
            seconds=seconds,
        )


def _last_object(path: Path) -> dict[str, Any]:
    """The last line of a file, a JSON object. Raises ChildFailed."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        raise ChildFailed(f"{path.stem} ended without its summary") from None
    return record


def _added_up(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sums over all processes, and the median of the seal times."""
    summed = {name: sum(each[name] for each in summaries) for name in ("published", "resent", "bytes")}
    return {**summed, "ms_per_batch": statistics.median(each["ms_per_batch"] for each in summaries)}


def _receipted(log: Path) -> int:
    """The number of receipted batches in the fleet's log, for the progress bar only."""
    numbers = _RECEIPTED.findall(log.read_text(encoding="utf-8", errors="replace"))
    return int(numbers[-1]) if numbers else 0


def _last_progress(log: Path) -> dict[str, Any]:
    """The aggregator's last progress record in its log. Raises ChildFailed."""
    for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines()):
        with contextlib.suppress(ValueError):
            record: dict[str, Any] = json.loads(line)
            if record.get("event") == "progress":
                return record
    raise ChildFailed("the aggregator ended without a progress record in its log")


@contextmanager
def _private_folder(keep: bool, progress: DemoProgress) -> Iterator[Path]:
    """A folder that only this user can enter; removed afterwards unless `keep` is set."""
    folder = Path(tempfile.mkdtemp(prefix="gridhe-demo-"))
    try:
        yield folder
    finally:
        if keep:
            progress.step(f"kept the state of all processes in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Let SIGTERM unwind this process as Ctrl-C does, so that the children are stopped."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
