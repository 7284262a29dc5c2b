"""A whole grid with simulated meters on faulty lines, and what its released totals must be.

Each kind of meter has a group of its own, with two synthetic meters beside it: their readings are known, so a
group's released total tells the reading of the meter in it, or that it has none.

    an interval                                        its reading
    without an interruption                            the register's difference; missing only if a busy
                                                       machine stalled the agent for half an interval
    with a cable pull, a killed or stopped agent       missing; or, over all such intervals in a row, the
                                                       register's difference
    with an exchanged meter                            missing; or less than the difference, never more
"""

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from gridhe.base.files import write_private
from gridhe.base.processes import Child, Children, clean_environment
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import Settings
from gridhe.demo.releases import ReleaseFile
from gridhe.keyring.home.paths import HomePaths
from gridhe.meter_agent.sources.synthetic import SyntheticSource
from gridhe.plan.names import aggregator_user
from gridhe.plan.plan import Plan
from gridhe_testing.devices.kinds import Kind
from gridhe_testing.devices.meter import SimulatedMeter
from gridhe_testing.devices.register import TrueRegister
from gridhe_testing.serial_pair import SerialPair

__all__ = ["DeviceFigures", "DeviceRun", "as_json"]

_LARGEST_WH = 99  # of the device in one interval
_LARGEST_W = 200_000  # a spike is far above it
_START_WH = 20_000_000
_PARTNERS = 2  # as many as the fewest meters of a release
_PATIENCE_S = 120.0


@dataclass(slots=True, kw_only=True)
class DeviceFigures:
    """What one kind of meter went through, and what was released of it."""

    kind: str
    telegrams: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    interruptions: Counter[str] = field(default_factory=Counter)
    intervals: int = 0
    exact: int = 0  # intervals whose reading is the register's difference
    joined: int = 0  # interrupted ones whose sum in a row is the register's difference
    missing: int = 0
    stalled: list[int] = field(default_factory=list)  # missing without an interruption
    wrong: list[str] = field(default_factory=list)
    summaries: list[dict[str, object]] = field(default_factory=list)


