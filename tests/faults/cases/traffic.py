"""Lost receipts, duplicated batches, and batches in any order."""

import time
from dataclasses import replace

from faults.options import Options
from faults.outcome import CaseOutcome
from faults.simulation import Envelopes, Simulation
from faults.world import World

__all__ = ["traffic"]


def traffic(options: Options) -> CaseOutcome:
    """1,000 lost receipts, 30 % duplicates, reordered up to 500 places: the same state as in order."""
    begun = time.monotonic()
    batches, lost_receipts, depth = options.batches or options.count(10_000), options.count(1_000), 500
    with options.folder("traffic", memory=True) as folder:
        world = World(folder, meters=40, windows=max(2, batches // 40), now_s=time.time())
        envelopes = Envelopes(world)
        order = list(envelopes.sealed)
        straight = Simulation(envelopes, folder / "straight", seed=options.seed)
        straight.start()
        for at in range(0, len(order), 100):
            straight.send(order[at : at + 100])
            straight.commit()

        crooked = Simulation(envelopes, folder / "crooked", seed=options.seed)
        crooked.start()
        rng = crooked.rng
        doomed = set(rng.sample(order, min(lost_receipts, len(order))))
        lost = 0

        def drop(batch: tuple[str, int]) -> bool:
            nonlocal lost
            if batch in doomed:
                doomed.discard(batch)
                lost += 1
                return True
            return False

        crooked.drop_receipt = drop
        copies = [batch for batch in order for _ in range(2 if rng.random() < 0.3 else 1)]
        # Each moves at most `depth` places: a key of its place and a random part of the depth.
        shuffled = [b for _, b in sorted((at + rng.random() * depth, b) for at, b in enumerate(copies))]
        for at in range(0, len(shuffled), 100):
            crooked.send(shuffled[at : at + 100])
            crooked.commit()
            if rng.random() < 0.05:
                crooked.start()  # an occasional crash, between commits
        crooked.drain()
        straight.drain()
        same_state = crooked.digest() == straight.digest()
        same_totals = crooked.oracle.totals == straight.oracle.totals
        same_bytes = crooked.oracle.content == straight.oracle.content
        for each in (crooked, straight):
            each.crash()
        outcome = CaseOutcome(
            case="traffic",
            seed=options.seed,
            sent=len(order),
            accepted=crooked.oracle.held(),
            lost=len(crooked.oracle.lost()) + len(crooked.outbox),
            duplicated=len(crooked.oracle.duplicated()),
            released=len(crooked.oracle.totals),
            recovery_s=0.0,
            rejected=crooked.refused,
            faults=tuple(crooked.oracle.faults),
            figures={
                "lost_receipts": lost,
                "copies": len(copies) - len(order),
                "same_digest": same_state,
                "same_totals": same_totals,
                "same_bytes": same_bytes,
            },
        )
        outcome = options.require(outcome, same_state and same_totals and same_bytes, "the state differs")
        outcome = options.require(outcome, lost >= lost_receipts, f"only {lost} receipts were lost")
        return replace(outcome, seconds=round(time.monotonic() - begun, 1))
