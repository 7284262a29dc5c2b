"""YAML as plain values, with the line number of each.

Scalars follow YAML 1.2 (as JSON and most editors do), not PyYAML's YAML 1.1: in 1.1 `no` is false, `010` is
eight, `1:30` is ninety and `1e3` is text, which surprises users.
"""

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gridhe.errors import ConfigError

__all__ = ["Document", "KeyPath", "parse_value", "read_document"]

KeyPath = tuple[str | int, ...]  # ("plan", "quantities", 0, "largest")

_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")
)
_LARGEST_FILE = 1_000_000  # bytes; a settings file is a few kilobytes
_LARGEST_CONTENT = (
    1_000_000  # values and characters with every alias expanded: ten lines can expand to 10^9 of them
)


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own shape)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), [*list("~nN"), ""]
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^(?:[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    value = float(node.value)
    if not math.isfinite(value):
        raise yaml.constructor.ConstructorError(
            None, None, f"{node.value} is too large a number", node.start_mark
        )
    return value


_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A settings file's values, and the line (from 1) of every key and list item."""

    path: Path
    values: dict[str, Any]
    lines: dict[KeyPath, int]


def read_document(path: Path) -> Document:
    """Read a YAML file that contains one mapping, or is empty (an empty mapping).

    Raises ConfigError with file and line: missing, not UTF-8, not YAML, not a mapping, a key twice,
    a key that is not text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror or error}") from error
    if len(data) > _LARGEST_FILE:
        raise ConfigError(f"{path} has over {_LARGEST_FILE} bytes: too large for a settings file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    lines: dict[KeyPath, int] = {}
    values = _parse(text, str(path), lines)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} contains {_kind(values)}, expected sections such as `plan:` and `broker:`")
    return Document(path=path, values=values, lines=lines)


def parse_value(text: str, where: str) -> Any:
    """One value, written as in the file: `5`, `true`, `[a, b]`, text. Raises ConfigError, with `where`."""
    return _parse(text, where, {})


def _parse(text: str, where: str, lines: dict[KeyPath, int]) -> Any:
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _walk(node, (), where, lines, (), _Budget(_LARGEST_CONTENT))
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise ConfigError(f"{where}{line}: not valid YAML: {error.problem or error.context}") from error
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        RecursionError,
    ) as error:  # `!!int x`, `!!bool x`, [[[[...
        raise ConfigError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from error


class _Budget:
    """The number of values and characters that a document may still have."""

    def __init__(self, left: int) -> None:
        self._left = left

    def spend(self, node: yaml.Node, where: str) -> None:
        """Count a node. Raises ConfigError if the document is too large."""
        self._left -= 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self._left < 0:
            line = node.start_mark.line + 1
            raise ConfigError(f"{where}:{line}: aliases repeat their anchors too often; write the values out")


def _walk(
    node: yaml.Node,
    path: KeyPath,
    where: str,
    lines: dict[KeyPath, int],
    above: tuple[yaml.Node, ...],
    budget: _Budget,
) -> None:
    """Fill `lines`, and refuse what PyYAML accepts: a key twice (the last would win), odd keys, tags."""
    if node.tag not in _TAGS:
        raise ConfigError(
            f"{where}:{node.start_mark.line + 1}: the tag {node.tag} is not allowed in settings"
        )
    budget.spend(node, where)
    if node in above:
        raise ConfigError(f"{where}:{node.start_mark.line + 1}: an alias contains itself")
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _walk(item, (*path, index), where, lines, (*above, node), budget)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise ConfigError(f"{where}:{line}: a key must be text, such as `plan`")
            if key.value in seen:
                dotted = ".".join(map(str, (*path, key.value)))
                raise ConfigError(
                    f"{where}:{line}: {dotted} is given twice (first on line {seen[key.value]})"
                )
            seen[key.value] = line
            lines[(*path, key.value)] = line
            _walk(item, (*path, key.value), where, lines, (*above, node), budget)


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"{value!r:.60}"
