"""Clocks that are wrong, and plans that change."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from faults.cases.kills import SLOW
from faults.options import Options
from faults.outcome import CaseOutcome
from faults.simulation import Envelopes, Simulation
from faults.world import World
from gridhe.base.clock import PlausibleClock
from gridhe.meter_agent.sources.files.moments import parse_time
from gridhe.meter_agent.sources.protocol import Sample
from gridhe.meter_agent.windows import WindowBuilder

__all__ = ["clock", "rotations"]

_MS = 0.001
_AHEAD = 8  # windows
_FAR_AHEAD_S = 800 * 86_400.0


def clock(options: Options) -> CaseOutcome:
    """Jumps of an hour and of 800 days, steps back, a daylight-saving fold, a millisecond at every edge."""
    begun = time.monotonic()
    faults: list[str] = []
    windows = options.count(60)
    with options.folder("clock", memory=True) as folder:
        world = World(folder, meters=6, groups=2, windows=windows, now_s=time.time(), window_s=600)
        envelopes = Envelopes(world)
        simulation = Simulation(envelopes, folder / "state", seed=options.seed)
        simulation.start()
        rng, plan = simulation.rng, world.key.plan
        checked = 0
        held_back = world.meters[-1], world.all_windows[-1]
        for window in world.all_windows:
            end_s = plan.window_start_s(window + 1)
            batches = [(meter, window) for meter in world.meters]
            for offset_s in (-plan.early_s - _MS, -plan.early_s + _MS):
                # A window may end at most `early_s` ahead of this clock.
                simulation.now = end_s + offset_s
                seen = Counter(simulation.engine.counters.rejected)
                simulation.send(batches[:1])
                early = simulation.engine.counters.rejected["early"] - seen["early"]
                checked += 1
                if early != (offset_s < -plan.early_s):
                    faults.append(f"window {window}, clock {offset_s:+.3f} s from its end: early={early}")
            for batch in batches[1:]:
                if batch == held_back:
                    continue
                simulation.now = end_s + rng.choice([-3600.0, 3600.0, -5.0, 0.0, 1.0, 7200.0])
                simulation.send([batch])
                if rng.random() < 0.3:
                    simulation.commit()
            simulation.now = end_s + rng.uniform(-3600, 3600)
            simulation.commit()
            if rng.random() < 0.1:
                simulation.start()
        last = plan.window_start_s(world.first_window + windows)
        for offset_s, late in ((plan.horizon_s - _MS, 0), (plan.horizon_s + _MS, 1)):
            simulation.now = last + offset_s
            seen = Counter(simulation.engine.counters.rejected)
            simulation.send([held_back, (world.meters[0], world.all_windows[-1])])
            if simulation.engine.counters.rejected["late"] - seen["late"] != late:
                faults.append(f"clock {offset_s:.3f} s after the last window: late is not {late}")
            simulation.start()  # without a commit: nothing is counted
        _starts_far_ahead(simulation, last)
        simulation.now = last + 1.0
        simulation.drain()
        simulation.crash()
        faults += simulation.oracle.faults + _edges() + _folds()
        outcome = CaseOutcome(
            case="clock",
            seed=options.seed,
            sent=len(envelopes.sealed),
            accepted=simulation.oracle.held(),
            lost=len(simulation.oracle.lost()),
            duplicated=len(simulation.oracle.duplicated()),
            released=len(simulation.oracle.totals),
            recovery_s=0.0,
            rejected=simulation.refused,
            faults=tuple(faults[:20]),
            figures={"edges": checked, "totals_said_again": simulation.oracle.repeats},
        )
    return replace(outcome, seconds=round(time.monotonic() - begun, 1))


def _starts_far_ahead(simulation: Simulation, last_s: float) -> None:
    """A start 800 days ahead, meters that send everything again to it, and the clock corrected."""
    sealed = list(simulation.outbox) + list(simulation.receipted)
    for now_s in (last_s + _FAR_AHEAD_S, last_s + 1.0):
        simulation.now = now_s
        simulation.start()
        clock = PlausibleClock(
            known_s=simulation.engine.known_s, wall=lambda: simulation.now, running=lambda: 0.0
        )
        # (A small step back is accepted after a while; this case does not wait for it.)
        simulation.believed = clock.now() is not None or now_s <= last_s + 1.0
        simulation.commit()
        simulation.send(sealed)
        simulation.commit()


def _edges() -> list[str]:
    """A sample a millisecond before or after a window's edge belongs to one window, always the same."""
    faults = []
    for offset_s, window in ((-_MS, 9), (0.0, 10), (_MS, 10)):
        window_builder = WindowBuilder(quantities=("import_wh",), kind="energy", window_s=600, interval_s=60)
        window_builder.add(Sample(at_s=6000 + offset_s, values={"import_wh": 5}))
        window_builder.add(Sample(at_s=6000 + offset_s - 3600, values={"import_wh": 9}))  # a step back: late
        window_builder.finish(partial=True)
        found = [closed.window for closed in window_builder.closed]
        if found != [window] or window_builder.counts.late != 1:
            faults.append(f"a sample {offset_s:+.3f} s from the edge is in {found}, not [{window}]")
    return faults


def _folds() -> list[str]:
    """The hour that comes twice has two instants, whatever the machine's own time zone."""
    stamps = ["2023-10-29T02:30:00+02:00", "2023-10-29T02:30:00+01:00", "2023-10-29T02:30:00"]
    seen = set()
    for zone in ("UTC", "Europe/Berlin", "America/New_York"):
        with _time_zone(zone):
            seen.add(tuple(parse_time(stamp) for stamp in stamps))
    if len(seen) != 1:
        return [f"stamps depend on the machine's time zone: {seen}"]
    first, second, _ = next(iter(seen))
    return [] if first is not None and second == first + 3600 else [f"the fold is folded: {seen}"]


@contextmanager
def _time_zone(zone: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


def rotations(options: Options) -> CaseOutcome:
    """20 new keys and plans in 10,000 batches, with kills of aggregator and fleet in between."""
    count = options.count(20)
    with options.cluster(
        "rotations",
        batches=10_000,
        meters=40,
        **SLOW,
    ) as cluster:
        world = cluster.world
        cluster.start()
        step = world.windows // (count + 1)
        for number in range(1, count + 1):
            cluster.after((number * step - step // 2) * len(world.meters))
            # Published before any meter gets there, as in a rotation: a window that some sealed under the
            # old plan and some under the new one closes only when its grace is over.
            first = max(world.first_window, cluster.backlog.sealed_until_s() // world.window_s) + _AHEAD
            first = max(first, world.key.plan.first_window + 1)
            if first >= world.first_window + world.windows:
                break
            world.add_key(first)
            cluster.authority.publish()
            cluster.idle(cluster.rng.uniform(0.2, 1.0))
            kind = cluster.rng.choice(["aggregator", "fleet", "none"])
            if kind == "aggregator":
                cluster.kill_aggregator()
            elif kind == "fleet":
                cluster.kill_fleet()
            cluster.say(f"rotation {number} at {cluster.settled()} settled, killed: {kind}")
        outcome = cluster.finish()
        plans = {plan for plan, _, _, _ in cluster.oracle.totals}
        cluster.figures["plans_with_totals"] = len(plans)
        by_window: dict[tuple[str, int], set[str]] = {}
        for plan, group, window, _ in cluster.oracle.totals:
            by_window.setdefault((group, window), set()).add(plan)
        cluster.figures["windows_of_two_plans"] = sum(len(found) > 1 for found in by_window.values())
        return options.aim(outcome, len(plans) > max(1, count * 3 // 4), f"only {len(plans)} plans were used")
