"""Registers to exact numbers."""

import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import RemoteError
from gridhe.meter_agent.sources.modbus.values import Encoding, energy, power

KWH = Decimal(1000)
ORDERS = {"ABCD": b"\0\1\0\2", "CDAB": b"\0\2\0\1", "BADC": b"\1\0\2\0", "DCBA": b"\2\0\1\0"}


@pytest.mark.parametrize("order", ORDERS)
def test_repro_word_and_byte_order(order: Any) -> None:
    assert Encoding(type="u32", order=order).number(ORDERS[order]) == 65_538


@pytest.mark.parametrize(
    ("order", "data"),
    [("ABCD", "0001000200030004"), ("CDAB", "0004000300020001"), ("DCBA", "0400030002000100")],
)
def test_the_order_of_four_words(order: Any, data: str) -> None:
    assert Encoding(type="u64", order=order).number(bytes.fromhex(data)) == 0x0001000200030004


@pytest.mark.parametrize(
    ("type", "pattern", "data"),
    [
        ("u64", "all_ones", "ffffffffffffffff"),
        ("u32", "all_ones", "ffffffff"),
        ("i32", "largest", "7fffffff"),
        ("i16", "largest", "7fff"),
        ("i16", "smallest", "8000"),
        ("i64", "smallest", "8000000000000000"),
        ("u32", "zero", "00000000"),
        ("float32", "zero", "80000000"),
        ("u32", 0x7FFF, "00007fff"),
        ("float32", None, "7fc00000"),
        ("float32", None, "ffc00000"),
        ("float32", None, "7f800000"),
        ("float64", None, "fff0000000000000"),
    ],
)
def test_repro_not_available_is_no_number(type: Any, pattern: Any, data: str) -> None:
    missing = () if pattern is None else (pattern,)
    encoding = Encoding(type=type, missing=missing)
    assert encoding.number(bytes.fromhex(data)) is None
    assert energy(encoding, bytes.fromhex(data), KWH) is None
    assert power(encoding, bytes.fromhex(data), Decimal(1)) is None


@pytest.mark.parametrize(
    ("kwh", "wh", "step"),
    [
        (1234.567, 1_234_567, "1"),
        (123_456.7890625, 123_456_789, "7.8125"),
        (123_456.796875, 123_456_797, "7.8125"),
        (16_384.0, 16_384_000, "1.953125"),
        (0.0, 0, "1"),
        (-0.0, 0, "1"),
    ],
)
def test_a_float_is_whole_wh_and_steps_by_its_size(kwh: float, wh: int, step: str) -> None:
    register = energy(Encoding(type="float32"), struct.pack(">f", kwh), KWH)
    assert register is not None
    assert (register.wh, register.step_wh) == (wh, Decimal(step))
    assert str(register.wh) == str(wh)  # no -0


def test_a_whole_number_is_exact() -> None:
    register = energy(Encoding(type="u64"), (123_456_789).to_bytes(8, "big"), Decimal("0.01") * KWH)
    assert register is not None
    assert (register.wh, register.step_wh) == (1_234_567_890, 10)


@pytest.mark.parametrize(
    ("type", "data", "reason"),
    [
        ("i32", "ffffffff", "negative"),
        ("float32", "c2c80000", "negative"),
        ("float32", "027d0000", "implausible"),  # 637 in the wrong word
        ("i64", "000002b901350000", "implausible"),  # an address off by one
        ("u64", "ffffffffffffffff", "implausible"),
        ("float32", "7f7fffff", "implausible"),
        ("float64", "7fefffffffffffff", "implausible"),
    ],
)
def test_repro_a_number_that_is_no_energy_is_refused(type: Any, data: str, reason: str) -> None:
    with pytest.raises(RemoteError) as refused:
        energy(Encoding(type=type), bytes.fromhex(data), KWH)
    assert refused.value.reason == reason


def test_power_is_the_shortest_decimal_of_a_float() -> None:
    assert power(Encoding(type="float32"), struct.pack(">f", -1523.4), Decimal(1)) == Decimal("-1523.4")
    assert power(Encoding(type="float32"), struct.pack(">f", -2.7505), KWH) == Decimal("-2750.5")
    assert power(Encoding(type="i16"), b"\xff\xff", Decimal("0.1")) == Decimal("-0.1")


TYPES = ["u16", "i16", "u32", "i32", "u64", "i64", "float32", "float64"]


@given(
    st.sampled_from(TYPES),
    st.sampled_from(list(ORDERS)),
    st.binary(min_size=8, max_size=8),
    st.sampled_from([Decimal(1), Decimal("0.01"), KWH, -KWH]),
)
def test_any_registers_are_energy_or_a_reason(type: Any, order: Any, data: bytes, scale: Decimal) -> None:
    encoding = Encoding(type=type, order=order)
    try:
        register = energy(encoding, data[: 2 * encoding.count], scale)
    except RemoteError as error:
        register, reason = None, error.reason
    else:
        reason = ""
    assert reason in ("", "negative", "implausible")
    if register is not None:
        assert 0 <= register.wh <= 10**11
        assert register.step_wh > 0
