"""A meter on a bus, polled in a fixed rhythm."""

import asyncio
import time
from dataclasses import replace
from typing import Protocol

from gridhe.errors import RemoteError, SourceError
from gridhe.meter_agent.sources.driver import Sink
from gridhe.meter_agent.sources.modbus.answers import ABSENT, REFUSED, Request
from gridhe.meter_agent.sources.modbus.blocks import Block, plan_blocks, read_registers, read_serial
from gridhe.meter_agent.sources.modbus.bus import Bus
from gridhe.meter_agent.sources.modbus.register_map import RegisterMap
from gridhe.meter_agent.sources.modbus.settings import Settings
from gridhe.meter_agent.sources.modbus.sunspec import (
    BASES,
    COMMON,
    END,
    HEADER,
    Model,
    is_marker,
    read_common,
    read_header,
    read_model,
)
from gridhe.meter_agent.sources.reading import DeviceReading
from gridhe.meter_agent.sources.transports.line import Line
from gridhe.meter_agent.sources.transports.serial_port import SerialLine
from gridhe.meter_agent.sources.transports.stream import keep_open

__all__ = ["MappedMeter", "ModbusDevice", "SunspecMeter"]

_CHECK = "check the unit number, the meter's power, and for a serial line wires A and B, baud rate and parity"
_MAP = "is this the right register map for this meter?"
_WAYS_OUT = {
    "timeout": _CHECK,
    "crc": "check baud rate, parity, and the ends and length of the bus",
    "late": "if this comes often, raise timeout_s",
    "negative": _MAP,
    "implausible": _MAP,
} | dict.fromkeys(ABSENT, _MAP)
_MODELS = 100  # a longer chain is no chain
_DEVICE_TRIES = 3
_ABSENT_POLLS = 100  # a refused register is asked again: some meters refuse everything while they start
_HOLDING = 3  # SunSpec models are holding registers


class Meter(Protocol):
    """Asks a bus for one reading."""

    async def read(self, bus: Bus) -> DeviceReading:
        """Raises RemoteError: no reading this time. Raises SourceError: see `Bus.ask`."""
        ...


class MappedMeter:
    """A meter with a register map."""

    def __init__(self, registers: RegisterMap, unit: int) -> None:
        self._map, self._unit = registers, unit
        self._blocks = plan_blocks(registers)
        self._absent: set[Block] = set()  # optional registers that this meter does not have
        self._polls = 0
        self._device: str | None = None
        self._device_tries = _DEVICE_TRIES

    async def read(self, bus: Bus) -> DeviceReading:
        """See `Meter`."""
        found: dict[str, bytes] = {}
        self._polls += 1
        if self._polls % _ABSENT_POLLS == 0:
            self._absent.clear()
        for block in list(self._blocks):
            if block not in self._absent:
                found |= await self._block(bus, block)
        await self._ask_device(bus)
        return read_registers(self._map, found, self._device)

    async def _block(self, bus: Bus, block: Block) -> dict[str, bytes]:
        try:
            return block.cut(await bus.ask(self._request(block.function, block.address, block.count)))
        except RemoteError as error:
            if error.reason not in ABSENT:
                raise
            if len(block.registers) == 1:
                if not block.optional:
                    raise
                self._absent.add(block)
                return {}
        # Some meters refuse long blocks, and such as cross unused registers: from now on one by one.
        at = self._blocks.index(block)
        self._blocks[at : at + 1] = block.pieces
        found: dict[str, bytes] = {}
        for piece in block.pieces:
            found |= await self._block(bus, piece)
        return found

    async def _ask_device(self, bus: Bus) -> None:
        """After a first success, for each opening of the line: the meter may have been exchanged."""
        place = self._map.serial
        if place is None or not self._device_tries:
            return
        self._device_tries -= 1
        try:
            data = await bus.ask(self._request(place.function, place.address, place.count))
        except RemoteError as error:
            if error.reason in REFUSED:  # some meters lack this register
                self._device_tries = 0
            else:
                bus.count(error)
            return
        self._device, self._device_tries = read_serial(place, data), 0

    def _request(self, function: int, address: int, count: int) -> Request:
        return Request(unit=self._unit, function=function, address=address, count=count)


