"""The plan: one record, one id for ever, and no record that is not exactly one."""

import itertools
import struct
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from annotated_types import Le
from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe.config.settings import CkksSettings, PlanSettings
from gridhe.errors import PlanError
from gridhe.plan.parameters import RINGS, CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity

ENERGY = Quantity(
    name="import_wh",
    unit="Wh",
    largest=4_000,
    statistics=("sum", "variance", "max"),
    bin_edges=(0, 1_000, 4_001),
    square_shift=2,
)
PLAN = Plan(
    authority="a0123456789abcdef",
    key_id="kfedcba9876543210",
    first_window=19_000,
    window_s=86_400,
    interval_s=3_600,
    quantities=(ENERGY, Quantity(name="power_w", unit="W", largest=9_000, statistics=("sum",))),
    largest_group=500,
    largest_rollup=1_000,
    minimum_meters=5,
    grace_s=300.0,
    late_s=3_600.0,
    early_s=60.0,
    horizon_s=86_400.0,
    parameters=RINGS[2],
    scale_bits=40,
    flooding_bits=40,
    decryptions=2**18,
    guard_bits=16,
)


def test_a_plan_survives_its_bytes() -> None:
    assert Plan.decode(PLAN.encode()) == PLAN


def test_the_id_of_a_plan_never_changes() -> None:
    # A changed encoding would orphan every batch that is under way.
    assert PLAN.plan_id == "p3cedcf881c9c82da"


def test_every_field_is_part_of_the_id() -> None:
    changes: dict[str, Any] = {
        "authority": "a" + "1" * 16,
        "key_id": "k" + "1" * 16,
        "first_window": 1,
        "window_s": 172_800,
        "interval_s": 7_200,
        "quantities": PLAN.quantities[:1],
        "largest_group": 501,
        "largest_rollup": 1_001,
        "minimum_meters": 6,
        "grace_s": 301.0,
        "late_s": 3_601.0,
        "early_s": 61.0,
        "horizon_s": 86_401.0,
        "parameters": RINGS[3],
        "scale_bits": 41,
        "flooding_bits": 41,
        "decryptions": 2**19,
        "guard_bits": 14,
    }
    assert changes.keys() == set(Plan.__slots__)
    ids = {replace(PLAN, **{name: value}).plan_id for name, value in changes.items()}
    assert len(ids) == len(changes)
    assert PLAN.plan_id not in ids
    for change in ({"unit": "kWh"}, {"square_shift": 3}, {"bin_edges": (0, 2_000, 4_001)}, {"name": "other"}):
        other = replace(PLAN, quantities=(replace(ENERGY, **change), PLAN.quantities[1]))
        assert other.plan_id != PLAN.plan_id
        assert Plan.decode(other.encode()) == other


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"window_s": 0}, "multiple"),
        ({"interval_s": 0}, "multiple"),
        ({"interval_s": 7}, "multiple"),
        ({"quantities": ()}, "needs quantities"),
        ({"quantities": (ENERGY, ENERGY)}, "different names"),
        ({"minimum_meters": 1}, "at least 2"),
        ({"minimum_meters": 1_001}, "nothing could ever be released"),
        ({"largest_group": 0}, "largest_group"),
        ({"largest_group": 1_001}, "largest_rollup"),
        ({"grace_s": -1.0}, "grace_s"),
        ({"late_s": float("nan")}, "late_s"),
        ({"early_s": float("inf")}, "early_s"),
        ({"horizon_s": -0.1}, "horizon_s"),
        ({"first_window": -1}, "first_window"),
        ({"first_window": 2**48}, "first_window"),
        ({"scale_bits": 0}, "scale_bits"),
        ({"scale_bits": 121}, "scale_bits"),
        ({"flooding_bits": -1}, "flooding_bits"),
        ({"flooding_bits": 65}, "flooding_bits"),
        ({"decryptions": 0}, "decryptions"),
        ({"guard_bits": 15}, "guard_bits 15"),
        ({"interval_s": 60}, "slots are needed"),
        ({"quantities": tuple(replace(ENERGY, name=f"q{i}") for i in range(17))}, "at most 16"),
    ],
)
def test_a_plan_with_a_field_out_of_range_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(PlanError, match=why):
        replace(PLAN, **change)


@pytest.mark.parametrize("horizon_s", [1e30, 1.6e9])
def test_repro_a_signed_horizon_of_1e30_seconds_ended_every_start(horizon_s: float) -> None:
    with pytest.raises(PlanError, match=r"horizon_s .* is too large: at most 1576800000"):
        replace(PLAN, horizon_s=horizon_s)
    with pytest.raises(PlanError, match="horizon_s"):
        Plan.decode(PLAN.encode().replace(struct.pack(">d", 86_400.0), struct.pack(">d", horizon_s)))


