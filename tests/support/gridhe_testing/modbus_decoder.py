"""The decoding of Modbus answers, and the reading of register maps, for any bytes."""

import struct
from decimal import Decimal
from pathlib import Path

from gridhe.errors import ConfigError, RemoteError, SourceError
from gridhe.meter_agent.sources.modbus.answers import Request, RtuAnswer, TcpAnswers
from gridhe.meter_agent.sources.modbus.blocks import plan_blocks, read_registers, read_serial
from gridhe.meter_agent.sources.modbus.register_map import SUNSPEC, Serial, load_map, map_names
from gridhe.meter_agent.sources.modbus.sunspec import read_common, read_header, read_model
from gridhe.meter_agent.sources.reading import DeviceReading
from gridhe_testing.decoder import Decoder, seeds_of
from gridhe_testing.modbus_meter import crc

__all__ = ["modbus"]

_MAPS = [load_map(name) for name in map_names() if name != SUNSPEC]
_EASTRON = load_map("eastron_sdm630")
_ASKED = Request(unit=1, function=4, address=0x34, count=24)
_TRANSACTION = 300
_VALUES = bytes.fromhex("c52be800") + bytes(36) + bytes.fromhex("459c4400460e3100")
_MODELS = (201, 202, 203, 204, 211, 212, 213, 214)
_OWN_MAP = b"""
meter: mine
line: 9600 8N1
block: 40
gap: 2
serial: {function: 3, address: 1, count: 2, type: text}
remarks: [compare it with the display]
registers:
  - {gives: import, name: day, function: 4, address: 0x48, type: u32, order: CDAB, unit: kWh, scale: 0.1,
     sign: -1, missing: [all_ones], missing_raw: [7], step_wh: 2, modulus_wh: 1e9}
"""


def _check(reading: DeviceReading) -> None:
    for register in (*reading.imported.values(), *reading.exported.values()):
        assert 0 <= register.wh <= 10**11  # what `values` promises
        assert register.step_wh > 0
    assert reading.power_w is None or isinstance(reading.power_w, Decimal)


def _eastron(registers: bytes) -> None:
    (block,) = plan_blocks(_EASTRON)
    _check(read_registers(_EASTRON, block.cut(registers)))


def _rtu(data: bytes) -> None:
    answer = RtuAnswer(_ASKED)
    for at in range(0, len(data), 7):
        answer.feed(data[at : at + 7])
    _eastron(answer.registers())


def _rtu_sealed(data: bytes) -> None:
    head = b"\1\4\x30" + data.ljust(48, b"\0")[:48]
    _rtu(head + crc(head))


def _tcp(data: bytes) -> None:
    answers = TcpAnswers()
    for at in range(0, len(data), 50):
        answers.feed(data[at : at + 50])
        registers = answers.registers(_ASKED, _TRANSACTION)
        if registers is not None:
            _eastron(registers)


def _without_ids(data: bytes) -> None:
    answers = TcpAnswers()
    answers.feed(data)
    _eastron(answers.only(_ASKED))


def _map(data: bytes) -> None:
    chosen = _MAPS[data[0] % len(_MAPS)] if data else _MAPS[0]
    found: dict[str, bytes] = {}
    rest = data[1:]
    for block in plan_blocks(chosen):
        found |= block.cut(rest[: 2 * block.count].ljust(2 * block.count, b"\0"))
        rest = rest[2 * block.count :]
    _check(read_registers(chosen, found))


def _sunspec(data: bytes) -> None:
    number = _MODELS[data[0] % len(_MODELS)] if data else 203
    header = struct.pack(">HH", number, 124)
    model = read_header(header, 0)
    _check(read_model(model, (header + data[1:]).ljust(2 * model.count, b"\0")[: 2 * model.count]))


def _numbers(data: bytes) -> None:
    for kind in ("number", "text"):
        serial = read_serial(Serial(function=3, address=0, count=16, type=kind), data[:32])
        assert serial is None or serial.isprintable()
    name = read_common(data[:132].ljust(132, b"\0"))
    assert name is None or name.isprintable()


def modbus(directory: Path) -> Decoder:
    """`directory` is for register maps."""
    path = directory / "mine.yaml"

    def own_map(data: bytes) -> None:
        path.write_bytes(data)
        plan_blocks(load_map(str(path)))

    head = b"\1\4\x30" + _VALUES
    answer = struct.pack(">HHHB", _TRANSACTION, 0, 3 + len(_VALUES), 1) + b"\4\x30" + _VALUES
    return Decoder(
        feeders=(_rtu, _rtu_sealed, _tcp, _without_ids, _map, _sunspec, _numbers, own_map),
        errors=(RemoteError, ConfigError, SourceError),
        seeds=seeds_of(
            (head + crc(head), _ASKED.rtu() + head + crc(head)),
            _VALUES,
            (answer, struct.pack(">HHHB", _TRANSACTION - 1, 0, 3, 1) + b"\x84\6" + answer),
            answer,
            tuple(bytes([number]) + bytes(60) for number in range(len(_MAPS))),
            tuple(bytes([number]) + bytes(140) for number in range(len(_MODELS))),
            b"SN-4711".ljust(32, b"\0"),
            _OWN_MAP,
        ),
    )
