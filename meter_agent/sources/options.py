"""A driver's settings, from `key=value` words of a command line and from section `source` of the settings."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gridhe.config.document import parse_value
from gridhe.config.wording import in_words
from gridhe.errors import ConfigError
from gridhe.meter_agent.sources.registry import driver

if TYPE_CHECKING:
    from gridhe.config.load import Section
    from gridhe.meter_agent.sources.driver import Device
    from gridhe.meter_agent.sources.settings import SourceSettings

__all__ = ["OpenedSource", "open_source", "parse_options", "source_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSource:
    """A driver's device, ready to run."""

    name: str
    settings: "SourceSettings"
    device: "Device"


def parse_options(words: Iterable[str]) -> dict[str, str]:
    """`["address=/dev/ttyUSB0", "zone=Europe/Helsinki"]` by key.

    Raises ConfigError for a word without `=`, and for a key that is given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            example = f"{key}=VALUE" if key.isidentifier() else "address=/dev/ttyUSB0"
            raise ConfigError(f"{word!r} is no setting: expected key=value, such as {example}")
        if key in found:
            raise ConfigError(f"{key} is given twice: {found[key]} and {value}")
        found[key] = value
    return found


def open_source(name: str, words: Iterable[str], section: "Section | None" = None) -> OpenedSource:
    """The device of source `name`: `words` of the flag --with, over `section` unless it names another driver.

    Raises SourceError and ConfigError as `source_settings` does, and as the driver does.
    """
    given: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if section is not None and section.values.get("driver") in (None, name):
        given = {key: value for key, value in section.values.items() if key != "driver"}
        origins = dict(section.origins)
    for key, value in parse_options(words).items():
        given[key], origins[key] = value, f"--with {key}"
    settings = source_settings(name, given, origins)
    return OpenedSource(name=name, settings=settings, device=driver(name).open_device(settings))


def source_settings(
    name: str, given: Mapping[str, Any], origins: Mapping[str, str] | None = None
) -> "SourceSettings":
    """The settings of source `name`. Text stays text where the setting takes it, else it is read as YAML.

    Raises SourceError (an unknown source, a missing package), or ConfigError with one line for each wrong
    setting: its name, the expected and the given value, and its place in `origins`.
    """
    model = driver(name).settings()
    try:
        return model.model_validate(given)
    except ValidationError as invalid:
        problems = invalid.errors(include_url=False)
        # A value_error is about text that the setting takes: read as YAML it would be another value.
        wrong = {each["loc"][0] for each in problems if each["loc"] and each["type"] != "value_error"}
    parsed = {
        key: parse_value(value, key) if key in wrong and isinstance(value, str) else value
        for key, value in given.items()
    }
    try:
        return model.model_validate(parsed)
    except ValidationError as invalid:
        known = list(model.model_fields)
        lines = []
        for problem in invalid.errors(include_url=False):
            origin = (origins or {}).get(str(problem["loc"][0]) if problem["loc"] else "", "")
            line = f"source {name}: {_explain(problem, known)}"
            lines.append(f"{line} ({origin})" if origin else line)
        raise ConfigError("\n".join(lines)) from None


def _explain(problem: Mapping[str, Any], known: list[str]) -> str:
    path = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden" and path not in known:
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
        rest = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"unknown setting {path}; {rest}"
    if problem["type"] == "missing":
        return f"{path} is missing: give {path}=..."
    return f"{path}: {in_words(problem)}" if path else in_words(problem)
