"""SunSpec models, with this file's own encoder."""

import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import RemoteError
from gridhe.meter_agent.sources.modbus.sunspec import Model, read_common, read_header, read_model


def integers(
    *,
    imported: int,
    exported: int,
    scale: int | None,
    watts: int,
    watts_scale: int | None = 0,
    number: int = 203,
) -> bytes:
    words = [0x8000] * 107
    words[0], words[1] = number, 105
    words[18] = watts % 65_536
    words[22] = 0x8000 if watts_scale is None else watts_scale % 65_536
    for at, value in ((38, exported), (46, imported)):
        words[at], words[at + 1] = divmod(value, 65_536)
    words[54] = 0x8000 if scale is None else scale % 65_536
    return struct.pack(">107H", *words)


def floats(*, imported: float, exported: float, watts: float, number: int = 213) -> bytes:
    places = [float("nan")] * 62
    places[13], places[29], places[33] = watts, exported, imported
    return struct.pack(">HH62f", number, 124, *places)


def of(data: bytes) -> Any:
    model = read_header(data, 40_069)
    assert model.is_meter
    return read_model(model, data[: 2 * model.count])


@pytest.mark.parametrize("number", [201, 202, 203, 204])
def test_integers_with_a_scale_factor(number: int) -> None:
    reading = of(
        integers(imported=12_345, exported=98_765, scale=2, watts=-123, watts_scale=1, number=number)
    )
    register = reading.imported["TotWhImp"]
    assert (register.wh, register.step_wh, register.modulus_wh) == (1_234_500, 100, 100 * 2**32)
    assert reading.exported["TotWhExp"].wh == 9_876_500
    assert reading.power_w == -1230


@pytest.mark.parametrize("number", [211, 212, 213, 214])
def test_floats(number: int) -> None:
    reading = of(floats(imported=1_234_567.0, exported=9_876_543.0, watts=-1234.5, number=number))
    assert reading.imported["TotWhImp"].wh == 1_234_567
    assert reading.exported["TotWhExp"].wh == 9_876_543
    assert reading.power_w == Decimal("-1234.5")


@pytest.mark.parametrize("scale", [None, 11, -11])
def test_repro_energy_without_its_scale_factor_has_no_meaning(scale: int | None) -> None:
    reading = of(integers(imported=1_234_567, exported=5, scale=scale, watts=350))
    assert (reading.imported, reading.exported, reading.power_w) == ({}, {}, 350)
    assert of(integers(imported=7, exported=5, scale=0, watts=3, watts_scale=None)).power_w is None


def test_repro_an_accumulator_of_zero_is_not_accumulated() -> None:
    reading = of(integers(imported=0, exported=5, scale=0, watts=350))
    assert reading.imported == {}
    assert reading.exported["TotWhExp"].wh == 5
    assert of(floats(imported=0.0, exported=5.0, watts=1.0)).imported == {}


def test_a_model_that_moved_is_noticed() -> None:
    data = integers(imported=1, exported=1, scale=0, watts=1)
    model = Model(number=201, address=40_069, length=105)
    with pytest.raises(RemoteError) as refused:
        read_model(model, data[: 2 * model.count])
    assert refused.value.reason == "moved"


def test_a_common_model_has_the_serial_number() -> None:
    data = bytes(100) + b"SN-4711".ljust(32, b"\0")
    assert read_common(data) == "SN-4711"
    assert read_common(bytes(132)) is None


@given(st.binary(min_size=140, max_size=140))
def test_any_model_is_a_reading_or_a_reason(data: bytes) -> None:
    for number, length in ((203, 105), (213, 124)):
        header = struct.pack(">HH", number, length)
        model = read_header(header, 0)
        try:
            reading = read_model(model, (header + data[4:])[: 2 * model.count])
        except RemoteError as error:
            registers, reason = [], error.reason
        else:
            registers, reason = [*reading.imported.values(), *reading.exported.values()], ""
        assert reason in ("", "negative", "implausible")
        assert all(each.wh >= 0 for each in registers)  # a float of less than half a Wh is 0
