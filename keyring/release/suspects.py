"""Who spoilt a total: the meters whose guards are wrong in it, and how.

In a sound total the guard slots are the sum of the members' guards. What is wrong in them, E, is therefore a
sum of guards of the batches that were left out, added too often or replaced. Guards are independent, so each
such meter shows as a correlation between E and its own guards: 1 if it is alone at fault, 0.71 if something
unknown of the same size stands in for its batch, against 0.03 by chance (1,584 slots).

    fault            what the total holds                                              named if
    left_out         nothing of a claimed batch                                        it is a member
    without_guards   a claimed batch without guards (faulty software)                  it is a member
    other_window     a claimed batch with guards of another window (faulty clock)      it is a member
    replaced         in place of a claimed batch something unknown: another batch,     it is a member
                     or one made with the credential of another authority
    repeated         a batch another number of times than once. Its meter is the       it is a member, or its
                     victim of an attack, not its cause                                proof is known
    not_claimed      the batch of a meter that is not a member                         its proof is known

Guards depend on the batch's proof. The proof of a member is in the total's list. The proof of another meter
is known only if another total of the same window brought it; without it that meter cannot be named. A rogue
meter that adds errors to its own guards cannot be named either: the errors are not made of anybody's guards.

`without_guards` and `other_window` are honest faults, provided that the sum of the faults is E, slot for
slot. An aggregator can forge both looks: from a batch that it leaves out and a guess of its presence, or from
a batch of an earlier window. So such a fault excludes a meter, within the bounds of
`gridhe.keyring.release.stops`, and it proves nothing about the meter.

E and the guards stay in this module: a finding holds names and faults only. Everything here is pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gridhe.plan.guards import Guards, Proven
from gridhe.plan.plan import TAGS

__all__ = ["HONEST", "Candidate", "Finding", "Suspect", "find_suspects"]

HONEST = frozenset({"without_guards", "other_window"})
# By chance a correlation with n slots has deviation 1/sqrt(n); 7 deviations: 3e-12 for each candidate.
_DEVIATIONS = 7.0
_ROUNDS = 8  # each round names the faults that stand out, and removes their share of E
_OTHER_WINDOWS = 64  # a faulty clock is looked for so many windows before and after
_SUSPECTS_MAX = 64
_EXACT = 2.0**52  # larger slots are not integers of a sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A meter with its guard key and its proof for the window; `member`: the total claims its batch."""

    meter: str
    group: str
    guard_key: bytes
    proof: bytes
    member: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Suspect:
    """A meter whose guards are wrong in a total, and the fault."""

    meter: str
    group: str
    fault: str

    def __str__(self) -> str:
        return f"{self.meter} of {self.group}: {self.fault}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The suspects by name. `honest`: faults that an honest meter can have explain the total completely."""

    suspects: tuple[Suspect, ...] = ()
    honest: bool = False


@dataclass(slots=True, kw_only=True)
class _Share:
    """A candidate's part of E: `times` its guards, and the guards of another window instead, if found."""

    candidate: Candidate
    proven: Proven
    times: int
    other: Proven | None = None


def find_suspects(
    guards: Guards,
    window: int,
    wrong: NDArray[np.int64],
    wrong_present: NDArray[np.int64],
    candidates: Sequence[Candidate],
) -> Finding:
    """The meters that explain the errors of a total.

    `wrong` is int64[free - 8], the total's guards, tags aside, less the expected ones; `wrong_present` is
    int64[quantities][intervals], its present counts less the proven ones. 20 us a candidate and round.
    """
    rest = wrong.astype(np.float64)
    if not np.any(rest) or np.max(np.abs(rest)) > _EXACT:
        return Finding()
    shares: dict[str, _Share] = {}
    for _ in range(_ROUNDS):
        named = _stand_out(guards, window, rest, candidates)
        for candidate, proven, times in named:
            share = shares.setdefault(candidate.meter, _Share(candidate=candidate, proven=proven, times=0))
            share.times += times
            rest -= times * _guards(proven)
        for share in shares.values():
            if share.times == -1 and share.other is None:
                share.other = _other_window(guards, window, rest, share.candidate)
                if share.other is not None:
                    rest -= _guards(share.other)
        if not named or not np.any(rest) or len(shares) >= _SUSPECTS_MAX:
            break
    explained = not np.any(rest)
    found = [share for share in shares.values() if share.times]
    present = wrong_present - sum(
        (share.other.present - share.proven.present for share in found if share.other is not None),
        start=np.zeros_like(wrong_present),
    )
    arrived = explained and not np.any(present)
    suspects = sorted(
        Suspect(
            meter=share.candidate.meter,
            group=share.candidate.group,
            fault=_fault(share, explained=explained, arrived=arrived),
        )
        for share in found
    )[:_SUSPECTS_MAX]
    return Finding(
        suspects=tuple(suspects),
        honest=arrived and bool(suspects) and all(each.fault in HONEST for each in suspects),
    )


def _fault(share: _Share, *, explained: bool, arrived: bool) -> str:
    """`arrived`: the present counts are right, so the readings of all members seem to be in the total."""
    if not share.candidate.member:
        return "not_claimed" if share.times == 1 else "repeated"
    if share.times != -1:
        return "repeated"
    if share.other is not None:
        return "other_window"
    if not explained:
        return "replaced"
    # Without readings nothing shows that the batch arrived.
    return "without_guards" if arrived and np.any(share.proven.present) else "left_out"


def _guards(proven: Proven) -> NDArray[np.float64]:
    return proven.guards[:-TAGS].astype(np.float64)


def _stand_out(
    guards: Guards, window: int, rest: NDArray[np.float64], candidates: Iterable[Candidate]
) -> list[tuple[Candidate, Proven, int]]:
    """The candidates whose guards correlate with `rest`, and how many times it holds them."""
    centred = rest - rest.mean()
    limit = _DEVIATIONS / np.sqrt(len(rest)) * float(np.linalg.norm(centred))
    found = []
    for candidate in candidates:
        proven = guards.prove(window, candidate.proof, candidate.guard_key)
        times = _times(centred, limit, proven)
        if times:
            found.append((candidate, proven, times))
    return found


def _times(centred: NDArray[np.float64], limit: float, proven: Proven) -> int:
    """How many times these guards are in `centred`; 0 if their correlation is below the limit."""
    own = _guards(proven)
    own -= own.mean()
    product, square = float(centred @ own), float(own @ own)
    return round(product / square) if abs(product) > limit * square**0.5 else 0


def _other_window(
    guards: Guards, window: int, rest: NDArray[np.float64], candidate: Candidate
) -> Proven | None:
    """What the proof says for a nearby window whose guards stand in `rest` once."""
    centred = rest - rest.mean()
    limit = _DEVIATIONS / np.sqrt(len(rest)) * float(np.linalg.norm(centred))
    for away in range(1, _OTHER_WINDOWS + 1):
        for other in (window - away, window + away):
            if other >= 0:
                proven = guards.prove(other, candidate.proof, candidate.guard_key)
                if _times(centred, limit, proven) == 1:
                    return proven
    return None
