"""The environment's part: `GRIDHE_<SECTION>__<KEY>`, two underscores between the levels.

`GRIDHE_BROKER__URL=mqtts://broker:8883` sets `broker.url`; `GRIDHE_PLAN__QUANTITIES__0__LARGEST=5000`
sets the first quantity's. Any other variable that begins with GRIDHE_ is a typing mistake and is refused,
but for those in VARIABLES.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gridhe.config.document import KeyPath, parse_value
from gridhe.errors import ConfigError

__all__ = ["PREFIX", "VARIABLES", "any_item", "from_environment", "variable_name"]

PREFIX = "GRIDHE_"

# Variables that are no setting, and what each is for.
VARIABLES: Mapping[str, str] = {
    "GRIDHE_BENCH_HOME": "gridhe-bench: where its local store keeps runs",
    "GRIDHE_BENCH_HOST": "gridhe-bench: the machine's name in its records",
    "GRIDHE_BENCH_SLOW_FOLD": "gridhe-bench's tests: makes the fold slower, to see that it is noticed",
    "GRIDHE_CONFIG": "the settings file, where no --config is given",
    "GRIDHE_FAULT_POINT": "tests: where this process is to be killed (gridhe.base.failpoints)",
    "GRIDHE_PASSPHRASE": "the vault's passphrase",
    "GRIDHE_PASSPHRASE_FILE": "a file that holds the vault's passphrase",
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

    `settings` are the paths that exist, with 0 for any item of a list. Raises ConfigError for a GRIDHE_
    variable that is none of them.
    """
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in VARIABLES:
            continue
        parts = name.removeprefix(PREFIX).split("__")
        path: KeyPath = tuple(int(part) if part.isdecimal() else part.lower() for part in parts)
        if name != name.upper() or any_item(path) not in settings:
            raise ConfigError(f"unknown environment variable {name}{_hint(name, settings)}")
        yield path, parse_value(environ[name], name), name


def any_item(path: KeyPath) -> KeyPath:
    """`path` with 0 for every list index, as `settings` has it."""
    return tuple(0 if isinstance(part, int) else part for part in path)


def _hint(name: str, settings: Collection[KeyPath]) -> str:
    known = {each.removeprefix(PREFIX): each for each in (*VARIABLES, *map(variable_name, settings))}
    near = difflib.get_close_matches(name.removeprefix(PREFIX).upper(), known, n=1, cutoff=0.6)
    if not near:
        return "; settings are GRIDHE_<SECTION>__<KEY>, see gridhe.yaml"
    return f"; did you mean {known[near[0]]}?"