class DeviceRun:
    """One run. Call `run` once."""

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[Kind],
        *,
        telegrams: int,
        per_second: float,
        interval_s: int,
        intervals: int,
        interrupted_every_s: float,
        seed: int,
    ) -> None:
        """`folder` is empty. `intervals`: those of a window."""
        self._folder, self._kinds = folder, kinds
        self._telegrams, self._per_second = telegrams, per_second
        self._interval_s, self._window_s = interval_s, interval_s * intervals
        self._every_s, self._seed = interrupted_every_s, seed

    def run(self) -> list[DeviceFigures]:
        """Run it to the last released total. Raises ChildFailed, AssertionError."""
        with ExitStack() as stack:
            folder, home = self._folder, self._folder / "authority"
            passphrase = folder / "passphrase"
            write_private(passphrase, secrets.token_urlsafe(32).encode())
            env = clean_environment(GRIDHE_PASSPHRASE_FILE=str(passphrase), PYTHONUNBUFFERED="1")
            children = stack.enter_context(Children(folder, env))
            plan = self._set_up(children, home)
            broker = stack.enter_context(
                EmbeddedBroker(
                    folder / "broker",
                    prefer="mosquitto",
                    passwords=(home / "broker" / "passwords").read_text(),
                    acl=(home / "broker" / "acl").read_text(),
                )
            )
            self._configure(broker.url)
            stack.callback(children.stop_all)
            released = folder / "releases.jsonl"
            children.start(
                "release", "gridhe.keyring.cli", "release", "--home", str(home), "--follow",
                "--idle-s", "0.3", "--out", str(released), "--config", "gridhe.yaml",
            )  # fmt: skip
            children.start(
                "aggregator", "gridhe.aggregator.cli", "--credential",
                str(home / "credentials" / f"{aggregator_user('main')}.json"),
                "--state-dir", str(folder / "aggregator"), "--config", "gridhe.yaml", "--no-live",
            )  # fmt: skip
            children.start(
                "partners", "gridhe.meter_agent.cli", "fleet", "--credentials", str(folder / "partners.json"),
                "--state-dir", str(folder / "partners"), "--source", "synthetic", "--seed", str(self._seed),
                "--config", "gridhe.yaml",
            )  # fmt: skip
            meters = [
                self._meter(stack.enter_context(SerialPair(folder / kind.name)), kind, env)
                for kind in self._kinds
            ]
            stack.callback(lambda: [meter.agent.stop() for meter in meters])
            first, end = asyncio.run(self._live(meters, plan))
            answers = ReleaseFile(released)
            self._await_release(answers, children, first, end)
            for meter in meters:
                assert meter.agent.stop() == 0, meter.agent.tail()
            return [self._judge(meter, plan, answers, first, end) for meter in meters]

    # -- setting up ----------------------------------------------------------------------------

    def _configure(self, url: str) -> None:
        plan = {
            "window_s": self._window_s,
            "interval_s": self._interval_s,
            "quantities": [
                {"name": "import_wh", "unit": "Wh", "largest": 20_000, "statistics": ["sum", "mean"]}
            ],
            "minimum_meters": _PARTNERS,
            "small_groups": "accepted",
            "grace_s": 10.0,
            "late_s": 10.0,
        }
        settings = Settings.model_validate(
            {"plan": plan, "broker": {"url": url}, "logging": {"format": "json"}}
        )
        write_private(self._folder / "gridhe.yaml", settings.model_dump_json().encode())

    def _set_up(self, children: Children, home: Path) -> Plan:
        self._configure("mqtt://127.0.0.1:1")
        partners = [
            f"{kind.name}-{number},north/{kind.name}" for kind in self._kinds for number in range(_PARTNERS)
        ]
        devices = [f"{kind.name},north/{kind.name}" for kind in self._kinds]
        for name, rows in (("partners", partners), ("devices", devices)):
            (self._folder / f"{name}.csv").write_text("\n".join(["meter,group", *rows]) + "\n")
        keyring, common = "gridhe.keyring.cli", ("--home", str(home), "--config", "gridhe.yaml")
        children.run("init", keyring, "init", *common)
        children.run("enrol-a", keyring, "enrol", "--aggregator", "main", *common)
        children.run("enrol-d", keyring, "enrol", "--from-csv", "devices.csv", *common)
        children.run(
            "enrol-p", keyring, "enrol", "--from-csv", "partners.csv", "--fleet", "partners.json", *common
        )
        return next(iter(HomePaths(home).read_bundles().values()))[0].plan

    def _meter(self, pair: SerialPair, kind: Kind, env: dict[str, str]) -> SimulatedMeter:
        folder = self._folder
        settings = (f"address={pair.path}", "clock=host", f"largest_w={_LARGEST_W}", *kind.settings)

        def start_agent() -> Child:
            return Child(
                f"meter-{kind.name}",
                "gridhe.meter_agent.cli",
                [
                    "run", "--credential", str(folder / "authority" / "credentials" / f"{kind.name}.json"),
                    "--state-dir", str(folder / f"state-{kind.name}"), "--source", kind.name, "--json",
                    *(word for setting in settings for word in ("--with", setting)),
                    "--config", "gridhe.yaml",
                ],
                env,
                folder,
            )  # fmt: skip

        register = TrueRegister(
            interval_s=self._interval_s,
            start_wh=_START_WH,
            largest_wh=_LARGEST_WH,
            seed=f"{self._seed}/{kind.name}",
            start_s=int(time.time()),
        )
        return SimulatedMeter(kind, register, pair, start_agent, seed=f"{self._seed}/{kind.name}")

    # -- the run -------------------------------------------------------------------------------

    async def _live(self, meters: Sequence[SimulatedMeter], plan: Plan) -> tuple[int, int]:
        """Send everything. Returns the first whole window and one past the last."""
        ended = False
        first = 0

        def all_sent() -> bool:
            return bool(first) and all(meter.sent >= self._telegrams for meter in meters)

        async with asyncio.timeout(_PATIENCE_S + 20 * self._telegrams / self._per_second):
            async with asyncio.TaskGroup() as tasks:
                for meter in meters:
                    tasks.create_task(meter.send(lambda: ended, self._per_second))
                while not all(meter.is_read for meter in meters):
                    await asyncio.sleep(0.1)
                await asyncio.sleep(3)  # the plan has come
                first = plan.window_of(time.time()) + 1
                await asyncio.sleep(first * self._window_s - time.time())
                for meter in meters:
                    meter.sent = 0
                    tasks.create_task(meter.suffer(all_sent, self._every_s))
                while not all_sent():
                    await asyncio.sleep(0.1)
                # To the end of this window, and until its last reading has come.
                last = plan.window_of(time.time())
                await asyncio.sleep((last + 1) * self._window_s - time.time() + 3)
                ended = True
        return first, last + 1

    def _await_release(self, answers: ReleaseFile, children: Children, first: int, end: int) -> None:
        wanted = {(f"north/{kind.name}", window) for kind in self._kinds for window in range(first, end)}
        until_s = time.monotonic() + _PATIENCE_S
        while not wanted <= {(each.group, each.window) for each in answers.releases}:
            children.check()
            assert time.monotonic() < until_s, "not every total was released"
            time.sleep(0.2)
            answers.read()
        assert not answers.refused

    # -- the judgement -------------------------------------------------------------------------

    def _judge(
        self, meter: SimulatedMeter, plan: Plan, answers: ReleaseFile, first: int, end: int
    ) -> DeviceFigures:
        figures = DeviceFigures(
            kind=meter.kind.name,
            telegrams=meter.sent,
            faults=meter.line.counts,
            interruptions=meter.counts,
        )
        readings = self._readings(meter.kind, plan, answers, first, end)
        figures.intervals = len(readings)
        per_window = plan.intervals
        start = first * per_window
        disturbed = self._disturbed(meter, range(start, end * per_window))
        swapped = {int(at_s // self._interval_s) for at_s in meter.swaps}
        true = {interval: meter.register.energy_wh(interval) for interval in readings}
        for is_disturbed, group in groupby(readings, lambda interval: interval in disturbed):
            intervals = list(group)
            if not is_disturbed:
                self._judge_calm(figures, intervals, readings, true)
                continue
            sums = [readings[each] for each in intervals]
            known = [value for value in sums if value is not None]
            figures.missing += len(sums) - len(known)
            wanted = sum(true[each] for each in intervals)
            whole = len(known) == len(sums) and not swapped & set(intervals)
            figures.joined += len(known)
            if sum(known) > wanted or min(known, default=0) < 0 or (whole and sum(known) != wanted):
                figures.wrong.append(f"intervals {intervals}: {sums}, the register rose by {wanted}")
        return figures

    @staticmethod
    def _judge_calm(
        figures: DeviceFigures,
        intervals: Sequence[int],
        readings: dict[int, int | None],
        true: dict[int, int],
    ) -> None:
        for each in intervals:
            if readings[each] == true[each]:
                figures.exact += 1
            elif readings[each] is None:
                figures.stalled.append(each)
            else:
                figures.wrong.append(f"interval {each}: {readings[each]}, the register rose by {true[each]}")

    def _disturbed(self, meter: SimulatedMeter, intervals: range) -> set[int]:
        found: set[int] = set()
        for from_s, until_s in meter.disturbed(intervals.stop * self._interval_s):
            found |= set(range(int(from_s // self._interval_s), int(until_s // self._interval_s) + 1))
        return found & set(intervals)

    def _readings(
        self, kind: Kind, plan: Plan, answers: ReleaseFile, first: int, end: int
    ) -> dict[int, int | None]:
        """The device's reading of each interval: the released total less the synthetic meters'."""
        found: dict[int, int | None] = {}
        partners = SyntheticSource(plan, seed=self._seed)
        for window in range(first, end):
            (total,) = [
                each
                for each in answers.releases
                if (each.group, each.window) == (f"north/{kind.name}", window)
            ]
            others = [
                partners.window(f"{kind.name}-{number}", window)["import_wh"] for number in range(_PARTNERS)
            ]
            blocks = total.blocks["import_wh"]
            for at in range(plan.intervals):
                sum_, present = blocks["reading"][at], blocks["present"][at]
                assert sum_ is not None, "withheld"
                assert present is not None
                assert present in (_PARTNERS, _PARTNERS + 1)
                value = sum_ - int(sum(int(each[at]) for each in others))
                found[window * plan.intervals + at] = value if present > _PARTNERS else None
                assert present > _PARTNERS or value == 0
        return found


def as_json(figures: DeviceFigures) -> str:
    """One line."""
    return json.dumps(
        {
            "kind": figures.kind,
            "telegrams": figures.telegrams,
            "faults": dict(figures.faults),
            "interruptions": dict(figures.interruptions),
            "intervals": figures.intervals,
            "exact": figures.exact,
            "joined": figures.joined,
            "missing": figures.missing,
            "stalled": figures.stalled,
            "wrong": figures.wrong,
        }
    )
