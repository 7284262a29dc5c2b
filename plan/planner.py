"""Choose the smallest ring that gives exact totals for the settings.

A ring fits if it has enough slots, if some scale makes the totals exact (`gridhe.plan.exactness`), and if
the slots that are left hold enough guards (`gridhe.plan.soundness`). If no ring fits, the plan is refused,
and the error names the smallest change after which one does. A `minimum_meters` below the floor of
`gridhe.plan.small_groups` is refused before.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.errors import PlanError
from gridhe.plan.exactness import (
    capacity,
    check_exact,
    guard_bits_for,
    largest_slot,
    limit,
    rounding_room,
    scale_range,
)
from gridhe.plan.noise import flooding_sigma, slot_error_sigma, slot_failure_log2
from gridhe.plan.parameters import PRESETS, RINGS, CkksParameters
from gridhe.plan.plan import GUARD_BITS, Plan
from gridhe.plan.quantity import Quantity
from gridhe.plan.slots import SlotLayout
from gridhe.plan.small_groups import check_minimum, floor
from gridhe.plan.soundness import bits_to_spare, check_sound, most_slots

__all__ = ["Choice", "choose", "make_plan", "nearest", "quantities_of"]

_INTERVAL_MAX_S = 86_400  # the limit of plan.interval_s
_SHIFT_MAX = 12  # coarser squares carry little information; a larger ring is better
_SOUND_SHARE = (
    5  # a plan that is exact with a fifth of its ring's slots is sound too, but for extreme settings
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A ring, a scale and the quantities to collect (with their square shifts), with the reasons."""

    parameters: CkksParameters
    scale_bits: int
    quantities: tuple[Quantity, ...]
    slots_used: int
    guard_bits: int
    meters: int  # K: meters in the widest roll-up
    capacity: int  # the largest number of meters that this ring sums exactly, at any scale
    limit: str  # the limit that one more meter exceeds: "doubles" or "noise against wrap"
    error_sigma: float  # of a released slot at K meters, before rounding, in units of the reading
    failure_log2: float  # log2 of the probability that one slot of a total rounds wrongly
    spare_bits: float  # of soundness, at K meters; 0 or more
    most_slots: int  # used slots with which the plan would still be sound
    minimum_meters: int
    rejected: tuple[str, ...]  # one line for each smaller ring, with the reason

    def explain(self) -> dict[str, Any]:
        """The choice and its reasons, ready to be printed or written as JSON."""
        return {
            "ring_degree": self.parameters.ring_degree,
            "prime_bits": list(self.parameters.prime_bits),
            "scale_bits": self.scale_bits,
            "bytes_per_batch": self.parameters.wire_bytes,
            "slots_used": self.slots_used,
            "slots": self.parameters.slots,
            "largest_rollup": self.meters,
            "capacity": self.capacity,
            "limit": self.limit,
            "square_shifts": {q.name: q.square_shift for q in self.quantities if q.squares},
            "error_sigma": self.error_sigma,
            "failure_probability_log2": self.failure_log2,
            "guard_bits": self.guard_bits,
            "soundness_bits_to_spare": math.floor(self.spare_bits),
            "soundness": self._soundness(),
            "minimum_meters": self.minimum_meters,
            "small_groups": self._small_groups(),
            "rejected": list(self.rejected),
        }

    def _soundness(self) -> str:
        slots, used = self.parameters.slots, self.slots_used
        return (
            f"no multiple of a batch passes the checks of a total of {self.meters} meters, with "
            f"{math.floor(self.spare_bits)} bits to spare: {used} slots hold data, {slots - used} hold "
            f"guards, and up to {self.most_slots} could hold data"
        )

    def _small_groups(self) -> str:
        least = floor(self.quantities)
        squares = "with" if any(q.squares for q in self.quantities) else "without"
        if self.minimum_meters >= least:
            return f"{squares} squares, no total of {least} meters or more was seen to determine a reading"
        return (
            f"accepted by plan.small_groups: {squares} squares, totals of fewer than {least} meters can "
            "determine readings (docs/small-groups.md)"
        )


