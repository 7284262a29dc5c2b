"""Guards: sums of honest batches pass, and any other batch, presence or proof gives other guards."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gridhe.plan.guards import Guards, GuardSums, guard_key, home_key
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import PROOF_SIV_BYTES, TAGS, Plan
from gridhe.plan.quantity import Quantity
from gridhe_testing import second_guards

SECRET = bytes(range(32))
HOME = home_key(SECRET)
WINDOW = 19_700
LARGEST = {14: 9_000, 16: 2**20}


def plan_of(*, quantities: int = 1, intervals: int = 24, guard_bits: int = 14, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "authority": "a" + "0" * 16,
        "key_id": "k" + "0" * 16,
        "first_window": 0,
        "window_s": intervals * 900,
        "interval_s": 900,
        "quantities": tuple(
            Quantity(name=f"q{i}", unit="Wh", largest=LARGEST[guard_bits], statistics=("sum", "mean"))
            for i in range(quantities)
        ),
        "largest_group": 1_000,
        "largest_rollup": 10_000_000,
        "minimum_meters": 2,
        "grace_s": 1.0,
        "late_s": 1.0,
        "early_s": 1.0,
        "horizon_s": 1.0,
        "parameters": CkksParameters(4096, (48, 41, 20)),
        "scale_bits": 20,
        "flooding_bits": 0,
        "decryptions": 1,
        "guard_bits": guard_bits,
    }
    return Plan(**{**fields, **changes})


def readings(plan: Plan, seed: int, missing: float = 0.2) -> dict[str, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    found = {}
    for quantity in plan.quantities:
        values = rng.integers(0, quantity.largest + 1, plan.intervals)
        values[rng.random(plan.intervals) < missing] = -1
        found[quantity.name] = values
    return found


def bits_of(plan: Plan, values: dict[str, NDArray[np.int64]]) -> list[int]:
    return [int(one >= 0) for quantity in plan.quantities for one in values[quantity.name]]


def filled(
    plan: Plan, meter: str, values: dict[str, NDArray[np.int64]], window: int = WINDOW
) -> tuple[NDArray[np.int64], bytes]:
    used = plan.layout.encode(values)
    return Guards(plan).fill(window, used, guard_key=guard_key(SECRET, meter), home_key=HOME)


PLANS = st.builds(
    plan_of,
    quantities=st.integers(1, 16),
    intervals=st.sampled_from([1, 5, 7, 8, 24]),
    guard_bits=st.sampled_from([14, 16]),
)


# -- ChaCha20 and the second implementation ------------------------------------------------------------


def test_the_second_chacha20_gives_the_test_vectors_of_the_rfc() -> None:
    # RFC 8439, 2.3.2, and A.1, test vectors 1 and 2.
    block = second_guards.chacha20(bytes(range(32)), 64, 1, bytes.fromhex("000000090000004a00000000"))
    assert block.hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )
    zeros = second_guards.chacha20(bytes(32), 128)
    assert zeros.hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )


def test_the_second_hkdf_gives_the_test_vector_of_the_rfc() -> None:
    # RFC 5869, A.3: no salt, no info; the first 32 of its 42 bytes.
    found = second_guards.hkdf(b"\x0b" * 22, b"")
    assert found.hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"


@given(PLANS, st.integers(0, 2**32), st.integers(0, 2**48 - 1))
@settings(max_examples=20, deadline=None)
def test_two_implementations_fill_the_same_slots(plan: Plan, seed: int, window: int) -> None:
    values = readings(plan, seed)
    slots, proof = filled(plan, "m1", values, window)
    second, second_proof = second_guards.fill(
        plan.layout.encode(values).tolist(),
        bits_of(plan, values),
        k=second_guards.guard_key(SECRET, "m1"),
        h=second_guards.home_key(SECRET),
        ctx=second_guards.context(plan.plan_id, window),
        slots=plan.parameters.slots,
        guard_bits=plan.guard_bits,
    )
    assert slots.tolist() == second
    assert proof == second_proof
    assert len(proof) == plan.proof_bytes


# -- what the authority computes -----------------------------------------------------------------------


@given(PLANS, st.integers(0, 2**32), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_sums_of_batches_are_the_sums_that_the_authority_computes(plan: Plan, seed: int, count: int) -> None:
    guards, total = Guards(plan), np.zeros(plan.parameters.slots, np.int64)
    members, present = [], np.zeros((len(plan.quantities), plan.intervals), np.int64)
    for number in range(count):
        values = readings(plan, seed + number)
        slots, proof = filled(plan, f"m{number}", values)
        assert slots.min() >= 0
        assert slots[plan.layout.used :].max() < 2**plan.guard_bits
        total += slots
        present += np.array(bits_of(plan, values)).reshape(present.shape)
        members.append((guard_key(SECRET, f"m{number}"), proof))
    sums = guards.sums(WINDOW, members)
    assert sums.meters == count
    assert np.array_equal(sums.present, present)
    assert np.array_equal(sums.guards[:-TAGS], total[plan.layout.used : -TAGS])
    assert not guards.tag_faults(WINDOW, total, sums.guards, HOME).any()


@pytest.mark.parametrize("quantities", range(1, 17))
def test_presence_has_a_bit_for_each_quantity_and_interval_in_the_order_of_slots(quantities: int) -> None:
    plan = plan_of(quantities=quantities, intervals=5)
    guards, key = Guards(plan), guard_key(SECRET, "m1")
    for at in range(quantities * 5):
        values = {quantity.name: np.full(5, -1) for quantity in plan.quantities}
        values[f"q{at // 5}"][at % 5] = 7
        _, proof = filled(plan, "m1", values)
        wanted = np.zeros((quantities, 5), np.int64)
        wanted[at // 5, at % 5] = 1
        assert np.array_equal(guards.prove(WINDOW, proof, key).present, wanted)
        assert len(proof) == PROOF_SIV_BYTES + -(-quantities * 5 // 8)


def test_sums_add_up_whatever_the_order() -> None:
    plan = plan_of(intervals=5)
    guards = Guards(plan)
    members = [(guard_key(SECRET, f"m{i}"), filled(plan, f"m{i}", readings(plan, i))[1]) for i in range(6)]
    whole = guards.sums(WINDOW, members)
    for split in range(7):
        both = guards.sums(WINDOW, members[split:]) + guards.sums(WINDOW, members[:split])
        assert isinstance(both, GuardSums)
        assert both.meters == whole.meters == 6
        assert np.array_equal(both.present, whole.present)
        assert np.array_equal(both.guards, whole.guards)


# -- no overflow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("guard_bits", [14, 16])
@pytest.mark.parametrize("meters", [2, 1_000, 10_000_000])
def test_tags_of_the_largest_sums_fit(guard_bits: int, meters: int) -> None:
    # The most meters that a plan allows, each with the largest number that any slot may hold, in most slots.
    plan = plan_of(
        guard_bits=guard_bits,
        intervals=8_000,
        window_s=8_000 * 300,
        interval_s=300,
        parameters=CkksParameters(32_768, (60, 60)),
    )
    guards, used = Guards(plan), plan.layout.used
    assert used == 16_000
    largest = 2**62 // meters  # so that the sum itself still fits an int64
    values = np.full(used, largest, np.int64)
    slots, proof = guards.fill(WINDOW, values, guard_key=guard_key(SECRET, "m1"), home_key=HOME)
    ctx, primes = second_guards.context(plan.plan_id, WINDOW), second_guards.primes(guard_bits)
    alpha = second_guards.alpha(second_guards.home_key(SECRET), ctx, used, guard_bits)
    own = guards.prove(WINDOW, proof, guard_key(SECRET, "m1")).guards
    for i, p in enumerate(primes):
        checksum = sum(row[i] for row in alpha) * largest  # Python's integers have no limit
        assert slots[-TAGS + i] == (int(own[-TAGS + i]) + checksum) % p
    # `meters` times this batch, as if that many meters had the same guards.
    assert not guards.tag_faults(WINDOW, slots * meters, own * meters, HOME).any()


# -- anything else is noticed --------------------------------------------------------------------------


def test_other_readings_give_another_siv_and_other_guards() -> None:
    plan = plan_of(intervals=24)
    first = readings(plan, 1, missing=0)
    slots, proof = filled(plan, "m1", first)
    for change in (lambda v: v + 1, lambda v: -1):
        second = {"q0": first["q0"].copy()}
        second["q0"][5] = change(second["q0"][5])
        other_slots, other_proof = filled(plan, "m1", second)
        assert proof[:PROOF_SIV_BYTES] != other_proof[:PROOF_SIV_BYTES]
        guards, others = slots[plan.layout.used :], other_slots[plan.layout.used :]
        assert (guards != others).mean() > 0.99
    again = filled(plan, "m1", first)
    assert np.array_equal(again[0], slots)
    assert again[1] == proof


OTHERS: dict[str, Callable[[Plan], tuple[Guards, int, str]]] = {
    "window": lambda plan: (Guards(plan), WINDOW + 1, "m1"),
    "meter": lambda plan: (Guards(plan), WINDOW, "m2"),
    "plan": lambda plan: (Guards(plan_of(intervals=24, grace_s=2.0)), WINDOW, "m1"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_window_meter_or_plan_has_other_guards(other: str) -> None:
    plan = plan_of(intervals=24)
    slots, proof = filled(plan, "m1", readings(plan, 1))
    guards, window, meter = OTHERS[other](plan)
    found = guards.prove(window, proof, guard_key(SECRET, meter)).guards
    assert (found != slots[plan.layout.used :]).mean() > 0.99


def test_each_changed_bit_of_a_proof_changes_guards_and_a_presence_bit_changes_the_presence() -> None:
    plan = plan_of(intervals=24)
    guards, key = Guards(plan), guard_key(SECRET, "m1")
    slots, proof = filled(plan, "m1", readings(plan, 1))
    own = guards.prove(WINDOW, proof, key)
    assert np.array_equal(own.guards[:-TAGS], slots[plan.layout.used : -TAGS])
    for bit in range(8 * len(proof)):
        changed = bytearray(proof)
        changed[bit // 8] ^= 1 << bit % 8
        found = guards.prove(WINDOW, bytes(changed), key)
        assert (found.guards != own.guards).mean() > 0.99
        if bit >= 8 * PROOF_SIV_BYTES:
            assert np.abs(found.present - own.present).sum() == 1


@given(st.integers(0, 47), st.integers(1, 2**40), st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_changed_sum_shows_in_the_tags_without_the_home_key(at: int, delta: int, negative: bool) -> None:
    plan = plan_of(intervals=24)
    guards, total, members = Guards(plan), np.zeros(plan.parameters.slots, np.int64), []
    for number in range(3):
        slots, proof = filled(plan, f"m{number}", readings(plan, number))
        total += slots
        members.append((guard_key(SECRET, f"m{number}"), proof))
    expected = guards.sums(WINDOW, members).guards
    total[at] += -delta if negative else delta
    faults = guards.tag_faults(WINDOW, total, expected, HOME)
    # Eight tags modulo two primes: with a coefficient of 0 one of them may fail to notice.
    assert (faults[::2] != 0).sum() + (faults[1::2] != 0).sum() >= 3


def test_tags_need_the_home_key_and_the_window() -> None:
    plan = plan_of(intervals=24)
    guards = Guards(plan)
    slots, proof = filled(plan, "m1", readings(plan, 1))
    expected = guards.sums(WINDOW, [(guard_key(SECRET, "m1"), proof)]).guards
    assert not guards.tag_faults(WINDOW, slots, expected, HOME).any()
    assert guards.tag_faults(WINDOW, slots, expected, home_key(bytes(32))).all()
    assert guards.tag_faults(WINDOW + 1, slots, expected, HOME).all()
    assert not guards.tag_faults(WINDOW, slots, expected, HOME).any()  # the cache follows window and key


# -- keys and shapes -----------------------------------------------------------------------------------


def test_every_meter_and_every_secret_has_a_key_of_its_own() -> None:
    secrets = [bytes(range(32)), bytes(32)]
    keys = [guard_key(secret, meter) for secret in secrets for meter in ("m1", "m2", "m12")]
    keys += [home_key(secret) for secret in secrets]
    assert len(set(keys)) == 8
    assert {len(key) for key in keys} == {32}
    assert guard_key(SECRET, "m1") == second_guards.guard_key(SECRET, "m1")
    assert home_key(SECRET) == second_guards.home_key(SECRET)


@pytest.mark.parametrize(
    "used",
    [np.zeros(47, np.int64), np.zeros(49, np.int64), np.zeros(48, np.float64), np.zeros((1, 48), np.int64)],
)
def test_slots_of_another_shape_or_type_are_refused(used: Any) -> None:
    with pytest.raises(ValueError, match=r"expected int64\[48\]"):
        Guards(plan_of(intervals=24)).fill(WINDOW, used, guard_key=bytes(32), home_key=HOME)


def test_guards_are_uniform() -> None:
    # 100 batches, 204,800 words: each of 16 equal ranges gets its share to within 5 deviations.
    plan = plan_of(intervals=24)
    counts = np.zeros(16, np.int64)
    for number in range(100):
        slots, _ = filled(plan, f"m{number}", readings(plan, number))
        counts += np.bincount(slots[plan.layout.used : -TAGS] >> 10, minlength=16)
    expected = counts.sum() / 16
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
