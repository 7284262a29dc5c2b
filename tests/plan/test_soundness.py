"""Soundness: the figures of docs/parameters.md, the most slots, and the named refusal."""

from typing import Any

import pytest

from gridhe.config.settings import Settings
from gridhe.errors import PlanError
from gridhe.plan.exactness import guard_bits_for, slot_tolerance
from gridhe.plan.parameters import PRESETS, RINGS
from gridhe.plan.planner import choose
from gridhe.plan.soundness import bits_to_spare, check_sound, most_slots

RING = RINGS[3]  # 4096 [48, 45, 16], the default plan's
SQUARES, READINGS = 20_000**2, 20_000
TABLE = [
    pytest.param(51, {"meters": 1_000, "largest": SQUARES, "guard_bits": 16}, 24_469, 884, id="default"),
    pytest.param(51, {"meters": 5, "largest": SQUARES, "guard_bits": 16}, 40_123, 1_158, id="5 meters"),
    pytest.param(
        51, {"meters": 1_000, "largest": READINGS, "guard_bits": 14}, 50_440, 1_371, id="no squares"
    ),
    pytest.param(
        58, {"meters": 1_000, "largest": READINGS, "guard_bits": 14}, 47_229, 1_216, id="scale 2^58"
    ),
    pytest.param(
        51,
        {"meters": 1_000, "largest": SQUARES, "guard_bits": 16, "tolerance": 0.5},
        3_049,
        509,
        id="tolerance 1/2",
    ),
    pytest.param(
        57,
        {"meters": 1_000, "largest": SQUARES, "guard_bits": 16, "tolerance": 0.3},
        1_771,
        484,
        id="tolerance 0.3",
    ),
]


@pytest.mark.parametrize(("scale_bits", "of", "spare", "most"), TABLE)
def test_bits_to_spare_at_456_slots_and_the_most_slots(
    scale_bits: int, of: dict[str, Any], spare: int, most: int
) -> None:
    assert round(bits_to_spare(RING, scale_bits, used=456, **of)) == spare
    assert most_slots(RING, scale_bits, **of) == most
    assert bits_to_spare(RING, scale_bits, used=most, **of) >= 0
    assert bits_to_spare(RING, scale_bits, used=most + 1, **of) < 0


def test_the_first_row_is_the_default_plan() -> None:
    choice = choose(Settings())
    assert (choice.parameters, choice.scale_bits, choice.slots_used, choice.meters) == (RING, 51, 456, 1_000)
    assert max(q.largest_slot for q in choice.quantities) == SQUARES
    assert guard_bits_for(SQUARES) == 16


def test_guards_have_16_bits_where_the_largest_slot_has_as_many_and_else_14() -> None:
    assert [guard_bits_for(largest) for largest in (1, 2**14, 2**16 - 1, 2**16, 2**40)] == [
        14,
        14,
        14,
        16,
        16,
    ]


def test_more_meters_leave_fewer_bits() -> None:
    of: dict[str, Any] = {"largest": SQUARES, "guard_bits": 16}
    spare = [bits_to_spare(RING, 51, used=456, meters=meters, **of) for meters in range(1, 5_000, 7)]
    assert spare == sorted(spare, reverse=True)


@pytest.mark.parametrize("parameters", [*RINGS, *PRESETS.values()], ids=str)
@pytest.mark.parametrize("guard_bits", [14, 16])
def test_fewer_than_eight_guards_are_never_sound(parameters: Any, guard_bits: int) -> None:
    for scale_bits in (1, 30, 60, 120):
        for meters in (1, 10**7):
            of: dict[str, Any] = {"meters": meters, "largest": 2**guard_bits, "guard_bits": guard_bits}
            if slot_tolerance(parameters, scale_bits, meters, 2**guard_bits) <= 0.5:
                assert most_slots(parameters, scale_bits, **of) < parameters.slots - 8


def test_a_plan_with_too_few_guards_is_refused_by_name() -> None:
    of: dict[str, Any] = {"meters": 1_000, "largest": SQUARES, "guard_bits": 16}
    check_sound(RING, 51, used=884, **of)
    with pytest.raises(
        PlanError, match=r"soundness: .* allows 884 for data with 1000 meters, the plan needs 885"
    ):
        check_sound(RING, 51, used=885, **of)
