"""Names of meters, aggregators and groups. A legal name is safe in a topic, an ACL and a file name."""

import re

from gridhe.errors import ConfigError

__all__ = [
    "AUTHORITY_USER",
    "FLEET_USER",
    "NAME_PATTERN",
    "OPERATOR_USER",
    "ROOT_GROUP",
    "aggregator_user",
    "ancestors",
    "check_group",
    "check_meter",
    "check_name",
    "parent_group",
]

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
ROOT_GROUP = "grid"  # the roll-up of all groups; reserved, so no configured group may have this name
_LEVELS_MAX = 8
# Broker users of the other roles, which no meter may be called.
AUTHORITY_USER = "authority"
FLEET_USER = "fleet"
OPERATOR_USER = "operator"  # dashboards and people: may read releases, plans and the status of every role
_AGGREGATOR_PREFIX = "aggregator-"
_RESERVED_METERS = frozenset({"aggregator", AUTHORITY_USER, FLEET_USER, OPERATOR_USER})


def check_name(name: str, what: str = "name") -> str:
    """Return `name`: 1 to 64 of a-z, 0-9, `-` and `_`, first a letter or digit. Raises ConfigError."""
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise ConfigError(
            f"{what} {str(name)[:80]!r} is not a legal name: use 1 to 64 of a-z, 0-9, '-' and '_', "
            "starting with a letter or digit"
        )
    return name


def check_meter(name: str) -> str:
    """Return a legal meter name. Raises ConfigError, also for the broker users of other roles."""
    check_name(name, "meter")
    if name in _RESERVED_METERS or name.startswith(_AGGREGATOR_PREFIX):
        raise ConfigError(f"meter {name!r} is the name of a role; choose another")
    return name


def aggregator_user(aggregator: str) -> str:
    """The broker user (and client id) of an aggregator. Raises ConfigError for an illegal name."""
    return _AGGREGATOR_PREFIX + check_name(aggregator, "aggregator")


def check_group(group: str) -> str:
    """Return `group` if it is a path of 1 to 8 names such as `north/f12`. Raises ConfigError."""
    levels = group.split("/") if isinstance(group, str) else []
    if not 1 <= len(levels) <= _LEVELS_MAX:
        raise ConfigError(f"group {str(group)[:80]!r} must have 1 to {_LEVELS_MAX} levels, as in north/f12")
    for level in levels:
        check_name(level, "group level")
    if levels[0] == ROOT_GROUP:
        raise ConfigError(f"group {group!r}: {ROOT_GROUP!r} is reserved for the roll-up of all groups")
    return group


def parent_group(group: str) -> str | None:
    """The next wider group: `north/f12` -> `north` -> `grid` -> None."""
    if group == ROOT_GROUP:
        return None
    head, _, _ = group.rpartition("/")
    return head or ROOT_GROUP


def ancestors(group: str) -> tuple[str, ...]:
    """Every wider group, narrowest first: `north/f12` -> (`north`, `grid`)."""
    groups: list[str] = []
    wider = parent_group(group)
    while wider is not None:
        groups.append(wider)
        wider = parent_group(wider)
    return tuple(groups)
