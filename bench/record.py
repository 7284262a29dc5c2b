"""One record: the figures of one metric of one case, in one run on one machine."""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gridhe.errors import StoreError

__all__ = ["FORMAT", "Better", "Figures", "Record", "encode_line", "records_from_lines"]

FORMAT = 1  # version of a record on disk; other versions are refused
Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Statistics of `count` repeats of one measurement, in the record's unit."""

    count: int
    least: float
    q25: float
    median: float
    q75: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figures":
        """The figures of one or more values. Raises ValueError if there are none or one is not finite."""
        array = np.asarray(values, np.float64)
        if not array.size or not np.isfinite(array).all():
            raise ValueError(f"a record needs finite values, got {array[:4]}")
        least, q25, median, q75, p95, p99, most = np.quantile(array, (0, 0.25, 0.5, 0.75, 0.95, 0.99, 1))
        return cls(
            count=array.size,
            least=float(least),
            q25=float(q25),
            median=float(median),
            q75=float(q75),
            p95=float(p95),
            p99=float(p99),
            most=float(most),
        )

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median; 0 for a single value."""
        return (self.q75 - self.q25) / abs(self.median) if self.median else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A metric of a case: `suite`, `case`, `preset`, `metric`, `host` and `version` are from small sets."""

    run: str
    at_ns: int  # UTC epoch
    suite: str
    case: str
    preset: str
    metric: str
    unit: str
    better: Better
    figures: Figures
    host: str
    machine: str  # processor, cores, memory, system, Python and libraries, in one line
    version: str  # of gridhe
    note: str = ""  # why a figure is missing or special

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Suite, case, preset and metric: records of two runs with equal keys are compared."""
        return self.suite, self.case, self.preset, self.metric


def encode_line(record: Record) -> str:
    """The record as one flat line of JSON, which pandas reads with `read_json(path, lines=True)`."""
    fields = dataclasses.asdict(record)
    figures = fields.pop("figures")
    return json.dumps({"format": FORMAT, **fields, **figures}, allow_nan=False)


_TEXTS = ("run", "suite", "case", "preset", "metric", "unit", "host", "machine", "version", "note")
_NUMBERS = ("least", "q25", "median", "q75", "p95", "p99", "most")


def decode(fields: dict[str, Any], where: str) -> Record:
    """The record of a flat mapping; `where` names it in errors. Raises StoreError."""
    version = fields.get("format")
    if version != FORMAT:
        raise StoreError(
            f"{where}: a record of format {version!r}, this gridhe-bench reads format {FORMAT}; "
            "use the gridhe version that wrote it"
        )
    try:
        texts = {name: fields[name] for name in _TEXTS}
        numbers = {name: float(fields[name]) for name in _NUMBERS}
        at_ns, count, better = fields["at_ns"], fields["count"], fields["better"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"{where}: not a complete record ({type(error).__name__}: {error})") from None
    whole = isinstance(at_ns, int) and isinstance(count, int) and count > 0
    if (
        not whole
        or any(not isinstance(text, str) for text in texts.values())
        or not all(math.isfinite(number) for number in numbers.values())
        or better not in ("lower", "higher", "neither")
    ):
        raise StoreError(f"{where}: not a complete record (a field of the wrong type)")
    return Record(at_ns=at_ns, better=better, figures=Figures(count=count, **numbers), **texts)


def records_from_lines(lines: Sequence[str], where: str) -> list[Record]:
    """The records of these lines of JSON. Raises StoreError naming the line."""
    records = []
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{where}, line {number}: not a record ({error}); remove that line, or run the bench again"
            ) from None
        records.append(decode(fields, f"{where}, line {number}"))
    return records
