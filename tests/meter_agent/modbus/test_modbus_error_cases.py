"""Errors and noise as they are reported of real buses, line by line, through real transports."""

from pathlib import Path

import pytest

from gridhe.meter_agent.sources.tracker import Tracker
from gridhe_testing.device_data import device_files, needs_device_data
from gridhe_testing.modbus_meter import ModbusMeter, Reply
from gridhe_testing.modbus_polling import in_loop, lines, own_map, polling, shown
from gridhe_testing.recording_sink import RecordingSink

FILES = {str(each): each for each in device_files("modbus")}
REASONS = {
    "exception_illegal_address": "illegal_address",
    "bad_crc": "crc",
    "wrong_unit": "unit",
    "wrong_function": "function",
    "short_length": "length",
    "truncated": "timeout",
    "late_answer_of_previous_poll": "late",
    "all_ones_uint32": "no_energy",
    "float_nan": "no_energy",
    "float_inf": "no_energy",
    "torn_read_high_word_first": "late",  # two answers of a word each, for one request of both
    "word_swapped_spike": "implausible",
}
CASES = {each["case"]: each for each in lines(FILES["error_cases"])} if "error_cases" in FILES else {}


@needs_device_data
def test_every_error_case_is_read() -> None:
    others = {"exception_busy", "echo_then_answer", "leading_zero_byte", "zero_after_power_up"}
    others |= {"tcp_tid_mismatch", "tcp_gateway_always_wrong_tid"}
    assert CASES.keys() == REASONS.keys() | others


@pytest.mark.parametrize("wire", ["serial", "rtu_over_tcp"])
@pytest.mark.parametrize("case", [case for case in REASONS if case in CASES])
@in_loop
async def test_an_error_is_counted_by_its_reason_and_is_no_reading(
    case: str, wire: str, tmp_path: Path
) -> None:
    request = bytes.fromhex(CASES[case]["request"])
    received = bytes.fromhex(CASES[case]["received"])
    registers = own_map(tmp_path, request, "u32" if case.startswith("torn") else "float32")
    meter = ModbusMeter(always=lambda asked, answer: [(0.0, received)])
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, wire=wire, map=registers):
        await sink.until(lambda: sink.faults.total() >= 2)
    assert sink.faults.keys() == {REASONS[case]}
    assert sink.readings == []
    function, address, _ = meter.requests[0]
    assert (function, address) == (request[1], int.from_bytes(request[2:4], "big"))
    assert CASES[case]["verdict"] in ("error", "reject", "timeout", "no-value")


@pytest.mark.parametrize("wire", ["serial", "rtu_over_tcp"])
@pytest.mark.parametrize(
    "case", [each for each in ("echo_then_answer", "leading_zero_byte") if each in CASES]
)
@in_loop
async def test_an_echo_and_a_stray_byte_are_no_harm(case: str, wire: str, tmp_path: Path) -> None:
    received = bytes.fromhex(CASES[case]["received"])
    meter = ModbusMeter(always=lambda asked, answer: [(0.0, received)])
    sink = RecordingSink()
    registers = own_map(tmp_path, bytes.fromhex(CASES[case]["request"]))
    async with polling(meter, sink, tmp_path, wire=wire, map=registers):
        await sink.until(lambda: len(sink.readings) >= 2)
    assert {shown(each)["import_wh"] for each in sink.readings} == {1_234_500}
    assert sink.faults == {}


@needs_device_data
@in_loop
async def test_a_busy_meter_is_asked_again(tmp_path: Path) -> None:
    request = bytes.fromhex(CASES["exception_busy"]["request"])
    received = bytes.fromhex(CASES["exception_busy"]["received"])
    meter = ModbusMeter()
    meter.put(4, 0x48, bytes.fromhex("449a5000"))
    meter.faults += [lambda asked, answer: [(0.0, received)]] * 2
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, map=own_map(tmp_path, request), poll_s=60):
        await sink.until(lambda: len(sink.readings) >= 1)
    assert shown(sink.readings[0])["import_wh"] == 1_234_500
    assert sink.faults == {"busy": 2}


@needs_device_data
@in_loop
async def test_a_zero_after_power_up_is_the_trackers_to_judge(tmp_path: Path) -> None:
    request = bytes.fromhex(CASES["zero_after_power_up"]["request"])
    received = bytes.fromhex(CASES["zero_after_power_up"]["received"])
    meter = ModbusMeter()
    meter.put(4, 0x48, bytes.fromhex("449a5000"))
    meter.faults += [None, lambda asked, answer: [(0.0, received)]]
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, map=own_map(tmp_path, request)):
        await sink.until(lambda: len(sink.readings) >= 3)
    assert [shown(each)["import_wh"] for each in sink.readings[:3]] == [1_234_500, 0, 1_234_500]
    tracker = Tracker(largest_w=100_000)
    taken = [tracker.take(reading, 10.0 * number) for number, reading in enumerate(sink.readings[:3])]
    assert [each and each.values["imported"] for each in taken] == [1_234_500, None, 1_234_500]
    assert tracker.counts == {"dip": 1}


@needs_device_data
@in_loop
async def test_a_late_answer_of_an_earlier_transaction_is_dropped(tmp_path: Path) -> None:
    case = CASES["tcp_tid_mismatch"]
    request, received = bytes.fromhex(case["request"]), bytes.fromhex(case["received"])
    late, own = received[:11], received[11:]

    def as_recorded(asked: bytes, answer: bytes) -> Reply:
        transaction = int.from_bytes(asked[:2], "big")
        return [
            (0.0, ((transaction - 1) % 65_536).to_bytes(2, "big") + late[2:]),
            (0.02, asked[:2] + own[2:]),
        ]

    meter = ModbusMeter(unit=request[6])
    meter.faults += [None]  # so that there is an earlier transaction
    meter.always = as_recorded
    meter.put(4, 1, b"\0\7")
    sink = RecordingSink()
    registers = own_map(tmp_path, request[6:], "u16")
    async with polling(meter, sink, tmp_path, wire="tcp", map=registers):
        await sink.until(lambda: len(sink.readings) >= 4)
    assert [shown(each)["import_wh"] for each in sink.readings[:4]] == [7_000, 2_000, 2_000, 2_000]
    assert sink.faults.keys() == {"late"}


@needs_device_data
@pytest.mark.parametrize("framing", ["tcp", "tcp_without_ids"])
@in_loop
async def test_a_gateway_with_ids_of_its_own_is_refused_unless_that_is_set(
    framing: str, tmp_path: Path
) -> None:
    case = CASES["tcp_gateway_always_wrong_tid"]
    received = bytes.fromhex(case["received"])
    registers = tmp_path / "mine.yaml"
    registers.write_text(
        "meter: five registers from 3\n"
        "registers:\n"
        "  - {gives: import, function: 3, address: 3, type: u16, unit: kWh}\n"
        "  - {gives: export, function: 3, address: 4, type: u64, unit: kWh}\n",
        encoding="utf-8",
    )
    meter = ModbusMeter(always=lambda asked, answer: [(0.0, received)])
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, wire="tcp", map=str(registers), framing=framing):
        await sink.until(lambda: bool(sink.losses) or len(sink.readings) >= 2)
    if framing == "tcp":
        assert sink.faults == {"transaction": 1}
        assert "set framing=tcp_without_ids" in sink.losses[0]
        assert sink.readings == []
    else:
        assert sink.faults == {}
        assert shown(sink.readings[0])["import_wh"] == shown(sink.readings[0])["export_wh"] == 0
    assert meter.requests[0] == (3, 3, 5)