class SunspecMeter:
    """A meter that says itself where its registers are."""

    def __init__(self, unit: int, instance: int) -> None:
        self._unit, self._instance = unit, instance
        self._model: Model | None = None
        self._device: str | None = None

    async def read(self, bus: Bus) -> DeviceReading:
        """See `Meter`."""
        if self._model is None:
            self._model = await self._find(bus)
        try:
            return read_model(
                self._model, await self._ask(bus, self._model.address, self._model.count), self._device
            )
        except RemoteError as error:
            if error.reason == "moved":
                self._model = None
            raise

    async def _find(self, bus: Bus) -> Model:
        self._device = None
        for base in BASES:
            try:
                if not is_marker(await self._ask(bus, base, HEADER)):
                    continue
            except RemoteError as error:
                if error.reason not in ABSENT:
                    raise
                continue
            return await self._walk(bus, base + HEADER)
        raise RemoteError(
            "no_sunspec", f"unit {self._unit} has no SunSpec marker at {', '.join(map(str, BASES))}"
        )

    async def _walk(self, bus: Bus, address: int) -> Model:
        meters = 0
        for _ in range(_MODELS):
            model = read_header(await self._ask(bus, address, HEADER), address)
            if model.number in (0, END) or model.next_address + HEADER > 65_536:
                break
            if model.number == COMMON:  # of all models up to the next one of these
                self._device = read_common(await self._ask(bus, address, model.count))
            if model.is_meter:
                meters += 1
                if meters == self._instance:
                    return model
            address = model.next_address
        raise RemoteError(
            "no_sunspec", f"unit {self._unit} has {meters} SunSpec meters, asked is number {self._instance}"
        )

    async def _ask(self, bus: Bus, address: int, count: int) -> bytes:
        return await bus.ask(Request(unit=self._unit, function=_HOLDING, address=address, count=count))


class ModbusDevice:
    """See `Device`."""

    def __init__(self, settings: Settings, registers: RegisterMap | None) -> None:
        self._settings = settings
        self._map = registers  # None: SunSpec
        self._line = SerialLine.parse(settings.line or (registers.line if registers else "9600 8N1"))

    async def run(self, sink: Sink) -> None:
        """See `Device`."""

        async def poll(line: Line) -> None:
            await self._poll(line, sink)

        await keep_open(self._settings, self._line, sink, poll)

    def _meter(self) -> Meter:
        if self._map is None:
            return SunspecMeter(self._settings.unit, self._settings.meter)
        return MappedMeter(self._map, self._settings.unit)

    async def _poll(self, line: Line, sink: Sink) -> None:
        settings = self._settings
        bus = Bus(line, sink, settings.framing_here, settings.timeout_s)
        meter = self._meter()
        silence_s = max(settings.silence_s, 3 * settings.poll_s)
        due_s = time.monotonic()
        while True:
            try:
                reading = await meter.read(bus)
            except RemoteError as error:
                sink.fault(error.reason, _with_way_out(error, line))
            else:
                _give(reading, sink, reverse=settings.reverse)
            now_s = time.monotonic()
            if now_s - bus.answered_s > silence_s:
                raise SourceError(
                    f"{line.name}: unit {settings.unit} has not answered for {silence_s:g} s; {_CHECK}"
                )
            due_s = max(due_s + settings.poll_s, now_s)
            await asyncio.sleep(due_s - now_s)


def _with_way_out(error: RemoteError, line: Line) -> str:
    way_out = _WAYS_OUT.get(error.reason)
    return f"{line.name}: {error}" + (f"; {way_out}" if way_out else "")


def _give(reading: DeviceReading, sink: Sink, *, reverse: bool) -> None:
    if reverse:
        reading = replace(
            reading,
            imported=reading.exported,
            exported=reading.imported,
            power_w=None if reading.power_w is None else -reading.power_w,
        )
    if not reading.imported and not reading.exported:
        sink.fault("no_energy", "the meter says that its energy registers hold no value now")
        if reading.power_w is None:
            return
    sink.reading(reading)
