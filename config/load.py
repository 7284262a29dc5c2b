"""Read the settings: defaults < file < environment < flags. Errors name the origin of the value."""

import difflib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from gridhe.config.document import KeyPath, read_document
from gridhe.config.environment import any_item, from_environment
from gridhe.config.layers import Layers, dotted
from gridhe.config.settings import Settings
from gridhe.config.wording import in_words
from gridhe.errors import ConfigError

__all__ = ["Section", "find_settings_file", "load_section", "load_settings", "setting_paths"]

_FILE = "gridhe.yaml"  # read from the working directory if no other file is given


def load_settings(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from defaults, the file, the environment and `overrides`; a later source wins.

    The file is `path`, else the file in GRIDHE_CONFIG, else ./gridhe.yaml if it exists. `overrides`
    come from flags: {"plan.window_s": 3600}. A section is merged key by key, a list is replaced as a whole;
    one item of a list has its number in the name (`plan.quantities.0.largest`).

    Raises ConfigError, one line for each error: the setting's full name, the expected and the given value,
    and the line of the file, the variable or the flag that it came from.
    """
    return _validate(_layers(path, environ, overrides or {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The values of a section that another model checks, and the origin of each ("gridhe.yaml:3")."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]


def load_section(
    name: str,
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Any] | None = None,
) -> Section:
    """One section as given, merged as `load_settings` does. Text of the environment is not read as YAML.

    Raises ConfigError.
    """
    layers = _layers(path, environ, overrides or {})
    values = layers.values[name]
    return Section(values=values, origins={key: layers.origin((name, key)) for key in values})


def _layers(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]) -> Layers:
    layers = Layers(Settings().model_dump(mode="json"))
    file, _ = find_settings_file(path, environ)
    if file is not None:
        document = read_document(file)
        layers.merge(document.values, {key: f"{file}:{line}" for key, line in document.lines.items()})
    for key, value, variable in from_environment(environ, setting_paths()):
        layers.put(key, value, variable)
    for name, value in overrides.items():
        parts = name.split(".")
        layers.put(tuple(int(part) if part.isdecimal() else part for part in parts), value, f"--set {name}")
    return layers


def find_settings_file(path: Path | None, environ: Mapping[str, str] = os.environ) -> tuple[Path | None, str]:
    """The file that `load_settings` reads (None: defaults only), and what selects it.

    A ./gridhe.yaml that is not named explicitly must belong to us or to root: another user may have put it
    into the working directory. Raises ConfigError.
    """
    if path is not None:
        return path, "--config"
    if environ.get("GRIDHE_CONFIG"):
        return Path(environ["GRIDHE_CONFIG"]), "GRIDHE_CONFIG"
    try:
        status = Path(_FILE).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None, "defaults"
    except OSError as error:
        raise ConfigError(
            f"cannot check for {_FILE} in the working directory: {error.strerror or error}; "
            "go to another folder, or name the file with --config or GRIDHE_CONFIG"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        return None, "defaults"
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"./{_FILE} belongs to another user (number {status.st_uid}); "
            f"name it with --config {_FILE} if you trust it"
        )
    return Path(_FILE), "working directory"


def setting_paths() -> list[KeyPath]:
    """Every section and every setting; a list's items under 0: ("plan", "quantities", 0, "largest")."""
    return list(_paths_of(Settings, ()))


def _paths_of(model: type[BaseModel], above: KeyPath) -> Iterator[KeyPath]:
    for name, field in model.model_fields.items():
        yield (*above, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _paths_of(field.annotation, (*above, name))
        for item in get_args(field.annotation):
            if isinstance(item, type) and issubclass(item, BaseModel):
                yield (*above, name, 0)
                yield from _paths_of(item, (*above, name, 0))


def _validate(layers: Layers) -> Settings:
    try:
        text = json.dumps(layers.values, default=str, allow_nan=False)
    except ValueError as error:
        raise ConfigError(f"a setting is not a finite number: {error}") from error
    try:
        # Strict, and as JSON: lists become tuples, but "5" is not a number and true is not 1.
        return Settings.model_validate_json(text, strict=True)
    except ValidationError as invalid:
        problems = invalid.errors(include_url=False)
        wrong = [problem["loc"] for problem in problems]
        # pydantic also reports a list as too short if only its items are wrong.
        real = [
            each for each in problems if each["type"] != "too_short" or not _has_inside(each["loc"], wrong)
        ]
        raise ConfigError("\n".join(_explain(problem, layers) for problem in real)) from None


def _has_inside(path: KeyPath, paths: list[KeyPath]) -> bool:
    return any(len(other) > len(path) and other[: len(path)] == path for other in paths)


def _explain(problem: Mapping[str, Any], layers: Layers) -> str:
    path: KeyPath = tuple(problem["loc"])
    if problem["type"] == "extra_forbidden":
        text = f"unknown setting {dotted(path)}{_nearest(path)}"
    else:
        text = f"{dotted(path)}: {in_words(problem)}"
    origin = layers.origin(path)
    return f"{text} ({origin})" if origin else text


def _nearest(path: KeyPath) -> str:
    """A suggestion: a similar name in the same section, else in another section."""
    known = setting_paths()
    beside = {str(key[-1]): key for key in known if key[:-1] == any_item(path)[:-1]}
    elsewhere = {str(key[-1]): key for key in reversed(known)}  # of two equal names, the first
    for names in (beside, elsewhere):
        near = difflib.get_close_matches(str(path[-1]), names, n=1, cutoff=0.6)
        if near:
            return f"; did you mean {dotted(names[near[0]])}?"
    return f"; known here: {', '.join(beside)}"
