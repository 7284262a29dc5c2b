"""Settings merged from several sources, with the origin of each value."""

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
    """Nested sections; a later value wins. A section is merged key by key, a list is replaced as a whole."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        self.values = defaults
        self._origins: dict[KeyPath, str] = {}

    def merge(self, values: Mapping[str, Any], origins: Mapping[KeyPath, str]) -> None:
        """Merge a file's values; `origins` has the place of each path in the file."""
        for key, value in values.items():
            self._merge_at(self.values, (key,), value, origins)

    def put(self, path: KeyPath, value: Any, origin: str) -> None:
        """Set the value at `path`; an item of a list by its number.

        Raises ConfigError if `path` leads through a value, or to an item that the list does not have.
        An unknown name in a section is accepted here: validation refuses it and suggests the right name.
        """
        at: Any = self.values
        for depth, part in enumerate(path):
            last = depth + 1 == len(path)
            if isinstance(at, dict) and isinstance(part, str):
                if last:
                    self._merge_at(at, path, value, {path: origin})
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
        """The origin of `path`, else of a section around it, else of its parts ("" for defaults)."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._origins:
                return self._origins[path[:length]]
        inside = [text for known, text in self._origins.items() if known[: len(path)] == path]
        return ", ".join(list(dict.fromkeys(inside))[:4])

    def _merge_at(
        self, at: dict[str, Any], path: KeyPath, value: Any, origins: Mapping[KeyPath, str]
    ) -> None:
        """Merge `value` into `path`; the last part of `path` is a key of `at`."""
        old = at.get(str(path[-1]))
        if not isinstance(old, dict):
            self._replace(at, path, value, origins)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                below = (*path, key)
                known = (
                    origins if below in origins or path not in origins else {**origins, below: origins[path]}
                )
                self._merge_at(old, below, inner, known)
        elif value is not None:  # None is `plan:` with every key commented out: the section does not change
            self._replace(at, path, value, origins)

    def _replace(self, at: Any, path: KeyPath, value: Any, origins: Mapping[KeyPath, str]) -> None:
        at[path[-1]] = copy.deepcopy(value)
        others = {known: text for known, text in self._origins.items() if known[: len(path)] != path}
        replaced = {known: text for known, text in origins.items() if known[: len(path)] == path}
        self._origins = others | replaced
