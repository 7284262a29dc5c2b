"""From what a user wants to the smallest ring that gives it exactly.

With N the ring degree, K the most meters ever summed, v the largest slot of one meter, Q the
product of the data primes and sigma the error of a slot (`gridhe.keyring.noise`), a total is the
integer sum when

    9.3 * sigma / scale + K * v * 2^-51 <= 1/2     noise, and what doubles lose in decoding
    scale * K * v < Q / 2                          no wrap: one that wraps gives garbage, no error
    K * v <= 2^46                                  doubles carry it
    slots used <= N / 2
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.errors import PlanError
from gridhe.keyring.noise import TAIL_SIGMAS, flooding_sigma, slot_error_sigma
from gridhe.keyring.parameters import PRESETS, RINGS, CkksParameters
from gridhe.keyring.plan import Plan, Quantity
from gridhe.keyring.slots import SlotLayout

__all__ = ["Choice", "capacity", "check_exact", "choose", "make_plan", "quantities_of"]

_DOUBLE_BITS = 46  # K * v may reach 2^46
_DECODE_BITS = 51  # decoding loses about max * 2^-51 (measured)
_SHIFT_MAX = 12  # squares coarser than this say little; a larger ring is better


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A ring, a scale and the quantities as they will be collected, with the reasons."""

    parameters: CkksParameters
    scale_bits: int
    quantities: tuple[Quantity, ...]
    slots_used: int
    meters: int  # K: the widest roll-up asked for
    capacity: int  # the most meters this ring sums exactly, at any scale
    limit: str  # what binds first: noise, wrap or doubles
    error_sigma: float  # of a released slot at K meters, before rounding, in units of the reading
    failure_log2: float  # log2 of the chance that one slot of a total rounds wrongly
    rejected: tuple[str, ...]  # smaller rings, and why not

    def explain(self) -> dict[str, Any]:
        """The choice and why, ready to be printed or written as JSON."""
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
            "rejected": list(self.rejected),
        }


def _sigma(parameters: CkksParameters, meters: int, ckks: CkksSettings) -> float:
    flood = flooding_sigma(parameters.ring_degree, meters, ckks.flooding_bits, ckks.decryptions)
    return slot_error_sigma(parameters.ring_degree, meters, flood)


