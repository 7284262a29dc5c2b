"""Simulated meters with P1 ports: their telegrams are read right, and a whole grid of them is exact."""

import time
from decimal import Decimal
from pathlib import Path

import pytest

from gridhe.demo.devices import SimulatedMeters
from gridhe.demo.telegrams import LAYOUTS, Layout, MeterState, crc16_arc
from gridhe.demo.workload import live
from gridhe.meter_agent.sources.p1.decoder import P1Decoder
from gridhe.meter_agent.sources.reading import total_wh

SUMMER_S, WINTER_S = 1_784_282_410, 1_768_471_210


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("at_s", [SUMMER_S, WINTER_S])
def test_the_p1_driver_reads_what_the_demo_writes(layout: Layout, at_s: int) -> None:
    state = MeterState(at_s=at_s, serial=7, import_wh=12_345_679, export_wh=9_012, power_w=-345)
    (reading,) = P1Decoder().feed(layout.write(state))
    assert total_wh(reading.imported) == Decimal(12_345_679)
    assert total_wh(reading.exported) == Decimal(9_012)
    assert reading.power_w == Decimal(-345)
    assert reading.at_s == at_s


def test_the_checksum_is_that_of_a_published_telegram() -> None:
    # CRC-16/ARC's check value, as its catalogues give it.
    assert crc16_arc(b"123456789") == 0xBB3D


def test_a_meters_readings_are_the_differences_of_its_register() -> None:
    first = int(time.time()) // 20 + 1
    shape = {"meters": 3, "windows": 2, "groups": 1, "minimum_meters": 2, "window_s": 20, "interval_s": 5}
    with SimulatedMeters(3, seed=5) as meters:
        plain = meters.plaintext(live(first=first, **shape))
    assert plain.readings.shape == (2 * 4, 3)
    for meter in range(3):
        rise = meters.register_wh(meter, (first + 2) * 20) - meters.register_wh(meter, first * 20)
        assert plain.readings[:, meter].sum() == rise > 0


def test_a_port_is_a_terminal_with_whole_telegrams(tmp_path: Path) -> None:
    with SimulatedMeters(1, seed=5) as meters, meters.ports[0].open("rb", buffering=0) as port:
        decoder, readings = P1Decoder(), []
        while not readings:
            readings = decoder.feed(port.read(4_096) or b"")
    (reading,) = readings[:1]
    assert reading.at_s is not None
    assert abs(reading.at_s - time.time()) < 60
    assert total_wh(reading.imported) == meters.register_wh(0, int(reading.at_s))
