"""Meters are killed between any two steps of a batch."""

import hashlib

from faults.cases.kills import SLOW
from faults.options import Options
from faults.outcome import CaseOutcome
from gridhe.wire.envelope import open_envelope
from gridhe.wire.topics import PREFIX

__all__ = ["METER_POINTS", "meter_kills"]

METER_POINTS = (
    "meter.1.before",
    "meter.1.read",
    "meter.2.before",
    "meter.2.sealed",
    "meter.3.before",
    "meter.3.written",
    "meter.3.after",
    "meter.4.before",
    "meter.4.after",
    "meter.receipt.before",
)
_DEVICE_ONLY = {"meter.1.read"}  # only a device keeps a journal


class _Bytes:
    """Every envelope on the broker: a (plan, meter, window) must always have the same bytes."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str, int], bytes] = {}
        self.differing: list[tuple[str, str, int]] = []
        self.repeats = 0

    def on_message(self, topic: str, payload: bytes) -> None:
        header = open_envelope(payload, 1 << 24).header
        name = (header.plan, header.meter, header.window)
        digest = hashlib.sha256(payload).digest()
        if name in self.seen:
            self.repeats += 1
        if self.seen.setdefault(name, digest) != digest:
            self.differing.append(name)


def meter_kills(options: Options) -> CaseOutcome:
    """A fleet and a single device with a journal, 50 times in all, half at random and half at each step."""
    wire = _Bytes()
    kills = options.count(50)
    points = [METER_POINTS[i % len(METER_POINTS)] for i in range(kills // 2)]
    with options.cluster(
        "meter-kills",
        batches=4_000,
        meters=20,
        fleets=2,
        device=True,
        listens_to=(f"{PREFIX}/batch/#",),
        on_message=wire.on_message,
        **SLOW,
    ) as cluster:
        cluster.start()
        plan: list[str | None] = [*points, *[None] * (kills - len(points))]
        cluster.rng.shuffle(plan)
        hit = aimed = 0
        for moment, failpoint in zip(cluster.moments(len(plan)), plan, strict=True):
            cluster.after(moment)
            device = cluster.rng.random() < 0.5 or failpoint in _DEVICE_ONLY
            number = 1 if device and cluster.fleets[1].running else 0
            if failpoint is None or (failpoint in _DEVICE_ONLY and number == 0):
                cluster.idle(cluster.rng.uniform(0, 0.3))
                cluster.kill_fleet(number)
                continue
            aimed += 1
            passage = cluster.rng.randrange(1, 4)
            fleet = cluster.fleets[number]
            cluster.kill_fleet(number, fault_point=f"{failpoint}:{passage}")
            cluster.reaches(lambda fleet=fleet: not fleet.running, 8.0)  # type: ignore[misc]
            died = fleet.exit_code == -9
            hit += died
            cluster.say(
                f"{cluster.settled()} settled: {fleet.name} {failpoint}:{passage} {'died' if died else '-'}"
            )
            if not fleet.running and fleet.exit_code:
                fleet.start()
        cluster.figures |= {
            "kills": len(plan) - aimed + hit,
            "points_hit": f"{hit}/{aimed}",
            "repeats_on_wire": wire.repeats,
            "differing_bytes": len(wire.differing),
        }
        outcome = cluster.finish()
        outcome = options.require(outcome, not wire.differing, f"other bytes: {wire.differing[:3]}")
        return options.aim(outcome, wire.repeats > 0, "nothing was ever sent again: it proves nothing")