def _scale_range(
    parameters: CkksParameters, meters: int, largest: int, ckks: CkksSettings
) -> tuple[int, int]:
    """The least and the greatest log2(scale) that are exact; least > greatest when none is."""
    room = 0.5 - meters * largest * 2.0**-_DECODE_BITS
    if room <= 0:
        return 1, 0
    least = math.ceil(math.log2(TAIL_SIGMAS * _sigma(parameters, meters, ckks) / room))
    # The largest power of two with scale * K * v < Q / 2, in integers: Q may have hundreds of bits.
    greatest = ((parameters.modulus - 1) // (2 * meters * largest)).bit_length() - 1
    return max(1, least), min(greatest, 120)


def check_exact(
    parameters: CkksParameters, scale_bits: int, meters: int, largest: int, ckks: CkksSettings
) -> None:
    """Raise PlanError, naming the limit, unless totals of `meters` slots of up to `largest` are exact."""
    if meters * largest > 2**_DOUBLE_BITS:
        raise PlanError(f"doubles: {meters} meters of {largest} exceed 2^{_DOUBLE_BITS}")
    least, greatest = _scale_range(parameters, meters, largest, ckks)
    if scale_bits < least:
        raise PlanError(f"noise: {meters} meters need a scale of 2^{least}, not 2^{scale_bits}")
    if scale_bits > greatest:
        raise PlanError(
            f"wrap: {meters} meters of {largest} allow a scale of 2^{greatest}, not 2^{scale_bits}"
        )


def _limit(parameters: CkksParameters, meters: int, largest: int, ckks: CkksSettings) -> str | None:
    """Why no scale is exact for so many meters, or None when one is."""
    if meters * largest > 2**_DOUBLE_BITS:
        return "doubles"
    least, greatest = _scale_range(parameters, meters, largest, ckks)
    return "noise against wrap" if least > greatest else None


def capacity(parameters: CkksParameters, largest: int, ckks: CkksSettings) -> int:
    """The most meters whose slots of up to `largest` this ring sums exactly; 0 if not even one.

    Both limits only tighten as meters are added, so a bisection finds it.
    """
    low, high = 0, 2**_DOUBLE_BITS + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _limit(parameters, middle, largest, ckks) is None:
            low = middle
        else:
            high = middle
    return low


def _edges(settings: QuantitySettings) -> tuple[int, ...]:
    if not {"min", "max", "quantiles"} & set(settings.statistics):
        return ()
    if settings.bin_edges is not None:
        return settings.bin_edges
    bins = min(settings.bins, settings.largest + 1)
    return tuple((settings.largest + 1) * i // bins for i in range(bins + 1))


def quantities_of(plan: PlanSettings) -> tuple[Quantity, ...]:
    """The plan's quantities as asked for, squares unshifted. Raises PlanError."""
    return tuple(
        Quantity(name=q.name, unit=q.unit, largest=q.largest, statistics=q.statistics, bin_edges=_edges(q))
        for q in plan.quantities
    )


def _shifted(quantities: Iterable[Quantity], bound: int) -> tuple[Quantity, ...] | None:
    """The quantities with the least square shifts that keep every slot within `bound`; None if none do."""
    kept = []
    for quantity in quantities:
        for shift in range(_SHIFT_MAX + 1):
            candidate = replace(quantity, square_shift=shift)
            if candidate.largest_slot <= bound:
                kept.append(candidate)
                break
            if not quantity.squares:
                return None
        else:
            return None
    return tuple(kept)


def _largest_slot(parameters: CkksParameters, meters: int, ckks: CkksSettings) -> int:
    """The largest slot value that `meters` can sum exactly in this ring."""
    low, high = 0, 2**_DOUBLE_BITS + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _limit(parameters, meters, middle, ckks) is None:
            low = middle
        else:
            high = middle
    return low


def _rings(ckks: CkksSettings) -> tuple[CkksParameters, ...]:
    if ckks.ring_degree is not None and ckks.prime_bits is not None:
        return (CkksParameters(ckks.ring_degree, ckks.prime_bits),)
    return RINGS if ckks.preset == "auto" else (PRESETS[ckks.preset],)


def _fit(parameters: CkksParameters, settings: Settings) -> Choice | str:
    """A choice in this ring, or why there is none."""
    plan, ckks = settings.plan, settings.ckks
    wanted = quantities_of(plan)
    used = SlotLayout(wanted, plan.window_s // plan.interval_s).used
    if used > parameters.slots:
        return f"{parameters}: {used} slots needed, it has {parameters.slots}"
    bound = _largest_slot(parameters, plan.largest_rollup, ckks)
    quantities = _shifted(wanted, bound)
    if quantities is None:
        return (
            f"{parameters}: {plan.largest_rollup} meters leave room for slots up to {bound}, "
            f"the plan needs {max(q.largest for q in wanted)}"
        )
    largest = max(q.largest_slot for q in quantities)
    least, greatest = _scale_range(parameters, plan.largest_rollup, largest, ckks)
    # Half of the spare room goes to each side: lower failure probability, and distance to a wrap.
    scale_bits = (least + greatest) // 2
    sigma = _sigma(parameters, plan.largest_rollup, ckks) / 2.0**scale_bits
    room = 0.5 - plan.largest_rollup * largest * 2.0**-_DECODE_BITS
    most = capacity(parameters, largest, ckks)
    return Choice(
        parameters=parameters,
        scale_bits=scale_bits,
        quantities=quantities,
        slots_used=used,
        meters=plan.largest_rollup,
        capacity=most,
        limit=_limit(parameters, most + 1, largest, ckks) or "none",
        error_sigma=sigma,
        failure_log2=_log2_tail(room / sigma),
        rejected=(),
    )


def _log2_tail(sigmas: float) -> float:
    """log2 of the chance that a normal variable is further than so many standard deviations out.

    erfc underflows from about 38 sigmas on; its asymptote exp(-x^2/2) * sqrt(2/pi) / x serves beyond 20.
    """
    if sigmas < 20:
        return math.log2(math.erfc(sigmas / math.sqrt(2)))
    return (-(sigmas**2) / 2 - math.log(sigmas) + 0.5 * math.log(2 / math.pi)) / math.log(2)


def choose(settings: Settings) -> Choice:
    """The smallest ring on the wire that gives the settings' plan exactly.

    Raises PlanError with the reasons and the nearest plan that can be exact.
    """
    rejected: list[str] = []
    found: list[Choice] = []
    for parameters in _rings(settings.ckks):
        if found and parameters.wire_bytes > found[0].parameters.wire_bytes:
            break
        fit = _fit(parameters, settings)
        if isinstance(fit, Choice):
            found.append(fit)
        else:
            rejected.append(fit)
    if found:
        # Of rings that weigh the same, the one that keeps squares finest; of those, the first listed.
        best = min(found, key=lambda choice: sum(q.square_shift for q in choice.quantities))
        return replace(best, rejected=tuple(rejected))
    nearest = next((text for text in _nearer(settings)), "none nearby; use smaller windows or readings")
    raise PlanError(f"no exact plan. {'; '.join(rejected)}. Nearest plan that can: {nearest}")


def _nearer(settings: Settings) -> Iterator[str]:
    """Plans close to the one that was refused, the least change first."""
    plan, ckks = settings.plan, settings.ckks
    if ckks.preset != "auto" or ckks.ring_degree is not None:
        free = settings.model_copy(
            update={"ckks": CkksSettings(flooding_bits=ckks.flooding_bits, decryptions=ckks.decryptions)}
        )
        for parameters in RINGS:
            if isinstance(_fit(parameters, free), Choice):
                yield f"ckks.preset auto (it takes {parameters})"
                break
    wanted = quantities_of(plan)
    used = SlotLayout(wanted, plan.window_s // plan.interval_s).used
    for parameters in reversed(_rings(ckks)):
        if used <= parameters.slots:
            most = capacity(parameters, max(q.largest for q in wanted), ckks)
            if most >= plan.minimum_meters:
                yield f"plan.largest_rollup {most} in {parameters}"
            bound = _largest_slot(parameters, plan.largest_rollup, ckks)
            if bound >= 1:
                yield f"quantities with largest {bound} in {parameters}"
            break
    else:
        slots = max(parameters.slots for parameters in _rings(ckks))
        blocks = used * plan.interval_s // plan.window_s
        for intervals in range(min(slots // blocks, plan.window_s), 0, -1):
            if plan.window_s % intervals == 0:
                yield f"plan.interval_s {plan.window_s // intervals} ({intervals} intervals in {slots} slots)"
                break
        else:
            yield f"at most {slots} blocks of slots per window: fewer bins or quantities"


def make_plan(settings: Settings, choice: Choice, *, authority: str, key_id: str, first_window: int) -> Plan:
    """The plan record of a choice. Raises PlanError."""
    plan = settings.plan
    largest = max(q.largest_slot for q in choice.quantities)
    check_exact(choice.parameters, choice.scale_bits, plan.largest_rollup, largest, settings.ckks)
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
    )
