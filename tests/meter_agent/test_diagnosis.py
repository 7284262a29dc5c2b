"""What an installer is told: each cause by its own words, and nothing while all is well."""

from decimal import Decimal

import pytest

from gridhe.meter_agent.diagnosis import Diagnosis
from gridhe.meter_agent.sources.reading import DeviceReading, Register

WALL_S = 1_700_000_000.0
GOOD = DeviceReading(imported={"1.8.0": Register(wh=Decimal(1000))}, at_s=WALL_S, device="m")


def opened(source: str = "p1") -> Diagnosis:
    diagnosis = Diagnosis(source)
    diagnosis.opened(100.0)
    return diagnosis


def codes(diagnosis: Diagnosis, now_s: float) -> list[str]:
    return [finding.code for finding in diagnosis.findings(now_s)]


def test_nothing_is_wrong_while_readings_come() -> None:
    diagnosis = opened()
    for second in range(100, 160):
        diagnosis.bytes_seen(None, float(second))
        diagnosis.reading(GOOD, float(second), WALL_S)
    assert codes(diagnosis, 160.0) == []


def test_nothing_is_wrong_before_a_slow_meter_had_its_time() -> None:
    assert codes(opened(), 110.0) == []
    assert codes(opened("d0"), 185.0) == []
    assert codes(opened("mqtt"), 215.0) == []


@pytest.mark.parametrize(
    ("source", "word"), [("p1", "5 V"), ("sml", "optical head"), ("modbus", "unit number")]
)
def test_a_silent_port_is_told_with_what_to_check_at_this_kind_of_meter(source: str, word: str) -> None:
    (finding,) = opened(source).findings(140.0)
    assert finding.code == "silent"
    assert word in finding.text


def test_noise_without_a_header_is_a_wrong_baud_rate_or_an_inverted_signal() -> None:
    diagnosis = opened()
    diagnosis.bytes_seen("a telegram's start", 115.0)
    assert codes(diagnosis, 110.0) == []
    (finding,) = diagnosis.findings(116.0)
    assert finding.code == "noise"
    assert "inverted" in finding.text
    assert "no telegram's start" in finding.text


def test_headers_without_an_end_are_a_port_that_lacks_its_5_volts() -> None:
    diagnosis = opened()
    diagnosis.bytes_seen("a telegram's end", 115.0)
    (finding,) = diagnosis.findings(116.0)
    assert finding.code == "no_tail"
    assert "Kamstrup" in finding.text


def test_damaged_telegrams_are_told_as_a_ratio() -> None:
    diagnosis = opened()
    for _ in range(28):
        diagnosis.reading(GOOD, 110.0, WALL_S)
    diagnosis.fault("crc", 4)
    (finding,) = diagnosis.findings(111.0)
    assert finding.code == "damaged"
    assert "4 of 32 telegrams are damaged (12 %)" in finding.text


def test_one_damaged_telegram_in_many_is_normal() -> None:
    diagnosis = opened()
    for _ in range(100):
        diagnosis.reading(GOOD, 110.0, WALL_S)
    diagnosis.fault("crc", 1)
    assert codes(diagnosis, 111.0) == []


def test_a_locked_meter_a_wrong_clock_and_a_missing_register_are_told() -> None:
    diagnosis = opened("sml")
    diagnosis.reading(DeviceReading(locked=True, at_s=WALL_S - 3_600), 110.0, WALL_S)
    assert codes(diagnosis, 111.0) == ["locked", "no_energy", "clock"]
    assert "3600 s behind" in diagnosis.findings(111.0)[2].text


def test_a_wrong_key_is_told_alone() -> None:
    diagnosis = opened("han")
    diagnosis.bytes_seen(None, 129.0)
    diagnosis.fault("key", 12)
    assert codes(diagnosis, 130.0) == ["key"]


def test_a_lost_port_is_told_and_forgotten_when_it_is_back() -> None:
    diagnosis = opened()
    diagnosis.reading(GOOD, 110.0, WALL_S)
    diagnosis.lost("/dev/ttyUSB0: the port has gone")
    assert codes(diagnosis, 130.0) == ["lost"]
    diagnosis.opened(140.0)
    assert codes(diagnosis, 141.0) == []


def test_a_port_that_falls_silent_after_readings_is_told_after_a_minute() -> None:
    diagnosis = opened()
    diagnosis.bytes_seen(None, 110.0)
    diagnosis.reading(GOOD, 110.0, WALL_S)
    assert codes(diagnosis, 165.0) == []
    assert codes(diagnosis, 175.0) == ["silent"]
    diagnosis.bytes_seen("a telegram's start", 176.0)
    assert codes(diagnosis, 177.0) == ["noise"]


@pytest.mark.parametrize(
    ("source", "reason", "hint"),
    [
        ("sml", "incomplete", "a complete SML frame with right checksums"),
        ("sml", "frame_crc", "a complete SML frame with right checksums"),
        ("d0", "no_block", "a complete readout with energy registers"),
        ("tic", "too_long", "a complete TIC frame with right checksums"),
    ],
)
def test_damaged_telegrams_alone_are_noise_at_an_optical_port_or_tic(
    source: str, reason: str, hint: str
) -> None:
    diagnosis = opened(source)
    diagnosis.bytes_seen(hint, 119.0)
    diagnosis.fault(reason, 2)
    (finding,) = diagnosis.findings(120.0)
    assert finding.code == "noise"
    assert f"no {hint.removeprefix('a ')}" in finding.text
