"""The settings that describe a file's format. `auto` leaves a question to the file itself.

They stand behind `--with` on the command line, and settle single questions:

    gridhe-meter check readings.csv --with unit=kWh --with zone=Europe/Zurich
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gridhe.config.wording import in_words
from gridhe.errors import ConfigError

__all__ = ["FileFormat", "with_options"]


class FileFormat(BaseModel):
    """One format. Columns are named as in the file's header line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Text
    encoding: str | None = Field(None, max_length=40)  # such as utf-8, cp1252, cp1250; None: found out
    delimiter: Literal["auto", ",", ";", "tab", "|"] = "auto"
    decimal: Literal["auto", ".", ","] = "auto"
    thousands: Literal["auto", "none", ".", ","] = "auto"  # apostrophes and blanks always separate thousands
    skip_rows: int | None = Field(None, ge=0, le=10_000)  # lines above the header line
    missing: tuple[str, ...] = ()  # words for "no reading", beside the common ones (null, n/a, ?, -, ...)

    # Time
    date: Literal["auto", "dmy", "mdy"] = "auto"  # the order of dates such as 3/4/2024
    # start, end: the stamp is the interval's start or end; number: the n-th hour (or quarter) of the day;
    # rows: there are no stamps, rows follow each other from --start
    stamp: Literal["auto", "start", "end", "number", "rows"] = "auto"
    clock: Literal["auto", "text", "epoch", "excel"] = "auto"  # epoch seconds; a spreadsheet's day numbers
    zone: str | None = Field(None, max_length=64)  # Europe/Berlin, UTC, +10:00: of stamps without an offset
    step_s: int | None = Field(None, ge=1, le=31 * 86_400)  # seconds of an interval

    # Values
    layout: Literal["auto", "meters", "long", "hours"] = (
        "auto"  # a column a meter, a row a reading, a row a day
    )
    kind: Literal["auto", "interval", "register", "power"] = (
        "auto"  # energies, a meter's register, mean power
    )
    unit: Literal["auto", "Wh", "kWh", "MWh", "W", "kW", "MW"] = "auto"
    sign: Literal["auto", "import", "export"] = "auto"  # the meaning of a positive value of the net column
    conflict: Literal["missing", "first", "last"] = (
        "missing"  # two rows for one interval with different values
    )
    largest_w: int = Field(100_000, ge=100, le=10**9)  # a register that rises faster is not believed

    # Columns; None: found by their names
    time_column: str | None = Field(None, max_length=200)
    date_column: str | None = Field(None, max_length=200)
    end_column: str | None = Field(None, max_length=200)
    meter_column: str | None = Field(None, max_length=200)
    import_column: str | None = Field(None, max_length=200)
    export_column: str | None = Field(None, max_length=200)
    net_column: str | None = Field(None, max_length=200)
    direction_column: str | None = Field(None, max_length=200)


def with_options(base: FileFormat, given: Mapping[str, Any]) -> FileFormat:
    """The format with single settings replaced. Raises ConfigError that names the wrong setting."""
    settings: dict[str, Any] = {**base.model_dump(), **given}
    if isinstance(settings["missing"], str):
        settings["missing"] = tuple(word.strip() for word in settings["missing"].split(","))
    try:
        return FileFormat.model_validate(settings)
    except ValidationError as invalid:
        problem = invalid.errors(include_url=False)[0]
        name = ".".join(map(str, problem["loc"][:1]))
        if problem["type"] == "extra_forbidden":
            raise ConfigError(
                f"unknown setting {name} of a file's format; known: {', '.join(FileFormat.model_fields)}"
            ) from None
        raise ConfigError(f"{name}: {in_words(problem)}") from None
