"""The planner: the smallest exact ring, or a refusal whose nearest plan really is one."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.errors import PlanError
from gridhe.plan.exactness import capacity, check_exact, scale_range
from gridhe.plan.parameters import PRESETS, RINGS
from gridhe.plan.plan import Plan
from gridhe.plan.planner import Choice, choose, make_plan, nearest, quantities_of
from gridhe.plan.soundness import bits_to_spare

FEW = {"largest_rollup": 100, "largest_group": 100}
ALL = ("sum", "mean", "variance", "min", "max", "quantiles")


def settings_of(ckks: dict[str, Any] | None = None, **plan: Any) -> Settings:
    if plan.get("minimum_meters", 10) < 10:
        plan["small_groups"] = "accepted"
    quantity = {
        name: plan.pop(name) for name in ("largest", "statistics", "bins", "bin_edges") if name in plan
    }
    return Settings(
        ckks=CkksSettings(**(ckks or {})),
        plan=PlanSettings(quantities=(QuantitySettings(**quantity),), **plan),
    )


def planned(wanted: Settings, choice: Choice) -> Plan:
    return make_plan(wanted, choice, authority="a" + "0" * 16, key_id="k" + "0" * 16, first_window=3)


def test_the_shipped_settings_take_the_default_ring_with_unshifted_squares() -> None:
    choice = choose(Settings())
    assert (choice.parameters.ring_degree, choice.parameters.wire_bytes) == (4096, 98_304)
    assert choice.capacity >= choice.meters == 1_000
    assert choice.failure_log2 < -64
    assert choice.explain()["square_shifts"] == {"import_wh": 0}


@pytest.mark.parametrize(
    ("ckks", "plan", "ring"),
    [
        ({"flooding_bits": 0}, {"largest": 4_000, "statistics": ("sum",), **FEW}, RINGS[0]),
        ({"flooding_bits": 0}, {"largest": 20_000}, RINGS[1]),
        ({}, {"statistics": ("sum",)}, RINGS[2]),
        ({}, {}, RINGS[3]),
        ({}, {"interval_s": 900}, RINGS[4]),  # 1,824 slots of 4,096
        ({}, {"largest_rollup": 10**6}, RINGS[3]),
        ({}, {"interval_s": 900, "bins": 30}, RINGS[6]),
        ({}, {"interval_s": 900, "bins": 39}, RINGS[7]),  # 4,032 of 8,192 slots would leave too few guards
        ({"preset": "medium"}, {}, PRESETS["medium"]),
        ({"preset": "strong"}, {}, PRESETS["strong"]),
        ({"preset": "maximum"}, {}, PRESETS["maximum"]),
        ({"ring_degree": 8192, "prime_bits": (48, 48, 48, 20)}, {}, RINGS[5]),
    ],
)  # fmt: skip
def test_the_planner_takes_the_ring_expected(
    ckks: dict[str, Any], plan: dict[str, Any], ring: object
) -> None:
    choice = choose(settings_of(ckks, **plan))
    assert choice.parameters == ring


def test_of_rings_that_weigh_the_same_the_one_with_finer_squares_is_taken() -> None:
    # 48, 41 would do with squares shifted once more.
    narrow = choose(settings_of({"ring_degree": 4096, "prime_bits": (48, 41, 20)}, largest_rollup=1_000))
    wide = choose(settings_of(largest_rollup=1_000))
    assert narrow.parameters.wire_bytes == wide.parameters.wire_bytes
    assert sum(q.square_shift for q in narrow.quantities) > sum(q.square_shift for q in wide.quantities)


some_ckks = st.one_of(
    st.fixed_dictionaries(
        {
            "flooding_bits": st.sampled_from([0, 1, 20, 40, 64]),
            "decryptions": st.sampled_from([1, 2**18, 2**40]),
        }
    ),
    st.sampled_from(
        [
            {"preset": "light"},
            {"preset": "medium", "flooding_bits": 0},
            {"ring_degree": 2048, "prime_bits": (40, 14)},
            {"ring_degree": 2048, "prime_bits": (27, 27), "flooding_bits": 0},
        ]
    ),
)


@st.composite
def some_settings(draw: st.DrawFn) -> Settings:
    group, interval_s = (
        draw(st.sampled_from([2, 5, 37, 1_000, 100_000])),
        draw(st.sampled_from([1, 60, 900, 3_600])),
    )
    return settings_of(
        draw(some_ckks),
        largest_group=group,
        largest_rollup=group + draw(st.sampled_from([0, 1, 10**6, 9 * 10**6])),
        minimum_meters=draw(st.sampled_from([2, 5, 30])),
        interval_s=interval_s,
        window_s=interval_s * draw(st.sampled_from([1, 24, 96, 744])),
        largest=draw(st.one_of(st.integers(1, 2**32), st.sampled_from([1, 2, 20_000, 2**32]))),
        statistics=draw(st.sampled_from([("sum",), ("variance",), ("max",), ALL])),
        bins=draw(st.sampled_from([2, 16, 100, 1_024])),
    )


@given(some_settings())
@settings(max_examples=150, deadline=None)
def test_any_settings_get_an_exact_plan_or_a_refusal_with_a_nearest_plan(wanted: Settings) -> None:
    found = nearest(wanted)
    try:
        choice = choose(wanted)
    except PlanError as error:
        message = str(error)
    else:
        assert_exact(wanted, choice)
        return
    assert found is not None, f"there is always some plan nearby: {message}"
    text, changed = found
    assert f"Nearest exact plan: {text}" in message
    assert "\n" not in message
    assert_exact(changed, choose(changed))
    applied = choose(as_said(wanted, text))
    assert applied.parameters == choose(changed).parameters


def assert_exact(wanted: Settings, choice: Choice) -> None:
    largest = max(2**choice.guard_bits, *(q.largest_slot for q in choice.quantities))
    check_exact(choice.parameters, choice.scale_bits, wanted.plan.largest_rollup, largest, wanted.ckks)
    assert choice.failure_log2 < -64
    assert choice.capacity >= wanted.plan.largest_rollup
    assert choice.slots_used <= choice.most_slots < choice.parameters.slots
    assert choice.spare_bits >= 0
    for quantity in choice.quantities:  # squares are no coarser than they must be
        if quantity.square_shift:
            finer = (quantity.largest >> (quantity.square_shift - 1)) ** 2
            scales = range(1, 121)
            assert not any(fits(choice, scale_bits, wanted, finer) for scale_bits in scales)
    if wanted.plan.minimum_meters <= wanted.plan.largest_rollup:
        plan = planned(wanted, choice)
        assert (plan.parameters, plan.scale_bits, plan.first_window) == (
            choice.parameters,
            choice.scale_bits,
            3,
        )
        assert Plan.decode(plan.encode()) == plan


def fits(choice: Choice, scale_bits: int, wanted: Settings, largest: int) -> bool:
    try:
        check_exact(choice.parameters, scale_bits, wanted.plan.largest_rollup, largest, wanted.ckks)
    except PlanError:
        return False
    return True


def as_said(wanted: Settings, text: str) -> Settings:
    """The settings changed as the words say, as a user would."""
    ckks, plan = wanted.ckks.model_dump(), wanted.plan.model_dump()
    words = text.partition(" (in ")[0]
    for change in re.split(r" and (?=plan\.|quantities)", words):
        if change.startswith("ckks.preset auto"):
            ckks |= {"preset": "auto", "ring_degree": None, "prime_bits": None}
        elif found := re.fullmatch(r"plan\.(\w+) (\d+)", change):
            assert plan[found[1]] != int(found[2])
            plan[found[1]] = int(found[2])
        elif found := re.fullmatch(r"quantities with (largest|bins) (\d+)", change):
            for quantity in plan["quantities"]:
                quantity[found[1]] = min(quantity[found[1]], int(found[2]))
        else:
            raise AssertionError(f"no way to read {change!r} of {text!r}")
    return Settings(ckks=CkksSettings.model_validate(ckks), plan=PlanSettings.model_validate(plan))


def refused(wanted: Settings) -> str:
    with pytest.raises(PlanError) as caught:
        choose(wanted)
    return str(caught.value)


def test_too_many_meters_are_refused_with_the_most_that_fit() -> None:
    wanted = settings_of(largest=2**32, statistics=("sum",), largest_rollup=10**7)
    message = refused(wanted)
    maximum = int(re.search(r"Nearest exact plan: plan\.largest_rollup (\d+) ", message)[1])  # type: ignore[index]
    assert maximum == 2**46 // 2**32
    choose(settings_of(largest=2**32, statistics=("sum",), largest_rollup=maximum))
    refused(settings_of(largest=2**32, statistics=("sum",), largest_rollup=maximum + 1))


def test_repro_a_nearest_plan_with_squares_that_no_shift_could_fit_is_not_named() -> None:
    # Squares of readings of 2^32 shifted by 12 are 2^40: 64 meters, where readings alone would allow 16,384.
    wanted = settings_of(largest=2**32, largest_rollup=100_000)
    message = refused(wanted)
    assert "plan.largest_rollup 64 and plan.largest_group 64" in message
    assert f"the plan needs {2**40}" in message
    assert choose(settings_of(largest=2**32, largest_rollup=64, largest_group=64)).capacity == 64


def test_where_even_the_fewest_meters_do_not_fit_smaller_readings_are_named() -> None:
    wanted = settings_of(
        {"ring_degree": 2048, "prime_bits": (40, 14), "flooding_bits": 0},
        largest=2**20,
        statistics=("sum",),
        minimum_meters=100,
        **FEW,
    )
    options = {text.partition(" (in ")[0] for text in all_changes(wanted)}
    assert "quantities with largest 20971" in options
    assert not any(text.startswith("plan.largest_rollup") for text in options)


def test_repro_given_bin_edges_do_not_outlive_the_largest_reading_they_end_at() -> None:
    wanted = settings_of(
        {"preset": "light", "flooding_bits": 64, "decryptions": 2**40},
        largest=10**6,
        statistics=("max",),
        bin_edges=(0, 10, 10**6 + 1),
    )
    found = nearest(wanted)
    assert found is not None
    for text, changed in all_changes(wanted).items():
        assert isinstance(choose(changed), Choice), text


def all_changes(wanted: Settings) -> dict[str, Settings]:
    """Every change the planner would try and that makes the settings exact."""
    from gridhe.plan import planner

    return {
        text: changed
        for text, changed in planner._nearer(wanted)
        if isinstance(planner._search(changed), Choice)
    }


def test_repro_a_plan_that_leaves_too_few_guards_is_refused_by_name_with_the_way_out() -> None:
    ring = {"ring_degree": 4096, "prime_bits": (48, 45, 16)}
    choose(settings_of(ring, bins=34))  # 888 slots
    wanted = settings_of(ring, bins=35)
    message = refused(wanted)
    assert "soundness: the plan needs 912 slots for data, 900 of 2048 leave enough guards" in message
    options = {text.partition(" (in ")[0] for text in all_changes(wanted)}
    assert {"quantities with bins 34", "plan.interval_s 4320"} <= options
    assert not any("largest_rollup 1 " in text for text in options)


def test_a_ring_with_too_few_guards_gives_way_to_the_next() -> None:
    choice = choose(settings_of(interval_s=900, bins=39))
    assert choice.parameters == RINGS[7]
    assert choice.rejected[-1] == (
        f"{RINGS[6]}: soundness: the plan needs 4032 slots for data, 3634 of 8192 leave enough guards"
    )
    assert choice.spare_bits >= 0
    assert choice.slots_used <= choice.most_slots


def test_a_scale_with_too_few_guards_is_lowered_within_the_exact_range() -> None:
    # In the middle of the range this ring has room for 2,480 slots of data, this plan needs 3,168.
    choice = choose(settings_of(interval_s=900, bins=30))
    assert choice.parameters == RINGS[6]
    minimum, greatest = scale_range(choice.parameters, 1_000, 20_000**2, CkksSettings())
    assert minimum <= choice.scale_bits < (minimum + greatest) // 2
    of: dict[str, Any] = {"meters": 1_000, "largest": 20_000**2, "guard_bits": 16, "used": choice.slots_used}
    assert bits_to_spare(choice.parameters, choice.scale_bits, **of) >= 0
    assert bits_to_spare(choice.parameters, choice.scale_bits + 1, **of) < 0


def test_the_explanation_says_in_words_what_guards_and_small_groups_allow() -> None:
    explained = choose(Settings()).explain()
    assert (explained["guard_bits"], explained["soundness_bits_to_spare"]) == (16, 24_468)
    assert (
        "24468 bits to spare: 456 slots hold data, 1592 hold guards, and up to 884" in explained["soundness"]
    )
    assert explained["minimum_meters"] == 10
    assert explained["small_groups"].startswith("with squares, no total of 10 meters or more")
    few = choose(settings_of(minimum_meters=2)).explain()
    assert few["small_groups"].startswith(
        "accepted by plan.small_groups: with squares, totals of fewer than 10"
    )


def test_small_readings_leave_room_for_guards_of_14_bits() -> None:
    choice = choose(settings_of(largest=1, statistics=("sum",)))
    assert choice.guard_bits == 14
    assert choice.capacity == capacity(choice.parameters, 2**14, CkksSettings())


@pytest.mark.parametrize(
    ("statistics", "least"), [(ALL, 10), (("sum", "variance"), 10), (("sum",), 5), (("sum", "max"), 5)]
)
def test_repro_few_meters_whose_readings_were_determined_need_the_word_accepted(
    statistics: tuple[str, ...], least: int
) -> None:
    def plan_of(minimum_meters: int, small_groups: str) -> Settings:
        quantity = QuantitySettings(statistics=statistics)  # type: ignore[arg-type]  # checked by pydantic
        return Settings(
            plan=PlanSettings.model_validate(
                {"quantities": (quantity,), "minimum_meters": minimum_meters, "small_groups": small_groups}
            )
        )

    assert choose(plan_of(least, "refused")).minimum_meters == least
    message = refused(plan_of(least - 1, "refused"))
    assert message.startswith(f"plan.minimum_meters {least - 1} is below {least}: ")
    assert f"set plan.minimum_meters {least}, or accept this with plan.small_groups accepted" in message
    assert ("without the statistic variance 5 are enough" in message) == (least == 10)
    assert choose(plan_of(least - 1, "accepted")).minimum_meters == least - 1


def test_too_many_slots_are_refused_with_the_shortest_interval_that_fits() -> None:
    wanted = settings_of(window_s=31 * 86_400, interval_s=60)
    message = refused(wanted)
    assert "needs 848160 slots" in message
    interval_s = int(re.search(r"Nearest exact plan: plan\.interval_s (\d+) ", message)[1])  # type: ignore[index]
    choose(settings_of(window_s=31 * 86_400, interval_s=interval_s))
    shorter = max(i for i in range(60, interval_s) if 31 * 86_400 % i == 0)
    refused(settings_of(window_s=31 * 86_400, interval_s=shorter))


def test_repro_where_no_interval_helps_fewer_bins_are_named() -> None:
    wanted = settings_of(window_s=31 * 86_400, interval_s=86_400, bins=1_024)
    message = refused(wanted)
    bins = int(re.search(r"Nearest exact plan: quantities with bins (\d+) ", message)[1])  # type: ignore[index]
    choose(settings_of(window_s=31 * 86_400, interval_s=86_400, bins=bins))
    refused(settings_of(window_s=31 * 86_400, interval_s=86_400, bins=bins + 1))


def test_a_preset_too_small_is_refused_with_the_planners_own_choice() -> None:
    message = refused(settings_of({"preset": "light"}, largest_rollup=10**6))
    assert "Nearest exact plan: ckks.preset auto (in ring 4096 [48, 45, 16]" in message
    message = refused(settings_of({"ring_degree": 2048, "prime_bits": (40, 14)}))
    assert "Nearest exact plan: ckks.preset auto, without ring_degree and prime_bits (in" in message


def test_the_refusal_names_every_ring_that_was_tried() -> None:
    message = refused(settings_of(largest=2**32, largest_rollup=10**7))
    for ring in RINGS:
        assert str(ring) in message


def test_the_choice_tells_why_smaller_rings_were_rejected() -> None:
    choice = choose(settings_of(largest_rollup=10**7))
    assert choice.parameters == RINGS[5]
    assert [text.partition(":")[0] for text in choice.rejected] == [str(ring) for ring in RINGS[:5]]
    explained = choice.explain()
    assert explained["bytes_per_batch"] == 294_912
    assert explained["limit"] == "doubles"
    assert explained["failure_probability_log2"] < -64
    assert explained["rejected"] == list(choice.rejected)


def test_bins_are_equal_and_cover_all_readings_where_no_edges_are_given() -> None:
    (quantity,) = quantities_of(settings_of(largest=4_000, bins=4).plan)
    assert quantity.bin_edges == (0, 1_000, 2_000, 3_000, 4_001)
    (few,) = quantities_of(settings_of(largest=2, bins=16).plan)
    assert few.bin_edges == (0, 1, 2, 3)
    (given_edges,) = quantities_of(settings_of(largest=9, bin_edges=(0, 5, 10)).plan)
    assert given_edges.bin_edges == (0, 5, 10)
    (none,) = quantities_of(settings_of(statistics=("sum",)).plan)
    assert none.bin_edges == ()


def test_a_plan_that_could_never_release_anything_is_refused() -> None:
    wanted = settings_of(largest_group=3, largest_rollup=3, minimum_meters=5)
    with pytest.raises(PlanError, match="nothing could ever be released"):
        planned(wanted, choose(wanted))


def test_a_scale_that_is_not_exact_makes_no_plan() -> None:
    from dataclasses import replace

    wanted = Settings()
    choice = choose(wanted)
    for scale_bits in (5, 100):
        with pytest.raises(PlanError, match="scale of"):
            planned(wanted, replace(choice, scale_bits=scale_bits))


def test_an_exact_scale_with_too_few_guards_makes_no_plan() -> None:
    from dataclasses import replace

    wanted = settings_of({"ring_degree": 4096, "prime_bits": (48, 45, 16)}, bins=34)
    choice = choose(wanted)
    assert planned(wanted, choice).scale_bits == choice.scale_bits == 50
    with pytest.raises(PlanError, match=r"soundness: .* allows 884 for data with 1000 meters"):
        planned(wanted, replace(choice, scale_bits=51))
