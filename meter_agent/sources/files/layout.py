"""A CSV file's format with every question decided: which column is what, and how its cells are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import tzinfo

from gridhe.meter_agent.sources.files.moments import Order
from gridhe.meter_agent.sources.files.numerals import Unit
from gridhe.meter_agent.sources.files.scale import Kind

__all__ = ["Clock", "Layout", "TimeColumns", "ValueColumn"]

Clock = str  # text, epoch, epoch_ms, excel, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeColumns:
    """Indexes of the columns with a date, a time or both; None: there is none."""

    date: int | None = None
    time: int | None = None
    end_date: int | None = None
    end_time: int | None = None
    number: int | None = None  # the n-th period of the day, from 1
    clock: Clock = "text"
    order: Order = "dmy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueColumn:
    """A column of readings. Those of one meter and quantity are added (tariffs)."""

    at: int
    quantity: str
    unit: Unit | None  # None: in each row, or in each cell
    meter: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All that is needed to read the rows."""

    format: str
    said: tuple[str, ...]
    shape: str  # long, meters, hours
    times: TimeColumns
    values: tuple[ValueColumn, ...]
    hours: tuple[tuple[int, int], ...] = ()  # of shape hours: column, and seconds from the day's start
    hours_by_clock: bool = True  # else the n-th period of the day, whatever the clock shows
    meter: int | None = None
    unit: int | None = None
    quality: int | None = None
    direction: int | None = None
    directions: Mapping[str, str] = field(default_factory=dict)  # a direction column's words to quantities
    decimal: str = "."
    thousands: str = ""
    kind: Kind = "interval"
    weak_kind: bool = False  # the kind is to be confirmed by the values
    zone: tzinfo | None = None  # of stamps without an offset; None: they all have one
    zone_assumed: bool = False
    end: bool | None = None
    step_s: int | None = None
    row_step_s: int | None = None  # how long a row lasts by its two stamps
    negate: bool = False
