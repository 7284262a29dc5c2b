"""The tables of docs/parameters.md match the code."""

import re
from pathlib import Path

from gridhe.config.settings import CkksSettings
from gridhe.plan.exactness import capacity
from gridhe.plan.noise import slot_error_sigma
from gridhe.plan.parameters import RINGS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "parameters.md").read_text(encoding="utf-8")


def table(title: str) -> dict[tuple[int, tuple[int, ...]], list[str]]:
    """The rows of the table whose first line holds `title`, by ring."""
    rows = {}
    for line in PAGE[PAGE.index(title) :].splitlines()[2:]:
        found = re.match(r"\| (\d+) `\[([\d, ]+)\]` \| (.*) \|$", line)
        if found is None:
            break
        rows[int(found[1]), tuple(map(int, found[2].split(",")))] = found[3].split(" | ")
    return rows


def test_the_table_of_rings_has_every_ring_with_its_bytes_slots_and_predicted_error() -> None:
    rows = table("| ring | bytes |")
    assert list(rows) == [(ring.ring_degree, ring.prime_bits) for ring in RINGS]
    for ring, (wire_bytes, slots, predicted, *measured) in zip(RINGS, rows.values(), strict=True):
        assert (int(wire_bytes), int(slots)) == (ring.wire_bytes, ring.slots)
        assert int(predicted) == round(slot_error_sigma(ring.ring_degree, 1))
        assert all(0.85 < float(ratio) < 1.15 for cell in measured[:2] for ratio in cell.split(", "))


def test_the_table_of_capacities_is_what_the_planner_computes() -> None:
    rows = table("| ring | readings |")
    assert list(rows) == [(ring.ring_degree, ring.prime_bits) for ring in RINGS]
    for ring, cells in zip(RINGS, rows.values(), strict=True):
        expected = [
            capacity(ring, largest, CkksSettings(flooding_bits=bits))
            for bits in (0, 40)
            for largest in (20_000, 20_000**2)
        ]
        assert [int(cell.replace(",", "")) for cell in cells] == expected
