"""The source of `gridhe-meter run`: from flags, the environment and the settings file; what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gridhe.config.load import load_section
from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.sources.options import open_source
from gridhe.meter_agent.sources.registry import DRIVERS

FILE = """
source:
  driver: mqtt
  address: mqtt://127.0.0.1:1883
  format: tasmota
  topic: tele/plug/SENSOR
"""


@pytest.fixture
def run(tmp_path: Path) -> "Run":
    (tmp_path / "gridhe.yaml").write_text(FILE, encoding="utf-8")
    return Run(tmp_path)


_FIXED = ["--credential", "none", "--state-dir", "state"]


class Run:
    """`gridhe-meter run` in a folder with settings; it ends before it needs a credential."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *args: str, **environ: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            [sys.executable, "-m", "gridhe.meter_agent.cli", "run", *_FIXED, *args],
            cwd=self.folder,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr.splitlines()


def test_a_source_is_opened_from_the_file_with_flags_over_it(tmp_path: Path) -> None:
    file = tmp_path / "gridhe.yaml"
    file.write_text(FILE, encoding="utf-8")
    section = load_section("source", file, environ={"GRIDHE_SOURCE__LARGEST_W": "3680"})
    opened = open_source("mqtt", ["topic=tele/other/SENSOR", "device_id=0123"], section)
    assert opened.settings.model_dump(include={"topic", "device_id", "largest_w"}) == {
        "topic": "tele/other/SENSOR",
        "device_id": "0123",
        "largest_w": 3680,
    }


def test_a_section_of_another_driver_is_not_mixed_with_the_chosen_one(tmp_path: Path) -> None:
    file = tmp_path / "gridhe.yaml"
    file.write_text(FILE, encoding="utf-8")
    opened = open_source("homewizard", ["address=http://127.0.0.1"], load_section("source", file, environ={}))
    assert opened.name == "homewizard"
    assert not hasattr(opened.settings, "topic")


@pytest.mark.parametrize(
    ("line", "variable", "word", "expected"),
    [
        ("topci: x", {}, "", "source mqtt: unknown setting topci; did you mean topic? ({file}:7)"),
        (
            "",
            {"GRIDHE_SOURCE__LARGEST_W": "lots"},
            "",
            (
                "source mqtt: largest_w: expected a valid integer, unable to parse string as an integer, "
                'came "lots" (GRIDHE_SOURCE__LARGEST_W)'
            ),
        ),
        (
            "",
            {},
            "clock=sun",
            "source mqtt: clock: expected 'auto', 'device' or 'host', came \"sun\" (--with clock)",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_origin(
    tmp_path: Path, line: str, variable: dict[str, str], word: str, expected: str
) -> None:
    file = tmp_path / "gridhe.yaml"
    file.write_text(f"{FILE}  {line}\n", encoding="utf-8")
    section = load_section("source", file, environ=variable)
    with pytest.raises(ConfigError) as caught:
        open_source("mqtt", [word] if word else [], section)
    assert str(caught.value) == expected.replace("{file}", str(file))


def test_an_unknown_driver_in_the_file_is_told_with_the_drivers_that_there_are() -> None:
    with pytest.raises(SourceError, match="there is no source 'p2'; there are synthetic, replay, p1, "):
        open_source("p2", [])


def test_settings_of_a_device_without_its_driver_do_not_start_a_synthetic_household(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "gridhe.yaml").write_text("source:\n  adress: /dev/ttyUSB0\n", encoding="utf-8")
    code, lines = run()
    assert (code, lines) == (
        ConfigError.exit_code,
        [
            (
                "error: source.adress is set and source.driver is not: give driver, a name from "
                "gridhe-meter sources (gridhe.yaml:2)"
            )
        ],
    )
    (tmp_path / "gridhe.yaml").write_text("source:\n  driver: null\n", encoding="utf-8")
    code, lines = run()
    assert lines == ["error: cannot read none: No such file or directory"]
    code, lines = run(GRIDHE_SOURCE__ADDRESS="/dev/ttyUSB0")
    assert code == ConfigError.exit_code
    assert lines[-1].startswith("error: source.address is set and source.driver is not")


def test_the_flag_lists_every_source(run: Run) -> None:
    code, (*_, line) = run("--source", "p2")
    assert code == 2
    assert all(f"'{name}'" in line for name in ["synthetic", "replay", *(each.name for each in DRIVERS)])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ["--with", "topci=x"],
            "error: source mqtt: unknown setting topci; did you mean topic? (--with topci)",
        ),
        (
            ["--with", "topic"],
            "error: 'topic' is no setting: expected key=value, such as topic=VALUE",
        ),
        (
            ["--source", "synthetic", "--with", "topic=x"],
            "error: --with topic=x is a device's setting, and --source synthetic has no device",
        ),
        (["--loop"], "error: --csv and --loop go with --source replay"),
        (
            ["--speed", "2"],
            (
                "error: --source mqtt is a device, read as time passes: --speed, --start and --partial go "
                "with synthetic and replay"
            ),
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(run: Run, args: list[str], expected: str) -> None:
    code, lines = run(*args)
    assert lines == [expected]
    assert code == 2


def test_a_variable_chooses_the_source(run: Run) -> None:
    code, lines = run("--with", "topic=x", GRIDHE_SOURCE__DRIVER="synthetic")
    assert code == 2
    assert lines == ["error: --with topic=x is a device's setting, and --source synthetic has no device"]
