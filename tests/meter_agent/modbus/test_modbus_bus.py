"""One request at a time, and registers never change places: meters with faults on real transports."""

import asyncio
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gridhe.meter_agent.sources.modbus import Settings, open_device
from gridhe.meter_agent.sources.reading import DeviceReading
from gridhe_testing.modbus_meter import Fault, ModbusMeter, Reply, crc, on_serial
from gridhe_testing.modbus_polling import in_loop, polling
from gridhe_testing.recording_sink import RecordingSink
from gridhe_testing.serial_pair import SerialPair

IMPORTED, EXPORTED, WATTS = Decimal(5_000_500), Decimal(9_100_200), Decimal("2750.5")
MAP = "carlo_gavazzi_em24"  # three requests of two registers each: answers that look alike
WIRES = ["serial", "rtu_over_tcp", "tcp", "tcp_without_ids"]


def a_meter(**options: Any) -> ModbusMeter:
    meter = ModbusMeter(**options)
    for address, tenths in ((0x28, 27_505), (0x42, 50_005), (0x5C, 91_002)):
        low_first = (tenths % 2**32).to_bytes(4, "big")
        meter.put(4, address, low_first[2:] + low_first[:2])
    return meter


def is_right(reading: DeviceReading) -> bool:
    return (reading.imported["import"].wh, reading.exported["export"].wh, reading.power_w) == (
        IMPORTED,
        EXPORTED,
        WATTS,
    )


def options_of(wire: str) -> dict[str, Any]:
    return {"wire": "tcp", "framing": wire} if wire == "tcp_without_ids" else {"wire": wire}


def late(seconds: float) -> Fault:
    return lambda request, answer: [(seconds, answer)]


def sometimes(seed: int, share: float, *faults: Fault) -> Fault:
    rng = random.Random(seed)

    def fault(request: bytes, answer: bytes) -> Reply:
        return rng.choice(faults)(request, answer) if rng.random() < share else [(0.0, answer)]

    return fault


@pytest.mark.parametrize("deaf", [False, True], ids=["queue", "deaf"])
@pytest.mark.parametrize("wire", WIRES)
@in_loop
async def test_repro_late_answers_never_change_places(wire: str, deaf: bool, tmp_path: Path) -> None:
    """Answers come 0.06 to 0.4 s after the request; 0.1 s is what the driver waits."""
    delays = [late(0.02 * step) for step in range(3, 21)]
    meter = a_meter(always=sometimes(7, 0.15, *delays), deaf=deaf)
    sink = RecordingSink()
    settings = {"map": MAP, "timeout_s": 0.1, "poll_s": 0.1} | options_of(wire)
    async with polling(meter, sink, tmp_path, **settings):
        await sink.until(lambda: len(sink.readings) >= 8 and sink.faults["late"] > 0, within_s=50)
    assert all(map(is_right, sink.readings))
    assert sink.faults.keys() <= {"late", "timeout", "length"}


@pytest.mark.parametrize("wire", ["serial", "rtu_over_tcp", "tcp_without_ids"])
@in_loop
async def test_repro_an_answer_that_comes_after_the_silence_is_not_taken(wire: str, tmp_path: Path) -> None:
    """The import is late by more than the driver waits in silence, and the meter hears nothing meanwhile."""
    meter = a_meter(deaf=True)
    for hundredths in range(21, 30):
        meter.faults += [None, late(hundredths / 100), None, None]
    sink = RecordingSink()
    settings = {"map": MAP, "timeout_s": 0.1, "poll_s": 0.1} | options_of(wire)
    async with polling(meter, sink, tmp_path, **settings):
        await sink.until(lambda: not meter.faults and len(sink.readings) >= 3, within_s=50)
    assert all(map(is_right, sink.readings))
    assert sink.faults["timeout"] > 0


@pytest.mark.parametrize("wire", WIRES)
@in_loop
async def test_repro_a_meter_that_is_always_one_answer_behind_gives_no_reading(
    wire: str, tmp_path: Path
) -> None:
    """Each answer waits for the next request, as behind a gateway with a queue that never empties."""
    held: list[bytes] = []

    def behind(request: bytes, answer: bytes) -> Reply:
        held.append(answer)
        return [(0.0, held[-2])] if len(held) > 1 else []

    meter = a_meter(always=behind)
    sink = RecordingSink()
    settings = {"map": MAP, "timeout_s": 0.1, "poll_s": 0.1} | options_of(wire)
    async with polling(meter, sink, tmp_path, **settings):
        await sink.until(lambda: sink.faults.total() >= 6, within_s=50)
    assert all(map(is_right, sink.readings))


