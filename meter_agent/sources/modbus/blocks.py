"""Which registers of a map are read together, and the reading that they make.

A value never spans two requests: its words would be of different moments (0x0000ffff, then 0x00010000, would
read as 0x0001ffff). Power comes first, so that energy is the newest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from gridhe.meter_agent.sources.modbus.register_map import MapRegister, RegisterMap, Serial
from gridhe.meter_agent.sources.modbus.values import energy, power
from gridhe.meter_agent.sources.reading import DeviceReading, Register

__all__ = ["Block", "plan_blocks", "read_registers", "read_serial"]

Named = tuple[str, MapRegister]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Neighbouring registers that one request reads."""

    function: int
    address: int
    count: int
    registers: tuple[Named, ...]

    @classmethod
    def of(cls, registers: Iterable[Named]) -> "Block":
        """The block that spans these registers, which have one function code."""
        found = tuple(registers)
        first = min(each.address for _, each in found)
        end = max(each.address + each.encoding.count for _, each in found)
        return cls(function=found[0][1].function, address=first, count=end - first, registers=found)

    @property
    def pieces(self) -> "list[Block]":
        """One block for each register, for a meter that refuses this one."""
        return [Block.of([each]) for each in self.registers]

    @property
    def optional(self) -> bool:
        """Whether a reading is worth having without it."""
        return all(each.gives != "import" for _, each in self.registers)

    def cut(self, data: bytes) -> dict[str, bytes]:
        """Each register's own bytes, by name and direction, from the block's `2 * count` bytes."""
        found = {}
        for name, each in self.registers:
            at = 2 * (each.address - self.address)
            found[_key(name, each)] = data[at : at + 2 * each.encoding.count]
        return found


def plan_blocks(registers: RegisterMap) -> list[Block]:
    """The fewest requests within the map's `block` and `gap`."""
    blocks: list[Block] = []
    for named in sorted(registers.named, key=lambda item: (item[1].function, item[1].address)):
        if blocks and blocks[-1].function == named[1].function:
            last = blocks[-1]
            joined = Block.of([*last.registers, named])
            gap = named[1].address - (last.address + last.count)
            if gap <= registers.gap and joined.count <= registers.block:
                blocks[-1] = joined
                continue
        blocks.append(Block.of([named]))
    return sorted(blocks, key=lambda block: any(each.gives != "power" for _, each in block.registers))


def read_registers(
    registers: RegisterMap, found: Mapping[str, bytes], device: str | None = None
) -> DeviceReading:
    """The reading of the registers' bytes, as `Block.cut` gives them. The meter may lack some registers.

    Raises RemoteError for a number that is no meter's energy.
    """
    directions: dict[str, dict[str, Register] | None] = {"import": {}, "export": {}}
    watts: Decimal | None = None
    for name, each in registers.named:
        data = found.get(_key(name, each))
        if each.gives == "power":
            watts = None if data is None else power(each.encoding, data, each.scale_base)
            continue
        register = None
        if data is not None:
            register = energy(
                each.encoding,
                data,
                each.scale_base,
                step_wh=each.step_wh or Decimal(0),
                modulus_wh=each.modulus_wh,
            )
        direction = directions[each.gives]
        if register is None:
            directions[each.gives] = None  # one tariff is missing: no sum
        elif direction is not None:
            direction[name] = register
    return DeviceReading(
        imported=directions["import"] or {},
        exported=directions["export"] or {},
        power_w=watts,
        device=device,
        remarks=registers.remarks,
    )


def read_serial(place: Serial, data: bytes) -> str | None:
    """The meter's serial number; None if its registers hold none."""
    if place.type == "number":
        number = int.from_bytes(data, "big")
        return str(number) if 0 < number < 2 ** (8 * len(data)) - 1 else None
    text = data.split(b"\0")[0].decode("ascii", "ignore").strip()
    return text if text and text.isprintable() else None


def _key(name: str, register: MapRegister) -> str:
    return f"{register.gives} {name}"
