"""Capacities: exact at them with real ciphertexts, refused one step beyond, garbage where a sum wraps."""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tenseal as ts
from numpy.typing import NDArray

from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.errors import PlanError
from gridhe.keyring.release.decrypt import Decryptor
from gridhe.plan.exactness import (
    capacity,
    check_exact,
    grid_tolerance,
    largest_slot,
    limit,
    rounding_room,
    scale_range,
)
from gridhe.plan.parameters import PRESETS, RINGS, CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.planner import choose, make_plan
from gridhe.wire.planes import Planes
from gridhe.wire.tenseal_format import from_tenseal

CLEAR, FLOODED = CkksSettings(flooding_bits=0), CkksSettings(flooding_bits=40)
# The four rings of the design's table, each with what it is for and readings so large that its capacity is
# some hundred meters; the first three are bound by noise, the last by what doubles carry.
FOUR = [
    pytest.param(RINGS[0], 0, 16_500, False, id="2048 without flooding"),
    pytest.param(RINGS[1], 0, 230_000, True, id="4096 [32, 32, 20] without flooding"),
    pytest.param(RINGS[2], 40, 85_000, True, id="4096 [48, 41, 20] flooded"),
    pytest.param(RINGS[5], 40, 750_000, True, id="8192 [48, 48, 48, 20] flooded"),
]


def settings_of(
    parameters: CkksParameters, flooding_bits: int, largest: int, squares: bool, meters: int
) -> Settings:
    return Settings(
        ckks=CkksSettings(
            flooding_bits=flooding_bits, ring_degree=parameters.ring_degree, prime_bits=parameters.prime_bits
        ),
        plan=PlanSettings(
            # Two blocks, or three: a fifth of the slots at most, which leaves enough guards at any tolerance.
            window_s=600 * (parameters.slots // 15),
            interval_s=600,
            quantities=(
                QuantitySettings(largest=largest, statistics=("variance",) if squares else ("sum",)),
            ),
            largest_group=2,
            largest_rollup=meters,
            minimum_meters=2,
            small_groups="accepted",
        ),
    )


@dataclass
class World:
    """A plan at its ring's capacity, and who can decrypt its totals."""

    plan: Plan
    context: ts.Context
    decryptor: Decryptor

    def encrypt(self, slots: NDArray[np.int64]) -> NDArray[np.uint64]:
        padded = np.zeros(self.plan.parameters.slots)
        padded[: len(slots)] = slots
        vector = ts.ckks_vector(self.context, padded, self.plan.scale)
        return from_tenseal(vector.serialize(), self.plan.parameters, self.plan.scale)

    def released(self, residues: NDArray[np.uint64]) -> NDArray[np.int64]:
        ciphertext = Planes(self.plan.parameters).pack(residues)
        return self.decryptor.flood(self.decryptor.decode(ciphertext), ciphertext)


@functools.cache
def world_at(parameters: CkksParameters, flooding_bits: int, largest: int, squares: bool) -> World:
    ckks = CkksSettings(flooding_bits=flooding_bits)
    meters = capacity(parameters, largest**2 if squares else largest, ckks)
    settings = settings_of(parameters, flooding_bits, largest, squares, meters)
    choice = choose(settings)
    assert choice.capacity == choice.meters == meters
    assert not any(q.square_shift for q in choice.quantities)
    plan = make_plan(settings, choice, authority="a" + "0" * 16, key_id="k" + "0" * 16, first_window=0)
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        parameters.ring_degree,
        coeff_mod_bit_sizes=list(parameters.prime_bits),
        n_threads=1,
    )
    secret = context.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return World(plan, context, Decryptor(plan, secret, bytes(32), bytes(32)))


