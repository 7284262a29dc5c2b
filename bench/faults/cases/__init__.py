"""The faults, one module for each family; `CASES` names them all, in the order of docs/reliability.md."""

from collections.abc import Callable

from gridhe.bench.faults.cases.broker import broker_kills, persistent_broker_kills
from gridhe.bench.faults.cases.clocks import clock, rotations
from gridhe.bench.faults.cases.disk import aggregator_disk, outbox_disk
from gridhe.bench.faults.cases.flips import flipped_bytes
from gridhe.bench.faults.cases.full_disk import full_disk
from gridhe.bench.faults.cases.kills import aggregator_kills, commit_points, everybody_killed
from gridhe.bench.faults.cases.meters import meter_kills
from gridhe.bench.faults.cases.mutations import mutants
from gridhe.bench.faults.cases.network import network, reconnect_storm
from gridhe.bench.faults.cases.slow import outbox_bound, slow_aggregator
from gridhe.bench.faults.cases.soak import soak
from gridhe.bench.faults.cases.traffic import traffic
from gridhe.bench.faults.options import Options
from gridhe.bench.faults.outcome import Outcome

__all__ = ["CASES"]

CASES: dict[str, Callable[[Options], Outcome]] = {
    "everybody": everybody_killed,
    "aggregator-kills": aggregator_kills,
    "commit-points": commit_points,
    "broker-kills": broker_kills,
    "persistent-broker-kills": persistent_broker_kills,
    "meter-kills": meter_kills,
    "network": network,
    "reconnect-storm": reconnect_storm,
    "traffic": traffic,
    "aggregator-disk": aggregator_disk,
    "outbox-disk": outbox_disk,
    "full-disk": full_disk,
    "flipped-bytes": flipped_bytes,
    "clock": clock,
    "rotations": rotations,
    "slow-aggregator": slow_aggregator,
    "outbox-bound": outbox_bound,
    "mutants": mutants,
    "soak": soak,
}
