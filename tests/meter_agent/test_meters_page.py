"""docs/meters.md: what it shows is accepted, and what there is stands in it."""

import re
from pathlib import Path

import pytest
import yaml

from gridhe.config import load_settings
from gridhe.meter_agent.sources.files.known import FORMATS
from gridhe.meter_agent.sources.options import parse_options, source_settings
from gridhe.meter_agent.sources.registry import DRIVERS, Driver

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "meters.md").read_text(encoding="utf-8")
EXAMPLES = [
    block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if block.startswith("source:")
]


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: yaml.safe_load(text)["source"]["driver"])
def test_each_example_is_a_settings_file_that_loads(text: str, tmp_path: Path) -> None:
    (tmp_path / "gridhe.yaml").write_text(text, encoding="utf-8")
    loaded = load_settings(tmp_path / "gridhe.yaml", environ={})
    section = yaml.safe_load(text)["source"]
    name = section.pop("driver")
    assert loaded.source.driver == name
    settings = source_settings(name, section)
    assert settings.model_dump(mode="json", include=set(section)) | {"register_wh": 0} == section | {
        "register_wh": 0
    }


def test_every_source_has_an_example_and_a_row() -> None:
    shown = {yaml.safe_load(text)["source"]["driver"] for text in EXAMPLES}
    assert shown == {each.name for each in DRIVERS}
    for name in shown:
        assert re.search(rf"^\|.*`{name}`.*\|$", PAGE, re.MULTILINE), name


def test_every_named_format_of_files_stands_there() -> None:
    assert [each.name for each in FORMATS if f"`{each.name}`" not in PAGE] == []


@pytest.mark.parametrize("each", DRIVERS, ids=lambda each: each.name)
def test_every_setting_of_every_source_is_described(each: Driver) -> None:
    described = {key: field.description for key, field in each.settings().model_fields.items()}
    assert [key for key, text in described.items() if not text] == []


@pytest.mark.parametrize("each", DRIVERS, ids=lambda each: each.name)
def test_the_example_of_every_source_is_accepted(each: Driver) -> None:
    source_settings(each.name, parse_options(each.example.split()))
