"""Counters since the start and a snapshot of the state, for the view, the log and the tests."""

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Counters", "Snapshot"]


@dataclass(slots=True)
class Counters:
    """Counts since the process started."""

    received: int = 0
    folded: int = 0
    duplicates: int = 0
    bytes: int = 0
    commits: int = 0
    receipts: int = 0
    closed: int = 0
    published: int = 0
    delivered: int = 0
    looked_at: int = 0  # checks of whether a group's parts are due
    expired_parts: int = 0  # parts below the minimum when their window expired
    expired_batches: int = 0  # batches in those parts
    counted: int = 0  # meters in closed parts of leaf groups
    expected: int = 0  # meters enrolled in these groups for these windows
    strands: int = 0  # parts sent in place of unsound ones
    unsound_parts: int = 0  # given up, because the authority refused them as unsound
    unsound_batches: int = 0  # batches in those parts
    dropped: int = 0  # refused totals deleted because too many were kept
    rejected: Counter[str] = field(default_factory=Counter)  # batches, by reason
    refused: Counter[str] = field(default_factory=Counter)  # the authority's refusals of totals, by reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The engine's state at one moment."""

    ready: bool  # plan and roster are known
    plans: int
    missing_plans: tuple[str, ...]  # ids of plans on the roster without a bundle
    meters: int
    open_parts: int
    stranded_parts: int  # open parts that are kept in strands
    open_windows: int
    resident_bytes: int
    uncommitted: int
    undelivered: int  # totals without a receipt, refused ones included
    refused_totals: int
    oldest_open_s: float  # seconds since the oldest open part got its first batch; 0.0 with none open
    commit_s: float  # how long the last commit took
    counters: Counters
