"""Recorded readings shipped with gridhe: 17 homes, one year, integer Wh per hour (source: README.md).

`load_sample()` returns them unchanged; `house_weeks()` cuts them into stretches, so that more meters than
homes can replay different recorded readings.
"""

import csv
import gzip
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gridhe.errors import SourceError

__all__ = ["HOMES", "HOURS", "house_weeks", "load_sample", "sample_path"]

HOMES = 17
HOURS = 8760
_NAME = "homes_17_hourly_Wh.csv.gz"


def sample_path() -> Path:
    """The path of the sample: a gzipped CSV with an `hour` column and one column of Wh per home."""
    return Path(str(resources.files(__name__).joinpath(_NAME)))


def load_sample() -> NDArray[np.int64]:
    """All readings: int64[8760, 17], Wh, hours by homes. Raises SourceError if the file is damaged."""
    path = sample_path()
    try:
        with gzip.open(path, "rt", encoding="ascii", newline="") as file:
            rows = csv.reader(file)
            next(rows)
            energy_wh = np.array([row[1:] for row in rows], dtype=np.int64)
    except (OSError, EOFError, ValueError, StopIteration) as error:
        raise SourceError(
            f"the shipped sample {path} cannot be read ({error}); install gridhe again"
        ) from error
    if energy_wh.shape != (HOURS, HOMES):
        raise SourceError(f"the shipped sample {path} has shape {energy_wh.shape}, expected {(HOURS, HOMES)}")
    return energy_wh


def house_weeks(count: int, windows: int, hours_per_window: int = 24) -> NDArray[np.int64]:
    """Readings of `count` meters: int64[windows * hours_per_window, count], Wh.

    Each meter gets a stretch of its own (7 windows of 24 hours: a week) of one home. Meters take the
    homes in turn, then the same homes' next stretch, so that few meters are all of one season. No
    hour of a home is used twice. Raises SourceError if there are too few stretches.
    """
    hours = windows * hours_per_window
    if count < 1 or windows < 1 or hours_per_window < 1:
        raise SourceError(
            f"{count} meters of {windows} windows of {hours_per_window} h: each must be 1 or more"
        )
    stretches = HOURS // hours
    if count > stretches * HOMES:
        raise SourceError(
            f"{count} meters of {hours} h are asked for; the {HOMES} homes have {stretches * HOMES} such "
            "stretches: use fewer meters or windows, or your own readings"
        )
    sample = load_sample()[: stretches * hours].reshape(stretches, hours, HOMES)
    # Stretch-major: meter m is home m % 17 in stretch m // 17.
    return np.ascontiguousarray(sample.transpose(1, 0, 2).reshape(hours, stretches * HOMES)[:, :count])
