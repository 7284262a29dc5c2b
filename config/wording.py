"""pydantic's findings in this project's words, for settings of any model."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["in_words"]

_WORDING = (  # pydantic's words and ours
    ("Input should be an object", "expected keys and values"),
    ("Input should be", "expected"),
    ("Value error, ", ""),
    ("Tuple should", "a list should"),
    ("String should", "text should"),
)


def in_words(problem: Mapping[str, Any]) -> str:
    """The expected and the given value of one of `ValidationError.errors()`, without the setting's name."""
    text: str = problem["msg"]
    for theirs, ours in _WORDING:
        text = text.replace(theirs, ours)
    if problem["type"] not in ("value_error", "too_short", "too_long", "missing"):
        text += f", came {_short(problem['input'])}"
    return text


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
