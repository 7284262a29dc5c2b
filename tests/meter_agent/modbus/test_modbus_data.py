"""Recorded and format-faithful answers of real meters, through a pseudo-terminal or a TCP socket."""

import json
from pathlib import Path
from typing import Any

import pytest

from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe_testing.device_data import DeviceFile, device_files, needs_device_data
from gridhe_testing.modbus_meter import ModbusMeter, Reply, learn
from gridhe_testing.modbus_polling import in_loop, polling
from gridhe_testing.recording_sink import RecordingSink

FILES = {str(each): each for each in device_files("modbus")}
MAPS = {
    "abb_b23": "abb_b23",
    "cg_em24_e1_ethernet": "carlo_gavazzi_em24_e1",
    "cg_em24_rs485": "carlo_gavazzi_em24",
    "cg_em340": "carlo_gavazzi_em340",
    "chint_dtsu666": "chint_dtsu666",
    "pzem004t": "pzem_004t",
    "schneider_iem3155": "schneider_iem3000",
    "sdm120": "eastron_sdm120",
    "sdm630_block_read": "eastron_sdm630",
    "sunspec_203_fronius": "sunspec",
    "sunspec_203_scale_factors": "sunspec",
    "sunspec_203_scale_not_implemented": "sunspec",
    "sunspec_203_zero_after_update": "sunspec",
    "sunspec_213_float": "sunspec",
}


def lines(file: DeviceFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.data.decode().splitlines()]


def shown(reading: DeviceReading) -> dict[str, Any]:
    """A reading in the form of expected.json."""
    imported, exported = total_wh(reading.imported), total_wh(reading.exported)
    return {
        "import_wh": None if imported is None else int(imported),
        "export_wh": None if exported is None else int(exported),
        "power_w": None if reading.power_w is None else float(reading.power_w),
        "ts_utc": reading.at_s,
    }


def around_sunspec(meter: ModbusMeter, first_model: int) -> None:
    """The marker, a common model up to the recorded one, and the chain's end, where they are not recorded."""
    meter.put(3, 40_000, b"SunS")
    common = bytearray(2 * (first_model - 40_002))
    common[:4] = (1).to_bytes(2, "big") + (first_model - 40_004).to_bytes(2, "big")
    meter.put(3, 40_002, bytes(common))
    length = meter.registers[3, first_model + 1]
    meter.put(3, first_model + 2 + length, b"\xff\xff\0\0")


def in_pieces(request: bytes, answer: bytes) -> Reply:
    return [(0.002 * at, answer[at : at + 1]) for at in range(len(answer))]


@needs_device_data
def test_every_file_is_read() -> None:
    others = {"error_cases", "register_tables", "abb_b_series_real", "sdm_real_responses"}
    others |= {"schneider_iem3155_off_by_one", "sdm630_float_resolution"}
    assert FILES.keys() <= MAPS.keys() | others, "a file that no test reads"


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("name", [name for name in MAPS if name in FILES])
@in_loop
async def test_a_meter_reads_as_expected(name: str, pieces: bool, tmp_path: Path) -> None:
    file = FILES[name]
    exchanges = lines(file)
    meter = ModbusMeter(always=in_pieces if pieces else None)
    learn(meter, exchanges)
    options = {"map": MAPS[name], "wire": {"rtu": "serial"}.get(exchanges[0]["transport"], "tcp")}
    if MAPS[name] == "sunspec":
        around_sunspec(meter, 0x9C85)
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, timeout_s=2.0, **options):
        await sink.until(lambda: len(sink.readings) >= 2)
    first, second = sink.readings[:2]
    assert first == second
    assert [shown(first)] == [
        {name: each[name] for name in ("import_wh", "export_wh", "power_w", "ts_utc")}
        for each in file.readings
    ]
    assert sink.faults.keys() <= ({"no_energy"} if file.verdict == "no-energy" else set())
