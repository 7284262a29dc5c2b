"""The register machine: dips, spikes, swaps, resets and roll-overs are told apart as in the field notes."""

from collections.abc import Sequence
from decimal import Decimal

from gridhe.meter_agent.sources.protocol import Sample
from gridhe.meter_agent.sources.reading import DeviceReading, Register
from gridhe.meter_agent.sources.tracker import Tracker

KWH = Decimal(1000)


def register(wh: int | str | Decimal, step: str = "1", modulus: int | None = None) -> Register:
    return Register(
        wh=Decimal(wh), step_wh=Decimal(step), modulus_wh=None if modulus is None else Decimal(modulus)
    )


def imported(
    *registers: Register, device: str | None = None, locked: bool = False, exported: Register | None = None
) -> DeviceReading:
    return DeviceReading(
        imported={f"r{at}": each for at, each in enumerate(registers)},
        exported={} if exported is None else {"e": exported},
        device=device,
        locked=locked,
    )


def tracker(largest_w: int = 100_000) -> Tracker:
    return Tracker(largest_w=largest_w)


def run(made: Tracker, readings: Sequence[tuple[float, DeviceReading]]) -> list[int | None]:
    """The import of each reading's sample; None where it gave none."""
    return [None if s is None else s.values.get("imported") for s in samples(made, readings)]  # type: ignore[misc]


def samples(made: Tracker, readings: Sequence[tuple[float, DeviceReading]]) -> list[Sample | None]:
    return [made.take(reading, at_s) for at_s, reading in readings]


def breaks(found: Sequence[Sample | None]) -> list[float]:
    """When the import broke, without the first sample."""
    return [each.at_s for each in found[1:] if each is not None and "imported" in each.breaks]


def steady(
    values: Sequence[int | str | Decimal], *, every_s: float = 10, from_s: float = 0, **more: str
) -> list[tuple[float, DeviceReading]]:
    return [(from_s + at * every_s, imported(register(value, **more))) for at, value in enumerate(values)]  # type: ignore[arg-type]


def test_note_1_a_swapped_meter_is_known_by_its_equipment_id_and_breaks_at_once() -> None:
    made = tracker()
    found = samples(
        made,
        [
            (0, imported(register(29_078_063), device="old")),
            (12_600, imported(register(2), device="new")),
            (12_601, imported(register(3), device="new")),
        ],
    )
    assert [s.values["imported"] for s in found if s] == [29_078_063, 2, 3]
    assert breaks(found) == [12_600]
    assert made.events == {"swap": 1}
    assert made.counts == {}
