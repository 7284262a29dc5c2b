"""The settings of a model as text: name, the values that it takes, default, and meaning."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

__all__ = ["SettingText", "describe"]

_KINDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    Decimal: "number",
    Fraction: "number",
    str: "text",
    bool: "true | false",
    Path: "file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingText:
    """One setting."""

    name: str
    kind: str  # such as "whole number, 100 to 1000"
    default: str  # "required" without one, "-" for none
    meaning: str


def describe(model: "type[BaseModel]") -> list[SettingText]:
    """Every setting of `model`, the required ones first."""
    fields = model.model_fields.items()
    return [
        SettingText(
            name=name,
            kind=_kind(field.annotation) + _bounds(field),
            default=_default(field),
            meaning=field.description or "",
        )
        for name, field in sorted(fields, key=lambda each: not each[1].is_required())
    ]


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(_kind(each) for each in arguments if each is not type(None))
    if origin in (tuple, list, set, frozenset):
        return f"list of {_kind(arguments[0])}"
    if origin is not None and arguments and origin is not dict:
        return _kind(arguments[0])  # Annotated
    return _KINDS.get(annotation, "keys and values")


def _bounds(field: "FieldInfo") -> str:
    limits: dict[str, Any] = {}
    for each in field.metadata:
        limits |= {name: getattr(each, name) for name in ("ge", "gt", "le", "lt") if hasattr(each, name)}
    return "".join(f", {text}" for text in _bound_texts(limits))


def _bound_texts(limits: dict[str, Any]) -> Iterator[str]:
    if "ge" in limits and "le" in limits:
        yield f"{limits['ge']} to {limits['le']}"
        return
    for name, text in (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "up to")):
        if name in limits:
            yield f"{text} {limits[name]}"


def _default(field: "FieldInfo") -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ((), [], {}):
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
