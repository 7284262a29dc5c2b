"""Register maps: those of the package, and a user's own with typos."""

from decimal import Decimal
from pathlib import Path

import pytest

from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.sources.modbus import Settings, map_names, open_device
from gridhe.meter_agent.sources.modbus.blocks import plan_blocks, read_registers, read_serial
from gridhe.meter_agent.sources.modbus.register_map import RegisterMap, Serial, load_map


def test_every_packaged_map_is_valid_and_listed() -> None:
    assert len(map_names()) == 16
    for name in map_names():
        open_device(Settings(address="/dev/null", map=name))
    assert {"abb_b23", "eastron_sdm72", "pzem_004t", "sunspec"} <= set(map_names())


@pytest.mark.parametrize("name", [name for name in map_names() if name != "sunspec"])
def test_a_value_is_read_in_one_request(name: str) -> None:
    registers = load_map(name)
    blocks = plan_blocks(registers)
    assert sum(len(block.registers) for block in blocks) == len(registers.registers)
    for block in blocks:
        assert block.count <= registers.block
        for _, each in block.registers:
            assert block.address <= each.address
            assert each.address + each.encoding.count <= block.address + block.count


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


LINE = "  - {gives: import, function: 4, address: 0x48, type: float32, unit: kWh}\n"
GOOD = f"meter: mine\nregisters:\n{LINE}"


TYPOS = {
    GOOD.replace("address", "adress"): ":3: unknown key registers.0.adress; did you mean address?",
    GOOD.replace("meter", "metre"): ":1: unknown key metre; did you mean meter?",
    GOOD + "lines: 9600 8N1\n": ":4: unknown key lines; did you mean line?",
    GOOD.replace(
        "float32", "float"
    ): ":3: registers.0.type: expected 'u16', 'i16', 'u32', 'i32', 'u64', 'i64', "
    "'float32' or 'float64', came \"float\"",
    GOOD.replace(
        "0x48", "70000"
    ): ":3: registers.0.address: expected less than or equal to 65535, came 70000",
    GOOD.replace("0x48", "65535"): ":3: registers.0: a float32 at 65535 ends behind the last register, 65535",
    GOOD.replace("kWh", "W"): ":3: registers.0: import cannot have the unit W",
    GOOD.replace("4,", "5,"): ":3: registers.0.function: expected 3 or 4, came 5",
    GOOD.replace("address: 0x48, ", ""): ":3: registers.0.address is missing",
    "meter: x\nregisters: []\n": ":2: registers: a list should have at least 1 item after validation, not 0",
    GOOD.replace("import", "power").replace(
        "kWh", "W"
    ): ":1: no register gives import or export: power alone is no energy",
    GOOD
    + LINE.replace("unit", "name: import, unit"): ":1: two registers that give import have the same name",
    GOOD + "line: 9600 8X1\n": ":1: line: '9600 8X1' is no serial line: write baud rate and format, such as "
    "115200 8N1 or 9600 7E1",
    GOOD + "block: 126\n": ":4: block: expected less than or equal to 125, came 126",
    GOOD.replace(
        "kWh}", "kWh, missing: [ones]}"
    ): ":3: registers.0.missing.0: expected 'all_ones', 'largest', 'smallest' or 'zero', came \"ones\"",
}


@pytest.mark.parametrize("text", TYPOS, ids=[str(number) for number in range(len(TYPOS))])
def test_a_map_with_a_typo_is_one_line_with_file_line_and_key(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        open_device(Settings(address="/dev/null", map=path))
    assert str(refused.value) == path + TYPOS[text]


def test_an_unknown_map_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as refused:
        open_device(Settings(address="/dev/null", map="eastron_sdm63"))
    assert "did you mean eastron_sdm630? There are abb_b23, carlo" in str(refused.value)
    with pytest.raises(SourceError) as refused:
        open_device(Settings(address="/dev/null", map=str(tmp_path / "none.yaml")))
    assert "there is no register map" in str(refused.value)


def test_tariffs_add_up_and_a_missing_one_is_no_sum() -> None:
    tariff = {"gives": "import", "function": 3, "type": "u32", "unit": "Wh", "missing": ["all_ones"]}
    registers = RegisterMap.model_validate(
        {
            "meter": "two tariffs",
            "registers": [tariff | {"address": 0, "name": "day"}, tariff | {"address": 2, "name": "night"}],
        }
    )
    (block,) = plan_blocks(registers)
    reading = read_registers(registers, block.cut(bytes.fromhex("0000000700000005")))
    assert {name: each.wh for name, each in reading.imported.items()} == {"day": 7, "night": 5}
    assert read_registers(registers, block.cut(bytes.fromhex("00000007ffffffff"))).imported == {}


def test_a_scale_is_exactly_as_written(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("float32", "u32").replace("kWh}", "kWh, scale: 0.1}"))
    registers = load_map(path)
    assert registers.registers[0].scale_base == Decimal(100)
    assert str(registers.registers[0].scale) == "0.1"


def test_serial_numbers() -> None:
    number = Serial(function=3, address=0, count=2, type="number")
    assert read_serial(number, (98_765).to_bytes(4, "big")) == "98765"
    assert read_serial(number, b"\0" * 4) is None
    assert read_serial(number, b"\xff" * 4) is None
    text = Serial(function=3, address=0, count=4, type="text")
    assert read_serial(text, b"BK12345\0") == "BK12345"
    assert read_serial(text, b"\0" * 8) is None


def test_the_example_of_the_docs_is_a_map(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "meters.md").read_text(encoding="utf-8")
    example = text.split("## Your own register map")[1].split("```yaml\n")[1].split("```")[0]
    registers = load_map(write(tmp_path, example))
    assert [each.gives for each in registers.registers] == ["power", "import", "export"]
    assert registers.registers[1].scale_base == 100
