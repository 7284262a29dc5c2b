"""Recorded and format-faithful answers of real meters, through a pseudo-terminal or a TCP socket."""

import csv
import io
from decimal import Decimal
from pathlib import Path

import pytest

from gridhe.meter_agent.sources.modbus.register_map import load_map
from gridhe.meter_agent.sources.reading import total_wh
from gridhe_testing.device_data import device_files, needs_device_data
from gridhe_testing.modbus_meter import ModbusMeter, Reply, learn
from gridhe_testing.modbus_polling import in_loop, lines, own_map, polling, shown
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


@needs_device_data
@in_loop
async def test_a_float_steps_by_its_own_resolution(tmp_path: Path) -> None:
    file = FILES["sdm630_float_resolution"]
    power, *imports, export = lines(file)
    meter = ModbusMeter()
    learn(meter, [power, export])
    sink = RecordingSink()
    for each in imports:
        learn(meter, [each])
        async with polling(meter, sink, tmp_path, map="eastron_sdm630"):
            count = len(sink.readings)
            await sink.until(lambda count=count: len(sink.readings) > count)  # type: ignore[misc]
        del sink.readings[count + 1 :]
    found = [shown(each) for each in sink.readings]
    assert [each["import_wh"] for each in found] == [each["import_wh"] for each in file.readings]
    assert {each["export_wh"] for each in found} == {0}
    assert found[0]["power_w"] == file.readings[0]["power_w"]
    assert {str(each.imported["import"].step_wh) for each in sink.readings} == {"7.8125000"}


@needs_device_data
@in_loop
async def test_an_address_that_is_off_by_one_is_implausible(tmp_path: Path) -> None:
    file = FILES["schneider_iem3155_off_by_one"]
    exchange = lines(file)[0]
    meter = ModbusMeter()
    learn(meter, [exchange])
    registers = own_map(tmp_path, bytes.fromhex(exchange["request"]), "i64", "Wh")
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, map=registers):
        await sink.until(lambda: sink.faults.total() >= 1)
    assert sink.faults.keys() == {"implausible"}
    assert sink.readings == []


@needs_device_data
@in_loop
async def test_recorded_answers_of_an_abb_meter(tmp_path: Path) -> None:
    """Power as recorded; a power factor of 0x7fff, read as if it were energy, is not available."""
    total, first_phase, power = lines(FILES["abb_b_series_real"])
    meter = ModbusMeter()
    learn(meter, [total, first_phase, power])
    registers = tmp_path / "mine.yaml"
    registers.write_text(
        "meter: an ABB meter's recorded registers\n"
        "registers:\n"
        "  - {gives: power, function: 3, address: 0x5b14, type: i32, unit: W, scale: 0.01}\n"
        "  - {gives: import, function: 3, address: 0x5b3a, type: i16, unit: Wh, missing: [largest]}\n"
        "  - {gives: export, function: 3, address: 0x5b3b, type: i16, unit: Wh, missing: [largest]}\n",
        encoding="utf-8",
    )
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, map=str(registers)):
        await sink.until(lambda: len(sink.readings) >= 1)
    reading = sink.readings[0]
    assert reading.power_w == Decimal("0.54") == Decimal(str(power["value"]))
    assert total_wh(reading.imported) == Decimal("435") == 1000 * Decimal(str(total["value"]))
    assert reading.exported == {}
    assert first_phase["value"] is None


@needs_device_data
@in_loop
async def test_recorded_answers_of_an_eastron_meter(tmp_path: Path) -> None:
    """Voltages and currents: their frames pass, each as the answer to a request for two registers."""
    registers = own_map(tmp_path, bytes.fromhex("010400480002"))
    for each in lines(FILES["sdm_real_responses"]):
        received = bytes.fromhex(each["response"])
        meter = ModbusMeter(always=lambda asked, answer, received=received: [(0.0, received)])  # type: ignore[misc]
        sink = RecordingSink()
        async with polling(meter, sink, tmp_path, map=registers):
            await sink.until(lambda sink=sink: len(sink.readings) >= 1)  # type: ignore[misc]
        exact = 1000 * Decimal(str(each["value"]))
        assert abs((total_wh(sink.readings[0].imported) or 0) - exact) <= 1
        assert sink.faults == {}


FAMILIES = {
    "Eastron SDM120": ["eastron_sdm120", "eastron_sdm230"],
    "Eastron SDM630": ["eastron_sdm630"],
    "Eastron SDM72": ["eastron_sdm72"],
    "Carlo Gavazzi EM24 RS485": ["carlo_gavazzi_em24"],
    "Carlo Gavazzi EM24_E1 / EM330 / EM340 / ET340": ["carlo_gavazzi_em24_e1", "carlo_gavazzi_em340"],
    "ABB B21/B23/B24": ["abb_b23"],
    "Schneider iEM3000 series": ["schneider_iem3000"],
    "Chint DTSU666": ["chint_dtsu666"],
    "inepro PRO380": ["inepro_pro380"],
    "DDS238-2 ZN/S": ["dds238"],
}
MISSING = {
    "0x7fffffff": {"largest"},
    "0x8000000000000000": {"smallest"},
    "all ff": {"all_ones"},
    "NaN": set(),
    "ffc00000": set(),  # a NaN
    "": set(),
}


@needs_device_data
def test_the_packaged_maps_are_those_of_the_register_tables() -> None:
    rows = list(csv.DictReader(io.StringIO(FILES["register_tables"].data.decode())))
    assert {row["device"] for row in rows} == FAMILIES.keys()
    for device, names in FAMILIES.items():
        expected = {
            row["quantity"].removeprefix("active_"): (
                int(row["fc"]),
                int(row["address_hex"], 16),
                row["type"].replace("uint", "u").replace("int", "i"),
                row["word_order"][:4] if len(row["word_order"]) > 2 else "ABCD",
                row["unit"],
                Decimal(row["scale"]),
                int(row["count"]),
            )
            for row in rows
            if row["device"] == device and row["quantity"] in ("import", "export", "active_power")
        }
        missing = {
            row["quantity"].removeprefix("active_"): MISSING[row["not_available"]]
            for row in rows
            if row["device"] == device
        }
        for name in names:
            registers = load_map(name).registers
            found = {
                each.gives: (
                    each.function,
                    each.address,
                    each.type,
                    each.order,
                    each.unit,
                    each.scale,
                    each.encoding.count,
                )
                for each in registers
            }
            assert found == expected, name
            assert all(set(each.missing) >= missing[each.gives] for each in registers), name
