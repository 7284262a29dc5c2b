"""`gridhe-meter sources` and the settings of sources, from outside."""

import re
import subprocess
import sys

import pytest

from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.sources.options import parse_options, source_settings
from gridhe.meter_agent.sources.registry import DRIVERS, driver

MAIN = "import sys; {before}; from gridhe.meter_agent.cli import main; sys.argv[0] = 'gridhe-meter'; main()"


def run(*arguments: str, without: str = "") -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own, in which the package `without` is not installed."""
    before = f"sys.modules[{without!r}] = None" if without else "pass"
    return subprocess.run(
        [sys.executable, "-P", "-c", MAIN.format(before=before), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def test_every_source_is_listed_with_what_it_needs() -> None:
    done = run("sources")
    assert done.returncode == 0, done.stderr
    for name in ("synthetic", "replay", *(each.name for each in DRIVERS)):
        assert f"\n{name} " in f"\n{done.stdout}"
    assert "not installed" not in done.stdout


def test_a_source_without_its_packages_is_listed_with_the_command_that_installs_them() -> None:
    done = run("sources", without="serial")
    assert done.returncode == 0, done.stderr
    assert "not installed: pip install 'gridhe[serial]'" in done.stdout
    assert "not installed: pip install 'gridhe[modbus]'" in done.stdout


def test_a_source_shows_its_settings_with_default_values_and_meaning() -> None:
    done = run("sources", "sml")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^address +required  \(text\)$", done.stdout, re.MULTILINE)
    assert re.search(r"^largest_w +100000  \(whole number, 100 to 1000000000\)$", done.stdout, re.MULTILINE)
    assert re.search(r"^clock +auto  \(auto \| device \| host\)$", done.stdout, re.MULTILINE)
    assert "gridhe-meter probe sml address=/dev/" in done.stdout


def test_an_unknown_source_is_told_with_those_that_there_are() -> None:
    done = run("sources", "zigbee")
    assert (done.returncode, done.stdout) == (SourceError.exit_code, "")
    assert done.stderr.startswith("error: there is no source 'zigbee'; there are synthetic, replay, p1, sml")


@pytest.mark.parametrize(
    ("source", "rest"), [("synthetic", ""), ("replay", "; gridhe-meter check FILE shows")]
)
def test_a_source_without_device_cannot_be_probed(source: str, rest: str) -> None:
    done = run("probe", source, "--for", "1")
    assert (done.returncode, done.stdout) == (ConfigError.exit_code, "")
    assert done.stderr.startswith(f"error: source {source} has no device to probe{rest}")


def test_a_decimal_setting_is_a_number() -> None:
    done = run("sources", "han")
    assert re.search(r"^register_wh +-  \(number, above 0, up to 1000000\)$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("words", [["address"], ["=/dev/ttyUSB0"], ["a=1", "a=2"]])
def test_a_setting_that_is_none_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse_options(words)


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse_options(["address=/dev/serial/by-path/a=b"]) == {"address": "/dev/serial/by-path/a=b"}


def test_settings_are_read_as_text_first_and_as_yaml_where_text_does_not_fit() -> None:
    settings = source_settings("sml", {"address": "/dev/1", "device_id": "007", "baud": "19200"})
    assert settings.model_dump(include={"address", "device_id", "baud"}) == {
        "address": "/dev/1",
        "device_id": "007",
        "baud": 19_200,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "source sml: address is missing: give address=..."),
        ({"address": "/dev/1", "bauds": "9600"}, "source sml: unknown setting bauds; did you mean baud?"),
        (
            {"address": "/dev/1", "silence_s": "long"},
            "source sml: silence_s: expected a valid number, .*'?long",
        ),
        (
            {"address": "/dev/1", "clock": "mine"},
            "source sml: clock: expected 'auto', 'device' or 'host', came",
        ),
    ],
)
def test_a_wrong_setting_is_one_clear_line(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        source_settings("sml", given)
    assert "\n" not in str(raised.value)


def test_a_source_whose_package_is_missing_names_the_command_that_installs_it() -> None:
    done = run("probe", "p1", "address=/dev/none", "--for", "1", without="serial")
    assert done.returncode == SourceError.exit_code
    assert done.stderr == "error: source p1 needs serial: pip install 'gridhe[serial]'\n"


def test_the_example_of_every_source_is_made_of_settings() -> None:
    for each in DRIVERS:
        assert parse_options(each.example.split())
        assert driver(each.name) is each
