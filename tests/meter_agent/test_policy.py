"""What becomes of odd readings, in the one place that decides."""

import numpy as np
import pytest

from gridhe.config.settings import MeterSettings
from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, TEXT, ReadingPolicy

RAW = np.array([5, ABSENT, TEXT, -1, 101, 100, 0], np.int64)


def where(index: int) -> str:
    return f"place {index}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [5, -1, -1, -1, 100, 100, 0]),
        ({"on_negative": "clip"}, [5, -1, -1, 0, 100, 100, 0]),
        ({"on_too_large": "missing"}, [5, -1, -1, -1, -1, 100, 0]),
    ],
)
def test_odd_readings_are_missing_or_clipped_as_the_settings_say(
    changes: dict[str, str], expected: list[int]
) -> None:
    policy = ReadingPolicy(MeterSettings(**changes))  # type: ignore[arg-type]
    assert policy.apply(RAW, 100, where).tolist() == expected
    assert policy.counts.as_dict() == {"good": 3, "absent": 1, "text": 1, "negative": 1, "too_large": 1}


@pytest.mark.parametrize(
    ("setting", "place", "says"),
    [
        ("on_text", 2, "is no integer"),
        ("on_negative", 3, "-1 is negative"),
        ("on_too_large", 4, "101 is above"),
    ],
)
def test_a_refused_reading_names_its_place_and_the_setting(setting: str, place: int, says: str) -> None:
    policy = ReadingPolicy(MeterSettings(**{setting: "refuse"}))  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=f"place {place}: .*{says}.*meter.{setting}"):
        policy.apply(RAW, 100, where)
