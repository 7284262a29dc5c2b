"""The suites, by name."""

import importlib
from collections.abc import Sequence
from typing import cast

from gridhe.bench.recorder import Suite
from gridhe.errors import ConfigError

__all__ = ["NAMES", "load"]

# In the order of a full run.
NAMES = ("micro", "peers", "security", "batch-size", "service", "scale", "meters", "intervals")


def load(names: Sequence[str]) -> list[Suite]:
    """These suites, or all if none is named. Raises ConfigError for an unknown name."""
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"there is no suite {name!r}; there are {', '.join(NAMES)}")
    chosen = [name for name in NAMES if not names or name in names]
    return [
        cast(Suite, importlib.import_module(f"gridhe.bench.suites.{name.replace('-', '_')}"))
        for name in chosen
    ]