@pytest.mark.parametrize(("parameters", "flooding_bits", "largest", "squares"), FOUR)
def test_at_the_stated_capacity_100_random_totals_are_exact(
    parameters: CkksParameters, flooding_bits: int, largest: int, squares: bool
) -> None:
    world = world_at(parameters, flooding_bits, largest, squares)
    plan, meters = world.plan, world.plan.largest_rollup
    assert 70 <= meters <= 200, "a capacity that can be reached here"
    rng = np.random.default_rng(8)
    top = max(q.largest_slot for q in plan.quantities)
    # Half again as many distinct ciphertexts as meters; every total sums another random choice of them. Slots
    # are at their largest, zero or anything between, and some are at their largest for every meter.
    pool = meters + meters // 2
    slots = rng.choice([0, top, -1], (pool, plan.layout.used), p=[0.2, 0.5, 0.3])
    slots = np.where(slots < 0, rng.integers(0, top, slots.shape, endpoint=True), slots)
    slots[:, :: plan.layout.used // 7] = top
    residues = np.stack([world.encrypt(row) for row in slots])
    primes = np.array(parameters.primes, np.uint64)[:, None]
    whole, whole_slots = residues.sum(axis=0), slots.sum(axis=0)  # 300 * 2^48 < 2^64
    for _ in range(100):
        left_out = rng.permutation(pool)[meters:]
        total = (whole - residues[left_out].sum(axis=0)) % primes
        np.testing.assert_array_equal(world.released(total), whole_slots - slots[left_out].sum(axis=0))


@pytest.mark.parametrize(("parameters", "flooding_bits", "largest", "squares"), FOUR)
def test_one_meter_beyond_the_stated_capacity_is_refused(
    parameters: CkksParameters, flooding_bits: int, largest: int, squares: bool
) -> None:
    top = largest**2 if squares else largest
    ckks = CkksSettings(flooding_bits=flooding_bits)
    maximum = capacity(parameters, top, ckks)
    assert limit(parameters, maximum, top, ckks) is None
    assert limit(parameters, maximum + 1, top, ckks) == (
        "doubles" if parameters == RINGS[5] else "noise against wrap"
    )
    check_exact(parameters, scale_range(parameters, maximum, top, ckks)[0], maximum, top, ckks)
    for scale_bits in range(1, 121):
        with pytest.raises(PlanError):
            check_exact(parameters, scale_bits, maximum + 1, top, ckks)
    beyond = settings_of(parameters, flooding_bits, largest, squares, maximum + 1)
    if squares:  # the planner makes room by coarser squares, and says so
        assert [q.square_shift for q in choose(beyond).quantities] == [1]
    else:
        with pytest.raises(PlanError, match=f"{maximum + 1} meters leave room for slots up to"):
            choose(beyond)


@pytest.mark.parametrize(("parameters", "flooding_bits", "largest", "squares"), FOUR[:3])
def test_the_greatest_scale_does_not_wrap_and_one_bit_more_does(
    parameters: CkksParameters, flooding_bits: int, largest: int, squares: bool
) -> None:
    world = world_at(parameters, flooding_bits, largest, squares)
    meters = world.plan.largest_rollup
    top, ckks = (largest**2 if squares else largest), CkksSettings(flooding_bits=flooding_bits)
    _, greatest = scale_range(parameters, meters, top, ckks)
    check_exact(parameters, greatest, meters, top, ckks)
    # The worst case for a wrap: every slot of every meter at its largest, which is one large coefficient. A
    # sum of as many as possible, in four ciphertexts: SEAL encodes nothing that comes near to wrapping alone.
    whole = np.full(parameters.slots, meters * top // 4 * 4)
    primes = np.array(parameters.primes, np.uint64)[:, None]
    for scale_bits, wraps in ((greatest, False), (greatest + 1, True)):
        if wraps:  # the largest sum below the next limit: between once and twice what is allowed
            whole = np.full(parameters.slots, (parameters.modulus // 2 ** (scale_bits + 1) + 8) // 4 * 4)
        there = replace(world.plan, scale_bits=scale_bits)
        other = World(there, world.context, Decryptor(there, secret_of(world.context), bytes(32), bytes(32)))
        total = np.sum([other.encrypt(whole // 4) for _ in range(4)], axis=0) % primes
        found = other.released(total)
        assert np.array_equal(found, whole[: there.layout.used]) is not wraps


def secret_of(context: ts.Context) -> bytes:
    found: bytes = context.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return found


@pytest.mark.parametrize("ckks", [CLEAR, FLOODED, CkksSettings(flooding_bits=64, decryptions=2**40)], ids=str)
@pytest.mark.parametrize("parameters", [*RINGS, *PRESETS.values()], ids=str)
def test_capacities_and_largest_slots_are_the_last_that_fit(
    parameters: CkksParameters, ckks: CkksSettings
) -> None:
    for largest in (1, 20_000, 4 * 10**8, 2**46):
        maximum = capacity(parameters, largest, ckks)
        assert maximum == 0 or limit(parameters, maximum, largest, ckks) is None
        assert limit(parameters, maximum + 1, largest, ckks) is not None
    for meters in (1, 1_000, 10**7):
        top = largest_slot(parameters, meters, ckks)
        assert top == 0 or limit(parameters, meters, top, ckks) is None
        assert limit(parameters, meters, top + 1, ckks) is not None


def test_each_limit_refuses_in_its_own_name() -> None:
    ring = RINGS[2]
    minimum, greatest = scale_range(ring, 100, 1_000, FLOODED)
    assert minimum < greatest
    for scale_bits in (minimum, greatest):
        check_exact(ring, scale_bits, 100, 1_000, FLOODED)
    with pytest.raises(PlanError, match=f"noise: 100 meters need a scale of 2.{minimum},"):
        check_exact(ring, minimum - 1, 100, 1_000, FLOODED)
    with pytest.raises(PlanError, match=f"wrap: 100 meters of 1000 allow a scale of 2.{greatest},"):
        check_exact(ring, greatest + 1, 100, 1_000, FLOODED)
    check_exact(RINGS[5], 60, 2**16, 2**30, CLEAR)
    with pytest.raises(PlanError, match="doubles"):
        check_exact(RINGS[5], 60, 2**16, 2**30 + 1, CLEAR)


def test_the_wrap_limit_is_that_of_the_primes_in_whole_numbers() -> None:
    ring = RINGS[2]
    for meters, largest in ((1, 1), (1_000, 20_000), (7, 12_345)):
        _, greatest = scale_range(ring, meters, largest, CLEAR)
        assert 2 * 2**greatest * meters * largest < ring.modulus <= 2 * 2 ** (greatest + 1) * meters * largest


def test_repro_a_sum_so_close_to_the_wrap_that_noise_carries_it_over_does_not_fit() -> None:
    ring = RINGS[0]
    # Without its noise this sum would stay below Q / 2 by less than 100, at a scale of 2.
    largest = ring.modulus // 4 - 10
    assert 2 * 2 * largest < ring.modulus
    _, greatest = scale_range(ring, 1, largest, CLEAR)
    assert greatest < 1
    # ... and by enough once there is room for 9.3 standard deviations of a coefficient, 10.7.
    assert scale_range(ring, 1, largest - 50, CLEAR)[1] == 1


def test_decoding_doubles_leaves_less_room_for_noise() -> None:
    assert rounding_room(1, 1) == pytest.approx(0.5)
    assert rounding_room(2**10, 2**36) == 0.5 - 2.0**-4
    assert rounding_room(2**10, 2**39) == 0.0


@pytest.mark.parametrize("parameters", [RINGS[2], RINGS[5], RINGS[7]], ids=str)
def test_what_tenseals_doubles_lose_stays_below_what_the_room_allows_for(parameters: CkksParameters) -> None:
    """Encode and decode slots of up to 2^46 with so fine a scale that noise does not show."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        parameters.ring_degree,
        coeff_mod_bit_sizes=list(parameters.prime_bits),
        n_threads=1,
    )
    rng = np.random.default_rng(9)
    scale = 2.0 ** (parameters.modulus.bit_length() - 48)
    for slots in (
        rng.integers(0, 2**46, parameters.slots),
        np.full(parameters.slots, 2**46),
        rng.choice([0, 2**46], parameters.slots),
    ):
        found = np.array(ts.ckks_vector(context, slots.astype(float).tolist(), scale).decrypt())
        lost = np.abs(found - slots).max()
        assert lost < 0.5 - rounding_room(1, 2**46)


def test_the_tolerance_is_the_bound_on_the_slot_error_without_flooding() -> None:
    choice = choose(Settings())
    plan = make_plan(Settings(), choice, authority="a" + "0" * 16, key_id="k" + "0" * 16, first_window=0)
    assert (plan.scale_bits, plan.parameters.ring_degree) == (51, 4096)
    for meters in (1, 5, 1_000):
        fresh = 32 * math.sqrt((1 + 2 * 4096 / 3) / 12) * math.sqrt(meters) * math.sqrt(2048) / 2**51
        assert grid_tolerance(plan, meters) == pytest.approx(fresh + meters * 20_000**2 / 2**50, rel=1e-12)
    assert math.log2(grid_tolerance(plan, 5)) == pytest.approx(-19.1, abs=0.05)
    assert math.log2(grid_tolerance(plan, 1_000)) == pytest.approx(-11.5, abs=0.05)


def test_guards_count_in_the_tolerance_of_a_plan_with_small_readings() -> None:
    wanted = Settings(plan=PlanSettings(quantities=(QuantitySettings(largest=1, statistics=("sum",)),)))
    plan = make_plan(wanted, choose(wanted), authority="a" + "0" * 16, key_id="k" + "0" * 16, first_window=0)
    assert grid_tolerance(plan, 1_000) > 1_000 * 2**14 / 2**50
