"""The outcome of a run, on one line."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["CaseOutcome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseOutcome:
    """One run of one case. `passed` is the case's own figure and all of: lost 0, duplicated 0, no faults."""

    case: str
    seed: int
    sent: int
    accepted: int
    lost: int
    duplicated: int
    released: int  # totals that were published, decrypted and exact
    recovery_s: float  # the longest recovery after a fault
    rejected: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    idle: str = ""  # why this run tested too little: its faults missed their target
    skipped: str = ""  # why it did not run at all: neither passed nor failed
    figures: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def without_a_run(cls, case: str, seed: int, *, faults: tuple[str, ...] = (), skipped: str = "") -> Self:
        """The outcome of a case that was skipped or could not finish."""
        return cls(
            case=case,
            seed=seed,
            sent=0,
            accepted=0,
            lost=0,
            duplicated=0,
            released=0,
            recovery_s=0.0,
            faults=faults,
            skipped=skipped,
        )

    @property
    def passed(self) -> bool:
        """Whether the run passed."""
        return not (self.lost or self.duplicated or self.faults or self.idle or self.skipped)

    def line(self) -> str:
        """The outcome as a line of text."""
        if self.skipped:
            return f"skip {self.case}: {self.skipped}"
        rejected = ",".join(f"{reason} {count}" for reason, count in sorted(self.rejected.items()))
        figures = " ".join(f"{name}={value}" for name, value in self.figures.items())
        return (
            f"{'ok  ' if self.passed else 'FAIL'} {self.case}: sent {self.sent} accepted {self.accepted} "
            f"lost {self.lost} duplicated {self.duplicated} rejected{{{rejected}}} released {self.released} "
            f"recovery_s {self.recovery_s:.2f} seed {self.seed} | {self.seconds:.0f} s {figures}"
        ).rstrip()

    def to_json(self) -> str:
        """The outcome for JSON. `passed` is null for a skipped case."""
        record = {name: getattr(self, name) for name in self.__slots__}
        record["rejected"], record["figures"] = dict(self.rejected), dict(self.figures)
        return json.dumps({"passed": None if self.skipped else self.passed, **record}, separators=(",", ":"))