def _edges(settings: QuantitySettings) -> tuple[int, ...]:
    if not {"min", "max", "quantiles"} & set(settings.statistics):
        return ()
    if settings.bin_edges is not None:
        return settings.bin_edges
    bins = min(settings.bins, settings.largest + 1)
    return tuple((settings.largest + 1) * i // bins for i in range(bins + 1))


def quantities_of(plan: PlanSettings) -> tuple[Quantity, ...]:
    """The quantities of the settings, with square_shift 0. Raises PlanError."""
    return tuple(
        Quantity(name=q.name, unit=q.unit, largest=q.largest, statistics=q.statistics, bin_edges=_edges(q))
        for q in plan.quantities
    )


def _largest_slot_of(quantity: Quantity, square_shift: int) -> int:
    """`Quantity.largest_slot` with another square shift."""
    return max(quantity.largest, (quantity.largest >> square_shift) ** 2 if quantity.squares else 0)


def _shifted(quantities: Iterable[Quantity], bound: int) -> tuple[Quantity, ...] | None:
    """The quantities with the smallest square shifts that keep every slot within `bound`; None if none do."""
    shifted = []
    for quantity in quantities:
        shifts = range(_SHIFT_MAX + 1 if quantity.squares else 1)
        minimum = next((shift for shift in shifts if _largest_slot_of(quantity, shift) <= bound), None)
        if minimum is None:
            return None
        shifted.append(replace(quantity, square_shift=minimum) if minimum else quantity)
    return tuple(shifted)


def _rings(ckks: CkksSettings) -> tuple[CkksParameters, ...]:
    if ckks.ring_degree is not None and ckks.prime_bits is not None:
        return (CkksParameters(ckks.ring_degree, ckks.prime_bits),)
    return RINGS if ckks.preset == "auto" else (PRESETS[ckks.preset],)


def _slots_used(plan: PlanSettings, wanted: Iterable[Quantity]) -> int:
    return sum(len(SlotLayout.kinds(q)) for q in wanted) * (plan.window_s // plan.interval_s)


def _fit(parameters: CkksParameters, settings: Settings, wanted: tuple[Quantity, ...]) -> Choice | str:
    """A choice in this ring, or the reason why there is none."""
    plan, ckks = settings.plan, settings.ckks
    used = _slots_used(plan, wanted)
    if used > parameters.slots:
        return f"{parameters}: the plan needs {used} slots, the ring has {parameters.slots}"
    bound = largest_slot(parameters, plan.largest_rollup, ckks)
    quantities = _shifted(wanted, bound)
    if quantities is None or bound < 2 ** min(GUARD_BITS):
        needed = max(2 ** min(GUARD_BITS), *(_largest_slot_of(q, _SHIFT_MAX) for q in wanted))
        return (
            f"{parameters}: {plan.largest_rollup} meters leave room for slots up to {bound}, "
            f"the plan needs {needed}"
        )
    largest = max(q.largest_slot for q in quantities)
    guard_bits = guard_bits_for(largest)
    largest = max(largest, 2**guard_bits)
    minimum, greatest = scale_range(parameters, plan.largest_rollup, largest, ckks)
    # Half of the spare bits lower the failure probability, the other half keep distance from a wrap-around.
    middle = (minimum + greatest) // 2
    n, meters = parameters.ring_degree, plan.largest_rollup
    guarded = {"meters": meters, "largest": largest, "guard_bits": guard_bits}
    # A scale so large that only doubles limit the tolerance leaves a forger room in the data slots.
    sound = (
        bits for bits in range(middle, minimum - 1, -1) if used <= most_slots(parameters, bits, **guarded)
    )
    scale_bits = next(sound, None)
    if scale_bits is None:
        most = max(most_slots(parameters, bits, **guarded) for bits in range(minimum, middle + 1))
        return (
            f"{parameters}: soundness: the plan needs {used} slots for data, {most} of {parameters.slots} "
            "leave enough guards"
        )
    flood = flooding_sigma(n, meters, ckks.flooding_bits, ckks.decryptions)
    room = rounding_room(meters, largest) * 2.0**scale_bits
    maximum = capacity(parameters, largest, ckks)
    return Choice(
        parameters=parameters,
        scale_bits=scale_bits,
        quantities=quantities,
        slots_used=used,
        guard_bits=guard_bits,
        meters=plan.largest_rollup,
        capacity=maximum,
        limit=limit(parameters, maximum + 1, largest, ckks) or "none",
        error_sigma=slot_error_sigma(n, meters, flood) / 2.0**scale_bits,
        failure_log2=slot_failure_log2(room, n, meters, flood),
        spare_bits=bits_to_spare(parameters, scale_bits, used=used, **guarded),
        most_slots=most_slots(parameters, scale_bits, **guarded),
        minimum_meters=plan.minimum_meters,
        rejected=(),
    )


def choose(settings: Settings) -> Choice:
    """The smallest ring on the wire that gives exact totals for the settings.

    Raises PlanError with the reasons and the nearest plan that can be exact, or if `minimum_meters` is below
    the floor.
    """
    plan = settings.plan
    check_minimum(plan.minimum_meters, quantities_of(plan), accepted=plan.small_groups == "accepted")
    result = _search(settings)
    if isinstance(result, Choice):
        return result
    change = nearest(settings)
    way_out = (
        f"Nearest exact plan: {change[0]}"
        if change
        else "No similar plan is exact: use fewer quantities or shorter windows"
    )
    raise PlanError(f"no exact plan. {'; '.join(result)}. {way_out}")


def _search(settings: Settings) -> Choice | list[str]:
    """The best choice, or the reason for each rejected ring."""
    rejected: list[str] = []
    fitting: list[Choice] = []
    wanted = quantities_of(settings.plan)
    for parameters in _rings(settings.ckks):
        if fitting and parameters.wire_bytes > fitting[0].parameters.wire_bytes:
            break
        fit = _fit(parameters, settings, wanted)
        if isinstance(fit, Choice):
            fitting.append(fit)
        else:
            rejected.append(fit)
    if not fitting:
        return rejected
    # Of rings of the same size, the one with the smallest square shifts; of those, the first in the list.
    best = min(fitting, key=lambda choice: sum(q.square_shift for q in choice.quantities))
    return replace(best, rejected=tuple(rejected))


def nearest(settings: Settings) -> tuple[str, Settings] | None:
    """The smallest change after which `choose` accepts: its text and the new settings; None if unknown."""
    for text, changed in _nearer(settings):
        result = _search(changed)
        if isinstance(result, Choice):
            return f"{text} (in {result.parameters}, exact up to {result.capacity} meters)", changed
    return None


def _nearer(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """Changes to try, the smallest first."""
    ckks = settings.ckks
    if ckks.preset == "auto" and ckks.ring_degree is None:
        yield from _smaller_plans(settings)
        return
    text = "ckks.preset auto" + ("" if ckks.ring_degree is None else ", without ring_degree and prime_bits")
    free = CkksSettings(flooding_bits=ckks.flooding_bits, decryptions=ckks.decryptions)
    any_ring = settings.model_copy(update={"ckks": free})
    yield text, any_ring
    yield from _smaller_plans(settings)
    for more, changed in _smaller_plans(any_ring):
        yield f"{text} and {more}", changed


def _smaller_plans(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """Plans that collect less, so that they fit the slots, the guards and the scale of the allowed rings."""
    wanted = quantities_of(settings.plan)
    slots = max(parameters.slots for parameters in _rings(settings.ckks)) // _SOUND_SHARE
    used = _slots_used(settings.plan, wanted)
    if used <= slots:
        yield from _smaller(settings)
    yield from _longer_intervals(settings, _exact)
    yield from _fewer_bins(settings, _exact)
    if used <= slots:
        return
    yield from _smaller(settings)

    def few_slots(changed: Settings) -> bool:
        return _slots_used(changed.plan, quantities_of(changed.plan)) <= slots

    for text, fitting in (*_longer_intervals(settings, few_slots), *_fewer_bins(settings, few_slots)):
        for more, changed in _smaller(fitting):
            yield f"{text} and {more}", changed


def _exact(settings: Settings) -> bool:
    return isinstance(_search(settings), Choice)


def _with_plan(settings: Settings, **changes: object) -> Settings:
    plan = PlanSettings.model_validate({**settings.plan.model_dump(), **changes})
    return settings.model_copy(update={"plan": plan})


def _last(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The last n in low <= n < high for which `holds(n)`, by bisection; None if it is false for all."""
    if low >= high or not holds(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _smaller(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """Fewer meters, then smaller readings."""
    plan = settings.plan

    def fewer_meters(meters: int) -> Settings:
        return _with_plan(settings, largest_rollup=meters, largest_group=min(plan.largest_group, meters))

    def smaller_readings(largest: int) -> Settings:
        # Edges end at the old largest reading, so they cannot stay.
        smaller = [
            q.model_dump() | ({"largest": largest, "bin_edges": None} if q.largest > largest else {})
            for q in plan.quantities
        ]
        return _with_plan(settings, quantities=smaller)

    meters = _last(plan.minimum_meters, plan.largest_rollup, lambda n: _exact(fewer_meters(n)))
    if meters is not None:
        group = "" if meters >= plan.largest_group else f" and plan.largest_group {meters}"
        yield f"plan.largest_rollup {meters}{group}", fewer_meters(meters)
    largest = _last(1, max(q.largest for q in plan.quantities), lambda n: _exact(smaller_readings(n)))
    if largest is not None:
        edges = any(q.largest > largest and q.bin_edges is not None for q in plan.quantities)
        text = f"quantities with largest {largest}" + (" and bins for bin_edges" if edges else "")
        yield text, smaller_readings(largest)


def _longer_intervals(
    settings: Settings, accepts: Callable[[Settings], bool]
) -> Iterator[tuple[str, Settings]]:
    """The longer interval with the most intervals in a window that is accepted."""
    window_s = settings.plan.window_s
    most = min(window_s // settings.plan.interval_s - 1, max(ring.slots for ring in _rings(settings.ckks)))
    lengths = [
        window_s // intervals
        for intervals in range(1, most + 1)
        if window_s % intervals == 0 and window_s // intervals <= _INTERVAL_MAX_S
    ]

    def longer(at: int) -> Settings:
        return _with_plan(settings, interval_s=lengths[at])

    at = _last(0, len(lengths), lambda n: accepts(longer(n)))
    if at is not None:
        yield f"plan.interval_s {lengths[at]}", longer(at)


def _fewer_bins(settings: Settings, accepts: Callable[[Settings], bool]) -> Iterator[tuple[str, Settings]]:
    """The most bins that are accepted."""
    plan = settings.plan

    def with_bins(bins: int) -> Settings:
        return _with_plan(
            settings, quantities=[q.model_dump() | {"bins": min(q.bins, bins)} for q in plan.quantities]
        )

    bins = _last(2, max(q.bins for q in plan.quantities), lambda n: accepts(with_bins(n)))
    if bins is not None:
        yield f"quantities with bins {bins}", with_bins(bins)


def make_plan(settings: Settings, choice: Choice, *, authority: str, key_id: str, first_window: int) -> Plan:
    """The plan record of a choice. Raises PlanError unless its totals are exact and its guards are sound."""
    plan = settings.plan
    largest = max(2**choice.guard_bits, *(q.largest_slot for q in choice.quantities))
    check_exact(choice.parameters, choice.scale_bits, plan.largest_rollup, largest, settings.ckks)
    check_sound(
        choice.parameters,
        choice.scale_bits,
        used=choice.slots_used,
        meters=plan.largest_rollup,
        largest=largest,
        guard_bits=choice.guard_bits,
    )
    return Plan(
        authority=authority,
        key_id=key_id,
        first_window=first_window,
        window_s=plan.window_s,
        interval_s=plan.interval_s,
        quantities=choice.quantities,
        largest_group=plan.largest_group,
        largest_rollup=plan.largest_rollup,
        minimum_meters=plan.minimum_meters,
        grace_s=plan.grace_s,
        late_s=plan.late_s,
        early_s=plan.early_s,
        horizon_s=plan.horizon_s,
        parameters=choice.parameters,
        scale_bits=choice.scale_bits,
        flooding_bits=settings.ckks.flooding_bits,
        decryptions=settings.ckks.decryptions,
        guard_bits=choice.guard_bits,
    )
