"""Settings from environment variables: `GRIDHE_<SECTION>__<KEY>`, two underscores between the levels.

`GRIDHE_BROKER__URL=mqtts://broker:8883` sets `broker.url`; `GRIDHE_PLAN__QUANTITIES__0__LARGEST=5000`
sets `largest` of the first quantity. An unknown name with two underscores is a typing mistake and is refused.

`GRIDHE_SOURCE__<KEY>` sets any setting of the meter's driver, which knows its names and types: text is not
read as YAML here.

A name without two underscores is not a setting: Docker and Kubernetes give a container variables named after
its services (GRIDHE_BROKER_PORT, GRIDHE_BROKER_SERVICE_HOST, GRIDHE_BROKER_PORT_1883_TCP_ADDR). These are
ignored; a name similar to one of ours causes a warning (`unused_variables`).
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from gridhe.config.document import KeyPath, parse_value
from gridhe.config.settings import Settings
from gridhe.errors import ConfigError

__all__ = [
    "PREFIX",
    "VARIABLES",
    "any_item",
    "from_environment",
    "is_setting",
    "unused_variables",
    "variable_name",
]

PREFIX = "GRIDHE_"
_SECTIONS = frozenset(name.upper() for name in Settings.model_fields)
_OPEN = frozenset(  # sections with settings of others
    name
    for name, field in Settings.model_fields.items()
    if isinstance(field.default, BaseModel) and field.default.model_config.get("extra") == "allow"
)
# Variables that Docker and Kubernetes name after a service gridhe-...; _ENV_ copies another container's.
_LINKED = re.compile(r"GRIDHE_(\w+_)?(ENV_\w+|NAME|(SERVICE_)?PORT(_\w+)?|SERVICE_HOST)")
_NEAR = 0.8  # the similarity to one of our names (difflib's ratio) above which a variable is reported

# Variables that are not settings, and the purpose of each.
VARIABLES: Mapping[str, str] = {
    "GRIDHE_BENCH_HOME": "gridhe-bench: where its local store keeps runs",
    "GRIDHE_BENCH_HOST": "gridhe-bench: the machine's name in its records",
    "GRIDHE_BENCH_SLOW_FOLD": "gridhe-bench's tests: slows the fold, to test that the bench detects it",
    "GRIDHE_CONFIG": "the settings file, where no --config is given",
    "GRIDHE_FAULT_POINT": "tests: the point at which this process is killed (gridhe.base.failpoints)",
    "GRIDHE_PASSPHRASE": "the vault's passphrase",
    "GRIDHE_PASSPHRASE_FILE": "a file with the vault's passphrase",
    "GRIDHE_REQUIRE_MOSQUITTO": "tests: a missing mosquitto fails instead of skipping",
    "GRIDHE_REQUIRE_INFLUXDB": "tests: a missing influxd fails instead of skipping",
}


def variable_name(path: KeyPath) -> str:
    """`("broker", "url")` -> `GRIDHE_BROKER__URL`."""
    return PREFIX + "__".join(str(part).upper() for part in path)


def from_environment(
    environ: Mapping[str, str], settings: Collection[KeyPath]
) -> Iterator[tuple[KeyPath, Any, str]]:
    """Yield (path, value, variable's name) of every setting in `environ`, a section before its keys.

    `settings` are all valid paths, with 0 for any item of a list. Raises ConfigError for a GRIDHE_ variable
    with two underscores that is not in `settings`.
    """
    for name in filter(is_setting, sorted(environ)):
        parts = name.removeprefix(PREFIX).split("__")
        path: KeyPath = tuple(int(part) if part.isdecimal() else part.lower() for part in parts)
        known = any_item(path) in settings
        if name == name.upper() and not known and len(parts) == 2 and path[0] in _OPEN and path[1]:
            yield path, environ[name], name
            continue
        if name != name.upper() or not known:
            near = _nearest(name, settings, cutoff=0.6)
            hint = (
                f"did you mean {near}?" if near else "settings are GRIDHE_<SECTION>__<KEY>, see gridhe.yaml"
            )
            raise ConfigError(f"unknown environment variable {name}; {hint}")
        yield path, parse_value(environ[name], name), name


def is_setting(name: str) -> bool:
    """Whether a variable is a setting: its name is a section's or has two underscores."""
    rest = name.removeprefix(PREFIX)
    if rest == name or name in VARIABLES or "_ENV_" in rest:
        return False
    return "__" in rest or rest in _SECTIONS


def unused_variables(environ: Mapping[str, str], settings: Collection[KeyPath]) -> Iterator[str]:
    """One line for each unused variable with a name similar to one of ours."""
    for name in sorted(environ):
        if (
            name.startswith(PREFIX)
            and name not in VARIABLES
            and not is_setting(name)
            and not _LINKED.fullmatch(name)
        ):
            near = _nearest(name, settings, cutoff=_NEAR)
            if near:
                yield f"the environment variable {name} is not used; did you mean {near}?"


def any_item(path: KeyPath) -> KeyPath:
    """`path` with 0 for every list index, as in `setting_paths`."""
    return tuple(0 if isinstance(part, int) else part for part in path)


def _nearest(name: str, settings: Collection[KeyPath], *, cutoff: float) -> str | None:
    """Our variable with the most similar name."""
    known = {each.removeprefix(PREFIX): each for each in (*VARIABLES, *map(variable_name, settings))}
    near = difflib.get_close_matches(name.removeprefix(PREFIX).upper(), known, n=1, cutoff=cutoff)
    return known[near[0]] if near else None