def test_a_signed_plan_has_the_bounds_of_the_settings() -> None:
    numbers = {name for name, kind in Plan.__annotations__.items() if kind in (int, float)}
    for name in numbers - {"first_window", "scale_bits", "guard_bits"}:
        section = PlanSettings if name in PlanSettings.model_fields else CkksSettings
        (largest,) = (each.le for each in section.model_fields[name].metadata if isinstance(each, Le))
        changes: dict[str, Any] = {name: largest + 1}
        with pytest.raises(PlanError, match=rf"^{name} \S+ is too large: at most {largest}$"):
            replace(PLAN, **changes)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "Import"}, "legal name"),
        ({"largest": 0}, "largest"),
        ({"largest": 2**32 + 1}, "largest"),
        ({"square_shift": -1}, "square_shift"),
        ({"square_shift": 32}, "square_shift"),
        ({"statistics": ("sum", "median")}, "unknown statistic"),
        ({"bin_edges": ()}, "need bin edges"),
        ({"statistics": ("sum",)}, "need bin edges"),
        ({"bin_edges": (0, 4_001)}, "two bins or more"),
        ({"bin_edges": (1, 1_000, 4_001)}, "rise from 0"),
        ({"bin_edges": (0, 1_000, 4_000)}, "rise from 0"),
        ({"bin_edges": (0, 1_000, 1_000, 4_001)}, "rise from 0"),
    ],
)
def test_a_quantity_with_a_field_out_of_range_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(PlanError, match=why):
        replace(ENERGY, **change)


def test_a_quantity_knows_its_blocks_and_its_largest_slot() -> None:
    assert (ENERGY.squares, ENERGY.bins, ENERGY.largest_slot) == (True, 2, 1_000_000)
    assert (PLAN.quantities[1].squares, PLAN.quantities[1].bins) == (False, 0)
    assert PLAN.quantities[1].largest_slot == 9_000
    assert replace(ENERGY, square_shift=8).largest_slot == 4_000


def test_what_follows_from_the_fields() -> None:
    assert PLAN.intervals == 24
    assert PLAN.scale == 2.0**40
    assert PLAN.layout.used == 24 * (3 + 2 + 2)
    assert PLAN.flooding_sigma > 0
    assert replace(PLAN, flooding_bits=0).flooding_sigma == 0.0


@given(st.integers(0, 2**24), st.floats(0, 1, exclude_max=True))
def test_windows_tile_the_time_since_the_epoch(window: int, within: float) -> None:
    start_s = PLAN.window_start_s(window)
    assert start_s == window * 86_400
    assert PLAN.window_of(float(start_s)) == window
    assert PLAN.window_of(start_s + within * 86_399) == window
    assert PLAN.window_of(start_s + 86_400) == window + 1


def test_a_moment_before_the_epoch_is_in_a_window_before_the_first() -> None:
    assert PLAN.window_of(-0.5) == -1


def record() -> dict[str, Any]:
    found: dict[str, Any] = msgpack.unpackb(PLAN.encode())
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window_s", 86_400.0),
        ("interval_s", 3_600.0),
        ("ring_degree", 4096.0),
        ("scale_bits", 40.0),
        ("flooding_bits", 40.5),
        ("decryptions", 2.0**18),
        ("largest_group", True),
        ("grace_s", 300),
        ("authority", b"a0123456789abcdef"),
        ("key", None),
        ("prime_bits", [48.0, 41, 20]),
        ("quantities", {}),
        ("quantities", [1]),
        ("v", "1"),
    ],
)
def test_repro_a_plan_record_with_a_field_of_the_wrong_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(PlanError):
        Plan.decode(msgpack.packb({**record(), name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("largest", 4000.0), ("unit", 7), ("square_shift", False), ("bin_edges", [0, 1e3, 4001])],
)
def test_repro_a_quantity_with_a_field_of_the_wrong_type_is_refused(name: str, value: object) -> None:
    changed = record()
    changed["quantities"][0][name] = value
    with pytest.raises(PlanError):
        Plan.decode(msgpack.packb(changed))


def test_a_record_with_a_field_too_many_or_too_few_is_refused() -> None:
    for name in record():
        with pytest.raises(PlanError):
            Plan.decode(msgpack.packb({key: value for key, value in record().items() if key != name}))
    with pytest.raises(PlanError):
        Plan.decode(msgpack.packb({**record(), "extra": 1}))


@pytest.mark.parametrize("version", [1, 3])
def test_a_record_of_another_version_says_so(version: int) -> None:
    with pytest.raises(PlanError, match="another version"):
        Plan.decode(msgpack.packb({**record(), "v": version}))


def test_the_same_plan_in_other_bytes_is_refused() -> None:
    reordered = dict(reversed(record().items()))
    with pytest.raises(PlanError, match="canonical"):
        Plan.decode(msgpack.packb(reordered))
    wide = PLAN.encode().replace(b"\xa1v\x02", b"\xa1v\xcc\x02")
    assert wide != PLAN.encode()
    with pytest.raises(PlanError, match="canonical"):
        Plan.decode(wide)


@given(st.binary(max_size=300))
@settings(max_examples=500)
def test_junk_is_no_plan(data: bytes) -> None:
    with pytest.raises(PlanError):
        Plan.decode(data)


def test_a_damaged_record_is_refused_or_another_plan_never_a_crash() -> None:
    data = PLAN.encode()
    for at, value in itertools.product(range(len(data)), (0, 1, 0x7F, 0x80, 0xC0, 0xDF, 0xFF)):
        damaged = data[:at] + bytes([value]) + data[at + 1 :]
        if damaged == data:
            continue
        try:
            plan = Plan.decode(damaged)
        except PlanError:
            continue
        assert plan.encode() == damaged
        assert plan.plan_id != PLAN.plan_id


def test_a_ring_that_does_not_exist_is_refused_in_a_record() -> None:
    with pytest.raises(PlanError, match="128-bit"):
        Plan.decode(msgpack.packb({**record(), "prime_bits": [60, 60, 20]}))
    assert CkksParameters(4096, (48, 41, 20)) == PLAN.parameters
