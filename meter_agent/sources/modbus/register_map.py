"""Register maps: where a meter keeps its energy. Data files in `maps/`, or the user's own.

    meter: Eastron SDM630
    line: 9600 8N1                 # the meter's default
    block: 40                      # the largest number of registers in one request
    gap: 20                        # registers between two values that one request may cross
    registers:
      - {gives: power,  function: 4, address: 0x0034, type: float32, unit: W}
      - {gives: import, function: 4, address: 0x0048, type: float32, unit: kWh}
      - {gives: export, function: 4, address: 0x004a, type: float32, unit: kWh}

Addresses are those on the wire, from 0. A manual that counts from 1, or writes 30073 or 40073, means 72.
Several registers that give the same direction are tariffs or phases: they add up.
"""

import difflib
from collections.abc import Mapping
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gridhe.config.document import Document, KeyPath, read_document
from gridhe.config.wording import in_words
from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.sources.modbus.values import Encoding, Missing, Order, Type
from gridhe.meter_agent.sources.transports.serial_port import SerialLine

__all__ = ["SUNSPEC", "MapRegister", "RegisterMap", "Serial", "load_map", "map_names"]

SUNSPEC = "sunspec"  # not a file: the meter itself says where its registers are
_FOLDER = files("gridhe.meter_agent.sources.modbus") / "maps"
_ENDINGS = (".yaml", ".yml")
_TO_BASE = {
    "Wh": Decimal(1),
    "kWh": Decimal(1000),
    "MWh": Decimal(10**6),
    "W": Decimal(1),
    "kW": Decimal(1000),
}


def _decimal(value: object) -> object:
    """0.1 as YAML reads it, a float, is 0.1 as it is written."""
    return Decimal(repr(value)) if isinstance(value, float) else value