@pytest.mark.parametrize("wire", ["serial", "rtu_over_tcp", "tcp_without_ids"])
@in_loop
async def test_repro_bytes_from_before_the_request_are_dropped(wire: str, tmp_path: Path) -> None:
    """The same answer once more, 0.15 s later: after the poll, and before the next one."""
    meter = a_meter(always=lambda request, answer: [(0.0, answer), (0.15, answer)])
    meter.registers = {place: word for place, word in meter.registers.items() if place[1] in (0x42, 0x43)}
    registers = tmp_path / "mine.yaml"
    registers.write_text(
        "meter: one register\n"
        "registers:\n"
        "  - {gives: import, function: 4, address: 0x42, type: i32, order: CDAB, unit: kWh, scale: 0.1}\n",
        encoding="utf-8",
    )
    sink = RecordingSink()
    settings = {"map": str(registers), "poll_s": 0.4} | options_of(wire)
    async with polling(meter, sink, tmp_path, **settings):
        await sink.until(lambda: len(sink.readings) >= 4)
    assert {each.imported["import"].wh for each in sink.readings} == {IMPORTED}
    assert sink.faults == {}


def framed(head: bytes) -> bytes:
    return head + crc(head)


NOISE: dict[str, Fault] = {
    "flipped": lambda request, answer: [(0.0, answer[:4] + bytes([answer[4] ^ 4]) + answer[5:])],
    "cut": lambda request, answer: [(0.0, answer[:-1])],
    "nothing": lambda request, answer: [],
    "babble": lambda request, answer: [(0.0, bytes(range(256)) * 2)],
    "other unit": lambda request, answer: [(0.0, framed(b"\7" + answer[1:-2]))],
    "other function": lambda request, answer: [(0.0, framed(answer[:1] + b"\3" + answer[2:-2]))],
    "glued": lambda request, answer: [(0.0, answer + answer)],
    "echo": lambda request, answer: [(0.0, request + answer)],
    "stray": lambda request, answer: [(0.0, b"\xff" + answer + b"\0")],
    "garbage first": lambda request, answer: [(0.0, b"\x01\x04\x04/!\xff" + answer)],
    "another meter first": lambda request, answer: [(0.0, framed(b"\7" + answer[1:-2]) + answer)],
    "busy": lambda request, answer: [(0.0, framed(answer[:1] + b"\x84\x06"))],
}


@pytest.mark.parametrize("wire", ["serial", "rtu_over_tcp"])
@pytest.mark.parametrize("name", NOISE)
@in_loop
async def test_noise_costs_at_most_a_poll(name: str, wire: str, tmp_path: Path) -> None:
    meter = a_meter()
    meter.faults += [None, NOISE[name], None]  # power is good, then import is not
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, wire=wire, map=MAP):
        await sink.until(lambda: len(sink.readings) >= 3)
    assert all(map(is_right, sink.readings))
    reasons = {
        "flipped": "crc",
        "cut": "timeout",
        "nothing": "timeout",
        "babble": "too_long",
        "other unit": "unit",
        "other function": "function",
        "glued": "late",
        "busy": "busy",
    }
    assert sink.faults == ({reasons[name]: 1} if name in reasons else {})


@pytest.mark.parametrize("framing", ["tcp", "tcp_without_ids"])
@in_loop
async def test_repro_bytes_that_are_no_modbus_tcp_cost_a_connection(framing: str, tmp_path: Path) -> None:
    meter = a_meter()
    meter.faults += [None, lambda request, answer: [(0.0, b"/noise/noise/noise!" + answer)]]
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, wire="tcp", map=MAP, framing=framing):
        await sink.until(lambda: len(sink.readings) >= 2)
    assert all(map(is_right, sink.readings))
    assert sink.faults == {"frame": 1}
    assert len(sink.losses) == 1
    assert "set framing=rtu" in sink.losses[0]


@in_loop
async def test_a_campaign_of_noise_gives_no_wrong_reading(tmp_path: Path) -> None:
    meter = a_meter(always=sometimes(11, 0.2, *NOISE.values(), late(0.15)))
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, map=MAP, timeout_s=0.1):
        await sink.until(lambda: len(sink.readings) >= 30, within_s=55)
    assert all(map(is_right, sink.readings))
    assert {"crc", "timeout", "too_long", "unit", "function", "late", "busy"} <= sink.faults.keys()


@in_loop
async def test_a_meter_that_refuses_long_blocks_is_read_in_pieces(tmp_path: Path) -> None:
    meter = ModbusMeter(block=2)
    meter.put(4, 0x34, bytes.fromhex("c52be800"))
    meter.put(4, 0x48, bytes.fromhex("459c4400"))
    meter.put(4, 0x4A, bytes.fromhex("460e3100"))
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, map="eastron_sdm630"):
        await sink.until(lambda: len(sink.readings) >= 2)
    reading = sink.readings[1]
    assert reading.imported["import"].wh == 5_000_500
    assert reading.exported["export"].wh == 9_100_250
    assert reading.power_w == Decimal("-2750.5")
    assert sink.faults == {}
    assert [each for each in meter.requests if each[2] > 2] == [(4, 0x34, 24)]  # asked once, then no more


