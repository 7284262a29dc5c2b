"""The fault cases, a module for each family; `CASES` names them all, in the order of docs/reliability.md."""

from collections.abc import Callable

from faults.cases.broker import broker_kills, persistent_broker_kills
from faults.cases.clocks import clock, rotations
from faults.cases.disk import aggregator_disk, outbox_disk
from faults.cases.flips import flipped_bytes
from faults.cases.full_disk import full_disk
from faults.cases.kills import aggregator_kills, commit_points, everybody_killed
from faults.cases.meters import meter_kills
from faults.cases.mutations import mutants
from faults.cases.network import network, reconnect_storm
from faults.cases.slow import outbox_bound, slow_aggregator
from faults.cases.soak import soak
from faults.cases.traffic import traffic
from faults.options import Options
from faults.outcome import CaseOutcome

__all__ = ["CASES"]

CASES: dict[str, Callable[[Options], CaseOutcome]] = {
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