Exact = Annotated[Decimal, BeforeValidator(_decimal)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Place(_Strict):
    function: Literal[3, 4] = Field(description="3 holding registers, 4 input registers")
    address: int = Field(ge=0, le=65_535, strict=True, description="on the wire, from 0")


class MapRegister(_Place):
    """One value that the meter gives."""

    gives: Literal["import", "export", "power"] = Field(description="power: import minus export")
    name: str | None = Field(None, min_length=1, max_length=40, description="to tell tariffs apart")
    type: Type
    order: Order = Field("ABCD", description="of the bytes: ABCD high word first, CDAB low word first")
    unit: Literal["Wh", "kWh", "MWh", "W", "kW"]
    scale: Exact = Field(
        Decimal(1), ge=Decimal("1e-9"), le=10**6, description="the number times this has the unit"
    )
    sign: Literal[1, -1] = Field(1, description="-1 if the meter counts the other way")
    missing: tuple[Missing, ...] = Field((), description="patterns that mean that the value is not there")
    missing_raw: tuple[Annotated[int, Field(strict=True, ge=0, lt=2**64)], ...] = Field(
        (), description="more such patterns, as the registers' bits: 0x00007fff"
    )
    step_wh: Exact | None = Field(
        None, ge=Decimal("1e-9"), le=10**6, description="Wh: the smallest change, if it is more than `scale`"
    )
    modulus_wh: Exact | None = Field(
        None, ge=1, le=10**15, description="Wh: the register rolls over to 0 here"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "MapRegister":
        if (self.gives == "power") != (self.unit in ("W", "kW")):
            raise ValueError(f"{self.gives} cannot have the unit {self.unit}")
        if self.gives == "power" and (self.step_wh or self.modulus_wh):
            raise ValueError("step_wh and modulus_wh are for energy")
        if self.address + self.encoding.count > 65_536:
            raise ValueError(f"a {self.type} at {self.address} ends behind the last register, 65535")
        return self

    @property
    def encoding(self) -> Encoding:
        """How the number stands in its registers."""
        return Encoding(type=self.type, order=self.order, missing=(*self.missing, *self.missing_raw))

    @property
    def scale_base(self) -> Decimal:
        """Wh or W of one."""
        return self.scale * _TO_BASE[self.unit] * self.sign


class Serial(_Place):
    """Where the meter keeps its serial number, which tells an exchanged meter."""

    count: int = Field(ge=1, le=32, strict=True)
    type: Literal["number", "text"]


class RegisterMap(_Strict):
    """One kind of meter."""

    meter: str = Field(min_length=1, max_length=200)
    line: str = Field("9600 8N1", description="baud rate and format that the meter has from the factory")
    block: int = Field(40, ge=4, le=125, strict=True, description="registers in one request, at most")
    gap: int = Field(0, ge=0, le=124, strict=True, description="unneeded registers that a request may cross")
    serial: Serial | None = None
    remarks: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()
    registers: tuple[MapRegister, ...] = Field(min_length=1, max_length=32)

    @model_validator(mode="after")
    def _consistent(self) -> "RegisterMap":
        if not any(each.gives != "power" for each in self.registers):
            raise ValueError("no register gives import or export: power alone is no energy")
        if sum(each.gives == "power" for each in self.registers) > 1:
            raise ValueError("two registers give power: keep the total")
        try:
            SerialLine.parse(self.line)
        except ConfigError as error:
            raise ValueError(f"line: {error}") from None
        for gives in ("import", "export"):
            names = [name for name, each in self.named if each.gives == gives]
            if len(names) != len(set(names)):
                raise ValueError(f"two registers that give {gives} have the same name")
        return self

    @property
    def named(self) -> list[tuple[str, MapRegister]]:
        """Every register with its name: its own, else what it gives, numbered from the second one on."""
        seen: dict[str, int] = {}
        found = []
        for each in self.registers:
            number = seen[each.gives] = seen.get(each.gives, 0) + 1
            found.append((each.name or (each.gives if number == 1 else f"{each.gives}_{number}"), each))
        return found


def map_names() -> list[str]:
    """The names that setting `map` takes, in order."""
    packaged = [each.name.removesuffix(".yaml") for each in _FOLDER.iterdir() if each.name.endswith(".yaml")]
    return sorted([*packaged, SUNSPEC])


def load_map(name: str) -> RegisterMap:
    """A packaged map by its name, or the user's own by its path (with a slash, or ending in .yaml).

    Raises SourceError for an unknown name, with the names that there are; ConfigError, with file, line, key
    and the expected value, for a file that is not a map.
    """
    if "/" in name or name.endswith(_ENDINGS):
        path = Path(name)
        if not path.is_file():
            raise SourceError(f"there is no register map {name}; packaged are {', '.join(map_names())}")
    else:
        if name not in map_names() or name == SUNSPEC:
            near = difflib.get_close_matches(name, map_names(), n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}? " if near else ""
            raise SourceError(
                f"there is no register map {name!r}; {hint}There are {', '.join(map_names())}, "
                "or write your own and give its path (map=./mine.yaml)"
            )
        path = Path(str(_FOLDER / f"{name}.yaml"))
    document = read_document(path)
    try:
        return RegisterMap.model_validate(document.values)
    except ValidationError as invalid:
        problems = [each for each in invalid.errors(include_url=False) if not _follows(each, invalid)]
        raise ConfigError("\n".join(_explain(each, document) for each in problems)) from None


def _follows(problem: Mapping[str, Any], invalid: ValidationError) -> bool:
    """Whether this only follows from another problem: a list without its wrong items, a misspelt key."""
    path = tuple(problem["loc"])
    others = [(tuple(each["loc"]), each["type"]) for each in invalid.errors(include_url=False)]
    if problem["type"] == "too_short":
        return any(other[: len(path)] == path and len(other) > len(path) for other, _ in others)
    return problem["type"] == "missing" and any(
        kind == "extra_forbidden" and other[:-1] == path[:-1] and path[-1:] == tuple(_near(other))
        for other, kind in others
    )


def _near(path: KeyPath) -> list[str]:
    return difflib.get_close_matches(str(path[-1]), _known(path), n=1, cutoff=0.6)


def _explain(problem: Mapping[str, Any], document: Document) -> str:
    path: KeyPath = tuple(problem["loc"])
    line = document.lines.get(path) or document.lines.get(path[:-1], 1)
    key = ".".join(map(str, path))
    if problem["type"] == "extra_forbidden":
        near = _near(path)
        rest = f"did you mean {near[0]}?" if near else f"known here: {', '.join(_known(path))}"
        text = f"unknown key {key}; {rest}"
    elif problem["type"] == "missing":
        text = f"{key} is missing"
    else:
        text = f"{key}: {in_words(problem)}" if key else in_words(problem)
    return f"{document.path}:{line}: {text}"


def _known(path: KeyPath) -> list[str]:
    models: dict[str, type[BaseModel]] = {"registers": MapRegister, "serial": Serial}
    return list(models.get(str(path[0]) if len(path) > 1 else "", RegisterMap).model_fields)
