"""Reading the settings: defaults < file < environment < flags, each named in what is refused."""

import difflib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from gridhe.config.document import KeyPath, read_document
from gridhe.config.environment import any_item, from_environment
from gridhe.config.layers import Layers, dotted
from gridhe.config.settings import Settings
from gridhe.errors import ConfigError

__all__ = ["find_settings_file", "load_settings", "setting_paths"]

_FILE = "gridhe.yaml"  # read from the working directory where nothing else is said
_WORDING = (  # pydantic's words and ours
    ("Input should be an object", "expected keys and values"),
    ("Input should be", "expected"),
    ("Value error, ", ""),
    ("Tuple should", "a list should"),
    ("String should", "text should"),
)


def load_settings(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from, each above the last: defaults, the file, the environment, `overrides`.

    The file is `path`, else the one GRIDHE_CONFIG names, else ./gridhe.yaml if there is one. `overrides`
    come from flags: {"plan.window_s": 3600}. A section is merged key by key, a list is replaced whole;
    one item of a list is reached by its number (`plan.quantities.0.largest`).

    Raises ConfigError, one line for each thing that is wrong: the setting's full name, what was expected,
    what came, and the file's line, variable or flag that it came from.
    """
    layers = Layers(Settings().model_dump(mode="json"))
    file, _ = find_settings_file(path, environ)
    if file is not None:
        document = read_document(file)
        layers.merge(document.values, {key: f"{file}:{line}" for key, line in document.lines.items()})
    for key, value, variable in from_environment(environ, setting_paths()):
        layers.put(key, value, variable)
    for name, value in (overrides or {}).items():
        parts = name.split(".")
        layers.put(tuple(int(part) if part.isdecimal() else part for part in parts), value, f"--set {name}")
    return _validate(layers)


def find_settings_file(path: Path | None, environ: Mapping[str, str] = os.environ) -> tuple[Path | None, str]:
    """The file that `load_settings` would read (None: defaults only), and what names it.

    A file that nobody named must be ours or root's: it is found because of where the command was started.
    Raises ConfigError.
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
            f"cannot look for {_FILE} in the working directory: {error.strerror or error}; "
            "go to another folder, or name the file with --config or GRIDHE_CONFIG"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        return None, "defaults"
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"./{_FILE} belongs to another user (number {status.st_uid}), who may want other settings than "
            f"you; name it with --config {_FILE} if you trust it"
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
        raise ConfigError(f"a setting is no finite number: {error}") from error
    try:
        # Strict, and as JSON: lists become tuples, but "5" is no number and true is no 1.
        return Settings.model_validate_json(text, strict=True)
    except ValidationError as invalid:
        found = invalid.errors(include_url=False)
        wrong = [problem["loc"] for problem in found]
        # pydantic calls a list too short also when it is so only because its items are wrong.
        real = [one for one in found if one["type"] != "too_short" or not _has_inside(one["loc"], wrong)]
        raise ConfigError("\n".join(_explain(problem, layers) for problem in real)) from None


def _has_inside(path: KeyPath, paths: list[KeyPath]) -> bool:
    return any(len(other) > len(path) and other[: len(path)] == path for other in paths)


def _explain(problem: Mapping[str, Any], layers: Layers) -> str:
    path: KeyPath = tuple(problem["loc"])
    if problem["type"] == "extra_forbidden":
        text = f"unknown setting {dotted(path)}{_nearest(path)}"
    else:
        text = f"{dotted(path)}: {problem['msg']}"
        for theirs, ours in _WORDING:
            text = text.replace(theirs, ours)
        if problem["type"] not in ("value_error", "too_short", "too_long"):
            text += f", came {_short(problem['input'])}"
    origin = layers.origin(path)
    return f"{text} ({origin})" if origin else text


def _nearest(path: KeyPath) -> str:
    """The setting that was meant: a name beside it first, then one of that name in another section."""
    known = setting_paths()
    beside = {str(key[-1]): key for key in known if key[:-1] == any_item(path)[:-1]}
    elsewhere = {str(key[-1]): key for key in reversed(known)}  # of two, the one that stands first
    for names in (beside, elsewhere):
        near = difflib.get_close_matches(str(path[-1]), names, n=1, cutoff=0.6)
        if near:
            return f"; did you mean {dotted(names[near[0]])}?"
    return f"; known here: {', '.join(beside)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