@in_loop
async def test_a_meter_without_an_export_register_is_read_without(tmp_path: Path) -> None:
    meter = a_meter()
    meter.registers = {place: word for place, word in meter.registers.items() if place[1] < 0x5C}
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, map=MAP):
        await sink.until(lambda: len(sink.readings) >= 3)
    assert {each.imported["import"].wh for each in sink.readings} == {IMPORTED}
    assert all(each.exported == {} for each in sink.readings)
    assert sum(address == 0x5C for _, address, _ in meter.requests) == 1


@in_loop
async def test_a_register_that_was_refused_once_is_asked_again(tmp_path: Path) -> None:
    meter, sink = a_meter(), RecordingSink()
    export = {place: word for place, word in meter.registers.items() if place[1] >= 0x5C}
    for place in export:
        del meter.registers[place]
    async with polling(meter, sink, tmp_path, wire="tcp", map=MAP, poll_s=0.01):
        await sink.until(lambda: len(sink.readings) >= 1)
        meter.registers |= export
        await sink.until(lambda: bool(sink.readings[-1].exported))
    assert is_right(sink.readings[-1])
    assert len(sink.readings) == 100


@in_loop
async def test_the_serial_number_tells_the_meter(tmp_path: Path) -> None:
    meter = ModbusMeter()
    meter.put(3, 0x5000, (1_234_567).to_bytes(8, "big") + b"\xff" * 8)
    meter.put(3, 0x5B14, b"\0\0\0\x36")
    meter.put(3, 0x8900, (98_765).to_bytes(4, "big"))
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, map="abb_b23"):
        await sink.until(lambda: len(sink.readings) >= 2)
    assert {each.device for each in sink.readings} == {"98765"}
    assert sink.readings[0].exported == {}
    assert sum(address == 0x8900 for _, address, _ in meter.requests) == 1


@in_loop
async def test_a_reversed_meter_has_import_and_export_swapped(tmp_path: Path) -> None:
    sink = RecordingSink()
    async with polling(a_meter(), sink, tmp_path, map=MAP, reverse=True):
        await sink.until(lambda: len(sink.readings) >= 1)
    reading = sink.readings[0]
    assert (reading.imported["export"].wh, reading.exported["import"].wh) == (EXPORTED, IMPORTED)
    assert reading.power_w == -WATTS


@in_loop
async def test_another_unit_number_is_a_timeout_that_says_so(tmp_path: Path) -> None:
    details: list[str] = []

    class Listening(RecordingSink):
        def fault(self, reason: str, detail: str = "", count: int = 1) -> None:
            details.append(detail)
            super().fault(reason, detail, count)

    sink = Listening()
    meter = a_meter()
    async with polling(meter, sink, tmp_path, map=MAP, unit=7, silence_s=0.5, timeout_s=0.1) as address:
        await sink.until(lambda: len(sink.losses) >= 1)
    assert sink.readings == []
    assert sink.faults.keys() == {"timeout"}
    assert details[0].startswith(
        f"{address}, 9600 8N1: unit 7, 2 registers from 0x0028: no answer; check the unit"
    )
    assert "unit 7 has not answered for 0.5 s" in sink.losses[0]


@in_loop
async def test_another_meters_map_is_asked_about(tmp_path: Path) -> None:
    """The meter refuses all of it: it does answer, so the line stays open."""
    details: list[str] = []

    class Listening(RecordingSink):
        def fault(self, reason: str, detail: str = "", count: int = 1) -> None:
            details.append(detail)
            super().fault(reason, detail, count)

    sink = Listening()
    async with polling(a_meter(), sink, tmp_path, map="abb_b23", silence_s=0.3) as address:
        await sink.until(lambda: sink.faults["illegal_address"] >= 6)
    assert details[0] == (
        f"{address}, 19200 8E1: unit 1, 4 registers from 0x5000: the meter has no such register, or refuses "
        "a block across it; is this the right register map for this meter?"
    )
    assert (sink.losses, sink.readings) == ([], [])


@in_loop
async def test_the_line_is_opened_again_and_nothing_is_lost(tmp_path: Path) -> None:
    meter, sink = a_meter(), RecordingSink()
    with SerialPair(tmp_path / "ttyMETER") as pair:
        device = open_device(Settings(address=str(pair.path), map=MAP, poll_s=0.1, timeout_s=0.3))
        task = asyncio.ensure_future(device.run(sink))
        async with on_serial(meter, pair):
            await sink.until(lambda: len(sink.readings) >= 2)
        pair.unplug()
        await sink.until(lambda: len(sink.losses) >= 1)
        count = len(sink.readings)
        pair.plug()
        async with on_serial(meter, pair):
            await sink.until(lambda: len(sink.readings) >= count + 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert all(map(is_right, sink.readings))
    assert len(sink.names) == 2
