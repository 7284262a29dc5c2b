"""What a run found, on one line."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Outcome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run of one case. `passed` is the case's own figure and all of: lost 0, duplicated 0, no faults."""

    case: str
    seed: int
    sent: int
    accepted: int
    lost: int
    duplicated: int
    released: int  # totals that were published, decrypted and found exact
    recovery_s: float  # the slowest return to work after a fault
    rejected: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    idle: str = ""  # why this run tested too little: its faults missed what they were aimed at
    figures: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the promise held."""
        return not (self.lost or self.duplicated or self.faults or self.idle)

    def line(self) -> str:
        """For people."""
        rejected = ",".join(f"{reason} {count}" for reason, count in sorted(self.rejected.items()))
        figures = " ".join(f"{name}={value}" for name, value in self.figures.items())
        return (
            f"{'ok  ' if self.passed else 'FAIL'} {self.case}: sent {self.sent} accepted {self.accepted} "
            f"lost {self.lost} duplicated {self.duplicated} rejected{{{rejected}}} released {self.released} "
            f"recovery_s {self.recovery_s:.2f} seed {self.seed} | {self.seconds:.0f} s {figures}"
        ).rstrip()

    def to_json(self) -> str:
        """For programs."""
        record = {name: getattr(self, name) for name in self.__slots__}
        record["rejected"], record["figures"] = dict(self.rejected), dict(self.figures)
        return json.dumps({"passed": self.passed, **record}, separators=(",", ":"))
