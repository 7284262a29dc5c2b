"""The lines of P1 telegrams: registers, units, the equipment id, the clock."""

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from gridhe.meter_agent.sources.p1.decoder import P1Decoder
from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe_testing.p1_telegrams import LINES, telegram


def decoded(data: bytes, decoder: P1Decoder | None = None) -> list[DeviceReading]:
    return (decoder or P1Decoder()).feed(data)


def fault_of(data: bytes) -> str:
    """The one fault of bytes that give no reading."""
    decoder = P1Decoder()
    assert decoded(data, decoder) == []
    ((reason, count),) = decoder.faults.items()
    assert count == 1
    return reason


def utc_s(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


# -- lines -------------------------------------------------------------------------------------------


def test_repro_an_empty_import_register_is_not_zero() -> None:
    assert fault_of(telegram(_1_8_1="1-0:1.8.1()")) == "empty_register"
    assert fault_of(telegram(_1_8_1="1-0:1.8.1(000123.456)")) == "empty_register"  # no unit
    assert fault_of(telegram(_1_8_1="1-0:1.8.1(-00123.456*kWh)")) == "empty_register"
    assert fault_of(telegram(_1_8_1="1-0:1.8.0()")) == "empty_register"  # an empty total, with tariffs


def test_repro_an_empty_export_register_is_no_export() -> None:
    (reading,) = decoded(telegram(_2_8_1="1-0:2.8.1()"))
    assert reading.exported == {}
    assert total_wh(reading.imported) == 323_456
    assert reading.remarks == ("an export register has no value: no export is read",)


def test_no_export_line_is_no_export_and_not_zero() -> None:
    (reading,) = decoded(telegram(_2_8_1="", _2_8_2="", _2_7_0=""))
    assert reading.exported == {}
    assert reading.power_w == 250


def test_repro_the_total_counts_and_not_its_tariffs_too() -> None:
    (reading,) = decoded(telegram(_96_14_0="1-0:1.8.0(000323.456*kWh)"))
    assert list(reading.imported) == ["1.8.0"]
    assert total_wh(reading.imported) == 323_456


def test_repro_the_first_of_two_lines_counts() -> None:
    (reading,) = decoded(telegram(_96_14_0="1-0:1.7.0(09.999*kW)", _96_13_0="1-0:1.8.1(000999.000*kWh)"))
    assert reading.power_w == Decimal(9999)  # stands before the other one
    assert total_wh(reading.imported) == 323_456


def test_units_and_digits() -> None:
    for text, wh, step, modulus in (
        ("006545766*Wh", "6545766", "1", "1E9"),
        ("012.3*MWh", "12300000", "100000", "1E9"),
        ("00000123.4567*kWh", "123456.7", "0.1", "1E11"),
        ("00123*kWh", "123000", "1000", "1E8"),
    ):
        (reading,) = decoded(telegram(_1_8_1=f"1-0:1.8.1({text})"))
        register = reading.imported["1.8.1"]
        assert (register.wh, register.step_wh, register.modulus_wh) == tuple(
            map(Decimal, (wh, step, modulus))
        )


@pytest.mark.parametrize(("text", "modulus"), [("9.990", None), ("0.005", None), ("00.005", 100_000)])
def test_repro_a_register_without_leading_zeros_does_not_say_where_it_ends(
    text: str, modulus: int | None
) -> None:
    """After 9.990 kWh a dip to 0.005 is no roll-over."""
    same = {f"_{each}_8_{n}": f"1-0:{each}.8.{n}({text}*kWh)" for each in (1, 2) for n in (1, 2)}
    (reading,) = decoded(telegram(**same))
    assert {each.modulus_wh for each in reading.imported.values()} == {modulus}


@pytest.mark.parametrize("suffix", [".255", "*255"])
def test_repro_a_sixth_group_is_read_only_if_it_means_the_present(suffix: str) -> None:
    (reading,) = decoded(
        telegram(_1_8_1=f"1-0:1.8.1{suffix}(000123.456*kWh)", _2_8_1="1-0:2.8.1*01(009999.000*kWh)")
    )
    assert total_wh(reading.imported) == 323_456
    assert list(reading.exported) == ["2.8.2"]


def test_other_lines_do_no_harm() -> None:
    (reading,) = decoded(
        telegram(
            *LINES,
            "1-0:1.6.0(632525252525W)(02.589*kW)",
            "0-0:98.1.0(0)",
            "0-0:17.0.0(16500)",
            "0-0:17.0.0(16500)",
            "0-2:1.8.0(000999.999*kWh)",
            "0-1:96.1.0(4530)",
            "1-0:15.8.0(000999.999*kWh)",
            "1-1:31.4.0(040*A)(-040*A)",
            "",
            "((((",
            "1-0:1.8.3",
        )
    )
    assert total_wh(reading.imported) == 323_456
    assert reading.device == "E0099900000000001"


def test_no_electricity_register_is_no_reading() -> None:
    assert fault_of(telegram("1-3:0.2.8(50)", "0-1:24.2.1(260215200523W)(240.860*GJ)")) == "no_register"
    assert fault_of(telegram("1-3:0.2.8(50)", "1-0:1.7.0(00.250*kW)")) == "no_register"


@pytest.mark.parametrize(
    ("line", "device"),
    [("0-0:96.1.1()", None), ("0-0:42.0.0(53414731)", "SAG1"), ("0-0:96.1.0(99000001)", "99000001"),
     ("0-0:96.1.1(4C475A313033)", "LGZ103"), ("0-0:96.1.1(not hex)", "not hex")],
)  # fmt: skip
def test_the_equipment_id(line: str, device: str | None) -> None:
    (reading,) = decoded(telegram(_96_1_1=line))
    assert reading.device == device


# -- the clock ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clock", "zone", "utc"),
    [
        ("240717120010S", None, "2024-07-17T10:00:10"),
        ("240717120010W", None, "2024-07-17T11:00:10"),
        ("240717120010W", "Europe/Stockholm", "2024-07-17T11:00:10"),
        ("240717120010S", "Europe/Helsinki", "2024-07-17T09:00:10"),
        ("240117120010W", "Europe/Helsinki", "2024-01-17T10:00:10"),
        ("240717120010S", "Europe/Dublin", "2024-07-17T11:00:10"),
        ("240117120010W", "Europe/Dublin", "2024-01-17T12:00:10"),
        ("241027020000S", "Europe/Amsterdam", "2024-10-27T00:00:00"),
        ("241027020000W", "Europe/Amsterdam", "2024-10-27T01:00:00"),
        ("000101010000W", None, "2000-01-01T00:00:00"),
        ("240717120010", None, None),
        ("240717120010", "Europe/Amsterdam", "2024-07-17T10:00:10"),
        ("241027023000", "Europe/Amsterdam", None),  # twice
        ("240331023000", "Europe/Amsterdam", None),  # never
        ("20240111 09:35:00", "Europe/Copenhagen", "2024-01-11T08:35:00"),
        ("20240111 09:35:00", None, None),
        ("240717120010X", "Europe/Amsterdam", None),
        ("632525252525W", None, None),
        ("240230120000W", None, None),
        ("2407171200W", None, None),
        ("", None, None),
    ],
)
def test_the_clock(clock: str, zone: str | None, utc: str | None) -> None:
    decoder = P1Decoder(zone=ZoneInfo(zone) if zone else None)
    (reading,) = decoded(telegram(_1_0_0=f"0-0:1.0.0({clock})"), decoder)
    assert reading.at_s == (None if utc is None else utc_s(utc))
    assert bool(reading.remarks) == (utc is None)


def test_a_clock_in_two_lines() -> None:
    decoder = P1Decoder(zone=ZoneInfo("Europe/Zagreb"))
    lines = ("1-0:0.9.1(222553)", "1-0:0.9.2(251002)", "1-0:1.8.0(000317.695*kWh)")
    (reading,) = decoded(telegram(*lines, checksum=None), decoder)
    assert reading.at_s == utc_s("2025-10-02T20:25:53")
    lines = ("1-0:0.9.1(22:25:53)", "1-0:0.9.2(25-10-02)", "1-0:1.8.0(000317.695*kWh)")
    (reading,) = decoded(telegram(*lines, checksum=None), decoder)
    assert reading.at_s == utc_s("2025-10-02T20:25:53")
    (reading,) = decoded(telegram(*lines[1:], checksum=None), decoder)
    assert reading.at_s is None
