"""Values laid over each other, and where each of them came from."""

import copy
from collections.abc import Mapping
from typing import Any

from gridhe.config.document import KeyPath
from gridhe.errors import ConfigError

__all__ = ["Layers", "dotted"]


def dotted(path: KeyPath) -> str:
    """`("plan", "quantities", 0)` -> `plan.quantities.0`."""
    return ".".join(map(str, path))


class Layers:
    """Nested sections; what is laid later wins. A section is merged key by key, a list is replaced whole."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        self.values = defaults
        self._origins: dict[KeyPath, str] = {}

    def merge(self, values: Mapping[str, Any], origins: Mapping[KeyPath, str]) -> None:
        """Lay a file's values over what is there; `origins` says of each path where it stands."""
        for key, value in values.items():
            self._lay(self.values, (key,), value, origins)

    def put(self, path: KeyPath, value: Any, origin: str) -> None:
        """Set one value, deep inside; an item of a list by its number.

        Raises ConfigError where `path` leads through a value or to an item that a list does not have.
        A name that a section does not know is taken: validation tells of it, with the name that was meant.
        """
        at: Any = self.values
        for depth, part in enumerate(path):
            last = depth + 1 == len(path)
            if isinstance(at, dict) and isinstance(part, str):
                if last:
                    self._lay(at, path, value, {path: origin})
                else:
                    at = at.setdefault(part, {})
            elif isinstance(at, list) and isinstance(part, int) and part < len(at):
                if last:
                    self._replace(at, path, value, {path: origin})
                else:
                    at = at[part]
            else:
                raise ConfigError(f"{dotted(path[: depth + 1])}: there is no such setting or item ({origin})")

    def origin(self, path: KeyPath) -> str:
        """Where `path` came from: itself, else what it is part of, else what is part of it ("": defaults)."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._origins:
                return self._origins[path[:length]]
        inside = [text for known, text in self._origins.items() if known[: len(path)] == path]
        return ", ".join(list(dict.fromkeys(inside))[:4])

    def _lay(self, at: dict[str, Any], path: KeyPath, value: Any, origins: Mapping[KeyPath, str]) -> None:
        """Lay `value` at `path`, whose last part is a key of `at`."""
        old = at.get(str(path[-1]))
        if not isinstance(old, dict):
            self._replace(at, path, value, origins)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                below = (*path, key)
                known = (
                    origins if below in origins or path not in origins else {**origins, below: origins[path]}
                )
                self._lay(old, below, inner, known)
        elif value is not None:  # None: `plan:` with every key commented out, so the section as it was
            self._replace(at, path, value, origins)

    def _replace(self, at: Any, path: KeyPath, value: Any, origins: Mapping[KeyPath, str]) -> None:
        at[path[-1]] = copy.deepcopy(value)
        kept = {known: text for known, text in self._origins.items() if known[: len(path)] != path}
        self._origins = kept | {known: text for known, text in origins.items() if known[: len(path)] == path}
