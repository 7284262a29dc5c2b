"""All forgeries at length: with all checks, with each one alone, at every size, under new keys each round.

    python -m gridhe_testing.forgeries.campaign --rounds 10 --seed 1

Prints a JSON line for each forgery: how often it was tried and accepted, and which checks refused it. Fails
if one was accepted, or if a check that the table lists did not refuse it alone.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from gridhe_testing.forgeries.attack import Attack
from gridhe_testing.forgeries.mutants import unchecked
from gridhe_testing.forgeries.table import CHECKS, FORGERIES, Forgery
from gridhe_testing.forgeries.targets import SIZES, Target, Targets
from gridhe_testing.forgeries.trial import try_totals


@dataclass
class _Row:
    tried: int = 0
    accepted: int = 0
    checks: Counter[str] = field(default_factory=Counter)  # the first to refuse it
    alone: Counter[str] = field(default_factory=Counter)  # refused by it alone
    not_alone: Counter[str] = field(default_factory=Counter)


def _try(targets: Targets, target: Target, forgery: Forgery, seed: int, folder: Path, row: _Row) -> None:
    forged = forgery.make(Attack(targets, target, seed=seed))
    total = targets.total(target, forged.residues, dict(forged.proofs))
    [verdict] = try_totals(targets, folder, total)
    row.tried += 1
    row.accepted += verdict.record is not None
    row.checks[verdict.check or verdict.rule] += 1
    for check in forgery.checks:
        with unchecked(*(each for each in CHECKS if each != check)):
            [verdict] = try_totals(targets, folder, total)
        (row.alone if verdict.check == check else row.not_alone)[check] += 1


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description="forged totals against the release path")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = {forgery.name: _Row() for forgery in FORGERIES}
    for seed in range(options.seed, options.seed + options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            targets = Targets(Path(folder), seed=seed)
            for size in SIZES:
                for forgery in FORGERIES:
                    row = rows[forgery.name]
                    _try(targets, targets.targets[size], forgery, seed, Path(folder) / "try", row)
            targets.close()
    failed = False
    for forgery in FORGERIES:
        row = rows[forgery.name]
        right = bool(row.accepted == (0 if forgery.checks else row.tried)) and not row.not_alone
        failed |= not right
        record = {
            "forgery": forgery.name,
            "tried": row.tried,
            "accepted": row.accepted,
            "refused_by": dict(row.checks) if forgery.checks else {},
            "refused_alone_by": dict(row.alone),
            "missed_alone_by": dict(row.not_alone),
        }
        print(json.dumps(record))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
