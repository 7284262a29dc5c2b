"""MQTT topics. All start with `gridhe/v1`; no other module spells them out."""

from gridhe.errors import ConfigError, EnvelopeError
from gridhe.plan.names import ROOT_GROUP, check_group, check_meter, check_name

__all__ = [
    "PLAN_CURRENT",
    "PREFIX",
    "ROSTER_CURRENT",
    "STATUS_AUTHORITY",
    "batch",
    "check_filter",
    "matches",
    "parse_batch",
    "parse_total",
    "plan",
    "receipt",
    "release",
    "status_aggregator",
    "status_meter",
    "total",
]

PREFIX = "gridhe/v1"
PLAN_CURRENT = f"{PREFIX}/plan/current"
ROSTER_CURRENT = f"{PREFIX}/roster/current"
STATUS_AUTHORITY = f"{PREFIX}/status/authority"
_BATCH = f"{PREFIX}/batch/"
_TOTAL = f"{PREFIX}/total/"


def batch(group: str, meter: str) -> str:
    """Topic of a meter's envelopes."""
    return f"{_BATCH}{group}/{meter}"


def receipt(name: str) -> str:
    """Topic of the receipts for a meter or an aggregator."""
    return f"{PREFIX}/receipt/{name}"


def status_meter(meter: str) -> str:
    """Retained: the status of a meter."""
    return f"{PREFIX}/status/{meter}"


def status_aggregator(aggregator: str) -> str:
    """Retained: the status of an aggregator."""
    return f"{PREFIX}/status/aggregator/{aggregator}"


def plan(plan_id: str) -> str:
    """Retained: the bundle of one plan."""
    return f"{PREFIX}/plan/{plan_id}"


def total(group: str) -> str:
    """Topic of the totals of a group."""
    return f"{_TOTAL}{group}"


def release(group: str) -> str:
    """Retained: the released integers of a group's newest window."""
    return f"{PREFIX}/release/{group}"


def parse_batch(topic: str) -> tuple[str, str]:
    """(group, meter) of a batch topic. Raises EnvelopeError `topic`."""
    try:
        if not topic.startswith(_BATCH):
            raise ConfigError("not a batch topic")
        group, _, meter = topic.removeprefix(_BATCH).rpartition("/")
        return check_group(group), check_meter(meter)
    except ConfigError as error:
        raise EnvelopeError("topic", f"{topic[:120]!r}: {error}") from None


def parse_total(topic: str) -> str:
    """The group of a total topic. Raises EnvelopeError `topic`."""
    group = topic.removeprefix(_TOTAL) if topic.startswith(_TOTAL) else ""
    try:
        return group if group == ROOT_GROUP else check_group(group)
    except ConfigError as error:
        raise EnvelopeError("topic", f"{topic[:120]!r}: {error}") from None


def check_filter(topic_filter: str) -> str:
    """Return a legal MQTT filter of batch topics (`+` and `#` allowed). Raises ConfigError for others."""
    if not topic_filter.startswith(_BATCH):
        raise ConfigError(
            f"filter {topic_filter!r} must start with {_BATCH}, as in {_BATCH}# or {_BATCH}north/+/+"
        )
    levels = topic_filter.removeprefix(_BATCH).split("/")
    for i, level in enumerate(levels):
        if level == "#" and i == len(levels) - 1:
            continue
        if level != "+":
            check_name(level, f"a level of filter {topic_filter!r}")
    return topic_filter


def matches(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT filter matches a topic (MQTT 5, section 4.7)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("#", "+"):
        return False
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(levels) or level not in ("+", levels[i]):
            return False
    return len(wanted) == len(levels)
