"""SunSpec meters: models 201 to 204 (integers with scale factors) and 211 to 214 (floats).

The marker "SunS" stands at register 40000, 50000 or 0; behind it a chain of models, each with its number and
length. The eight meter models share two layouts (github.com/sunspec/models, json/model_201.json to
model_214.json), of which six places matter here: less than what pysunspec2 would bring along, whose client
does blocking I/O of its own. Its rules that matter: an accumulator of 0 means "not accumulated", 0x8000 and
NaN mean "not implemented", and a value without its scale factor has no meaning.
"""

from dataclasses import dataclass
from decimal import Decimal

from gridhe.errors import RemoteError
from gridhe.meter_agent.sources.modbus.values import Encoding, energy, power
from gridhe.meter_agent.sources.reading import DeviceReading, Register

__all__ = [
    "BASES",
    "COMMON",
    "END",
    "HEADER",
    "Model",
    "is_marker",
    "read_common",
    "read_header",
    "read_model",
]

BASES = (40_000, 50_000, 0)
COMMON = 1  # the model of manufacturer, model name and serial number
END = 0xFFFF
HEADER = 2  # registers: a model's number and its length without these two

_SERIAL = (50, 16)  # registers of the common model's serial number, from its header
_ACCUMULATOR = Encoding(type="u32", missing=("zero",))
_INTEGER = Encoding(type="i16", missing=("smallest",))
_FLOAT_ENERGY = Encoding(type="float32", missing=("zero",))
_FLOAT = Encoding(type="float32")
_LARGEST_SCALE = 10  # scale factors are -10 to 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Offsets in registers from the model's header."""

    power: int
    power_scale: int | None
    exported: int
    imported: int
    energy_scale: int | None
    read: int  # registers from the header to the last one that matters


_WITH_SCALES = _Layout(power=18, power_scale=22, exported=38, imported=46, energy_scale=54, read=55)
_FLOATS = _Layout(power=28, power_scale=None, exported=60, imported=68, energy_scale=None, read=70)
_LAYOUTS = {201: _WITH_SCALES, 202: _WITH_SCALES, 203: _WITH_SCALES, 204: _WITH_SCALES} | {
    211: _FLOATS,
    212: _FLOATS,
    213: _FLOATS,
    214: _FLOATS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model in the chain."""

    number: int
    address: int  # of its header
    length: int  # registers behind the header

    @property
    def next_address(self) -> int:
        """Where the next model's header is."""
        return self.address + HEADER + self.length

    @property
    def is_meter(self) -> bool:
        """Whether it is one of the eight, and as long as its layout needs."""
        layout = _LAYOUTS.get(self.number)
        return layout is not None and self.length + HEADER >= layout.read

    @property
    def count(self) -> int:
        """Registers to read from `address` on; for a meter or the common model."""
        layout = _LAYOUTS.get(self.number)
        return layout.read if layout else min(sum(_SERIAL), self.length + HEADER)


def is_marker(data: bytes) -> bool:
    """Whether these two registers are the marker."""
    return data == b"SunS"


def read_header(data: bytes, address: int) -> Model:
    """The model whose header (two registers) stands at `address`."""
    return Model(
        number=int.from_bytes(data[:2], "big"), address=address, length=int.from_bytes(data[2:4], "big")
    )


def read_common(data: bytes) -> str | None:
    """The serial number, from the common model's registers (with its header); None if it has none."""
    at, count = _SERIAL
    text = data[2 * at : 2 * (at + count)].split(b"\0")[0].decode("ascii", "ignore").strip()
    return text if text.isprintable() and text else None


def read_model(model: Model, data: bytes, device: str | None = None) -> DeviceReading:
    """The reading of a meter model's `model.count` registers from its header on.

    Raises RemoteError: "moved" if another model stands there now, and those of `values.energy`.
    """
    if read_header(data, model.address) != model:
        raise RemoteError("moved", f"model {model.number} no longer stands at {model.address}")
    layout = _LAYOUTS[model.number]
    return DeviceReading(
        imported=_energy(layout, "TotWhImp", layout.imported, data),
        exported=_energy(layout, "TotWhExp", layout.exported, data),
        power_w=_power(layout, data),
        device=device,
    )


def _scale(data: bytes, at: int) -> Decimal | None:
    """Ten to the power of a scale factor; None: not implemented, or out of range."""
    factor = _INTEGER.number(_registers(data, at, 1))
    if factor is None or abs(factor) > _LARGEST_SCALE:
        return None
    return Decimal(1).scaleb(int(factor))


def _energy(layout: _Layout, name: str, at: int, data: bytes) -> dict[str, Register]:
    if layout.energy_scale is None:
        register = energy(_FLOAT_ENERGY, _registers(data, at, 2), Decimal(1))
    else:
        scale = _scale(data, layout.energy_scale)
        if scale is None:
            return {}
        register = energy(_ACCUMULATOR, _registers(data, at, 2), scale, modulus_wh=scale * 2**32)
    return {} if register is None else {name: register}


def _power(layout: _Layout, data: bytes) -> Decimal | None:
    if layout.power_scale is None:
        return power(_FLOAT, _registers(data, layout.power, 2), Decimal(1))
    scale = _scale(data, layout.power_scale)
    return None if scale is None else power(_INTEGER, _registers(data, layout.power, 1), scale)


def _registers(data: bytes, at: int, count: int) -> bytes:
    return data[2 * at : 2 * (at + count)]
