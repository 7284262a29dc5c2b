"""The proof: it says exact when all is well, and only then."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridhe.config.settings import MeterSettings
from gridhe.demo.isolation import isolated, unjustified
from gridhe.demo.proof import Proof, compare, plaintext_of_cells
from gridhe.demo.releases import Release
from gridhe.demo.workload import Workload
from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ReadingPolicy
from gridhe.meter_agent.sources.files.read import read_file
from gridhe.plan.slots import MISSING

LARGEST = 100


def judge(run: Any, releases: Sequence[Release], *, minimum_meters: int = 2) -> Proof:
    return compare(run.oracle, run.plan, releases, minimum_meters=minimum_meters)


def changed(release: Release, kind: str, interval: int, value: int | None) -> Release:
    blocks = {name: {k: list(v) for k, v in kinds.items()} for name, kinds in release.blocks.items()}
    blocks["import_wh"][kind][interval] = value
    return replace(release, blocks=blocks)


def told(release: Release, interval: int, **statistics: Any) -> Release:
    records = [dict(record) for record in release.statistics["import_wh"]]
    records[interval] |= statistics
    return replace(release, statistics={"import_wh": records})


def test_flawless_releases_are_exact_and_every_integer_was_compared(small_run: Any) -> None:
    proof = judge(small_run, small_run.releases)
    assert proof.exact, (proof.missing, proof.mismatches)
    assert proof.released == proof.expected == 7 * 2
    assert proof.integers == 14 * 24 * (3 + 20)  # reading, present, square and 20 bins
    assert proof.statistics == 14 * 24 * 5  # mean, variance, min, max, quantiles


def test_flawless_releases_are_exact_where_squares_lost_their_low_bits(shifted_run: Any) -> None:
    proof = judge(shifted_run, shifted_run.releases)
    assert proof.exact, (proof.missing, proof.mismatches)
    assert proof.statistics == 14 * 24 * 2


@pytest.mark.parametrize("kind", ["reading", "present", "square", "bin:0", "bin:7"])
def test_one_integer_off_by_one_is_a_mismatch(small_run: Any, kind: str) -> None:
    first = small_run.releases[0]
    value = first.blocks["import_wh"][kind][5]
    proof = judge(small_run, [changed(first, kind, 5, value + 1), *small_run.releases[1:]])
    assert not proof.exact
    where = f"{first.group} window {first.window} import_wh {kind} interval 5"
    assert proof.mismatches == [f"{where}: released {value + 1}, plaintext {value}"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", 1.0),
        ("variance", 0.0),
        ("min", [500, 999]),
        ("max", [0, 499]),
        ("quantiles", {"0.5": [0, 1]}),
    ],
)
def test_a_wrong_statistic_is_a_mismatch(small_run: Any, name: str, value: Any) -> None:
    first = small_run.releases[0]
    assert first.statistics["import_wh"][5][name] != value
    proof = judge(small_run, [told(first, 5, **{name: value}), *small_run.releases[1:]])
    assert [fault.split(": ")[0].split()[-1] for fault in proof.mismatches] == [name]


def test_a_total_that_never_came_is_not_exact(small_run: Any) -> None:
    proof = judge(small_run, small_run.releases[1:])
    assert not proof.exact
    assert proof.released == proof.expected - 1
    assert proof.missing == [f"north/f1 window {small_run.workload.first_window}: 0 of 3 meters released"]
    assert not judge(small_run, []).exact


def test_a_total_that_nobody_expects_is_not_exact(small_run: Any) -> None:
    stray = replace(small_run.releases[0], group="east/f1")
    assert not judge(small_run, [*small_run.releases, stray]).exact


def test_parts_of_a_total_are_added_before_they_are_compared(small_run: Any) -> None:
    first, *others = small_run.releases
    rest = {kind: [0] * 24 for kind in first.blocks["import_wh"]}
    ones = changed(replace(first, blocks={"import_wh": rest}, part=1, meters=1), "reading", 5, 1)
    less = changed(replace(first, meters=2), "reading", 5, first.blocks["import_wh"]["reading"][5] - 1)
    assert judge(small_run, [less, ones, *others]).exact
    twice = judge(small_run, [first, first, *others])
    assert twice.missing == [f"north/f1 window {first.window}: 6 of 3 meters released"]


def withhold(release: Release, *intervals: int) -> Release:
    for interval in intervals:
        for kind in release.blocks["import_wh"]:
            release = changed(release, kind, interval, None)
        release = told(release, interval, sum=None, present=None)
    return release


def test_an_interval_may_only_be_withheld_where_somebody_is_in_danger(small_run: Any) -> None:
    first, *others = small_run.releases
    assert (first.group, first.meters) == ("north/f1", 3)
    proof = judge(small_run, [withhold(first, 5), *others])
    assert proof.withheld == 1
    assert [fault.split(": ")[1] for fault in proof.mismatches] == ["withheld without need"]
    # With a minimum of four no feeder of three may be given out; that the others were, is noticed.
    proof = judge(small_run, [withhold(first, 5), *others], minimum_meters=4)
    assert any("isolate fewer than 4" in fault for fault in proof.mismatches)
    every = [withhold(each, *range(24)) if each.meters < 4 else each for each in small_run.releases]
    proof = judge(small_run, every, minimum_meters=4)
    assert proof.exact, proof.mismatches
    assert proof.withheld == 4 * 2 * 24


def test_a_group_whose_sibling_is_in_danger_may_be_withheld_too() -> None:
    present = {"grid": np.array([9, 9]), "a": np.array([2, 3]), "b": np.array([7, 6])}
    both = {"grid": np.array([True, True]), "a": np.array([False, True]), "b": np.array([False, True])}
    assert isolated(present, both, 3).tolist() == [False, False]
    assert {group: found.tolist() for group, found in unjustified(present, both, 3).items()} == {
        "grid": [False, False], "a": [False, False], "b": [False, False],
    }  # fmt: skip
    # The grid minus b is a, which holds only two.
    leaky = {**both, "b": np.array([True, True])}
    assert isolated(present, leaky, 3).tolist() == [True, False]
    # Without the grid, b is harmless, and need not be withheld.
    careful = {**both, "grid": np.array([False, True])}
    assert unjustified(present, careful, 3)["b"].tolist() == [True, False]


def brute_force(present: dict[str, int], leaves: dict[str, set[str]], given: list[str], minimum: int) -> bool:
    """Whether any set of leaves that is a combination of the given groups holds 1 to minimum - 1 meters."""
    names = sorted(set().union(*leaves.values()))
    rows = np.array([[name in leaves[group] for name in names] for group in given], float).reshape(
        -1, len(names)
    )
    for chosen in itertools.product((0.0, 1.0), repeat=len(names)):
        count = sum(present[name] for name, one in zip(names, chosen, strict=True) if one)
        if 0 < count < minimum and np.linalg.matrix_rank(np.vstack([rows, chosen])) == (
            np.linalg.matrix_rank(rows) if len(rows) else 0
        ):
            return True
    return False


def test_isolation_is_judged_as_by_trying_every_combination() -> None:
    tree = {
        "n/a": {"n/a"}, "n/b": {"n/b"}, "s/a": {"s/a"}, "s/b": {"s/b"},
        "n": {"n/a", "n/b"}, "s": {"s/a", "s/b"}, "grid": {"n/a", "n/b", "s/a", "s/b"},
    }  # fmt: skip
    rng = random.Random(3)
    seen = set()
    for _ in range(150):
        present = {group: rng.choice([0, 1, 2, 5, 9]) for group in list(tree)[:4]}
        present |= {group: sum(present[leaf] for leaf in tree[group]) for group in ("n", "s", "grid")}
        given = [group for group in tree if rng.random() < 0.6]
        counts = {group: np.array([count]) for group, count in present.items()}
        shown = {group: np.array([group in given]) for group in tree}
        expected = brute_force(present, tree, given, 4)
        assert bool(isolated(counts, shown, 4)[0]) == expected, (present, given)
        seen.add(expected)
    assert seen == {True, False}


CELLS: Sequence[Sequence[str]] = [
    ["0", "100", "101", "-1", "", "n/a", "1.5", "12.0"],
    ["-0", "+7", "1e2", "-36480", "  ", "nan", "1_0", " 42 "],
    ["99999999999", "inf", "-1e2", "0.0", "-0.5", "٣", "1e3", "--1"],
]  # fmt: skip


def messy() -> Workload:
    return Workload(
        origin="", meters=tuple("abcdefgh"), groups=("g",) * 8, window_s=3, interval_s=1,
        first_window=100_000_000, windows=1, times_s=tuple(300_000_000 + at for at in range(3)), cells=CELLS,
    )  # fmt: skip


@pytest.mark.parametrize("on_negative", ["missing", "clip"])
@pytest.mark.parametrize("on_too_large", ["missing", "clip"])
def test_the_oracle_and_the_meter_agent_agree_on_messy_cells(
    tmp_path: Path, on_negative: str, on_too_large: str
) -> None:
    settings = MeterSettings.model_validate({"on_negative": on_negative, "on_too_large": on_too_large})
    workload = messy()
    plain = plaintext_of_cells(workload, LARGEST, settings)
    workload.write_csv(tmp_path / "x.csv")
    policy = ReadingPolicy(settings)
    agents = policy.apply(read_file(tmp_path / "x.csv").raw, LARGEST, str)
    assert np.where(plain.present, plain.readings, MISSING).tolist() == agents.tolist()
    assert plain.counts == policy.counts.as_dict()
    assert plain.counts["negative"] == 3
    assert plain.counts["too_large"] == 3


def test_policies_do_what_the_documentation_says() -> None:
    missing = plaintext_of_cells(
        messy(), LARGEST, MeterSettings(on_negative="missing", on_too_large="missing")
    )
    clipped = plaintext_of_cells(messy(), LARGEST, MeterSettings(on_negative="clip", on_too_large="clip"))
    assert missing.present[0].tolist() == [True, True, False, False, False, False, False, True]
    assert clipped.readings[0].tolist() == [0, 100, 100, 0, 0, 0, 0, 12]
    assert clipped.present[0].tolist() == [True, True, True, True, False, False, False, True]


@pytest.mark.parametrize("policy", ["on_text", "on_negative", "on_too_large"])
def test_what_is_to_be_refused_is_refused(policy: str) -> None:
    with pytest.raises(SourceError, match=policy):
        plaintext_of_cells(messy(), LARGEST, MeterSettings.model_validate({policy: "refuse"}))


def test_intervals_without_a_row_are_missing_and_of_two_rows_the_first_counts() -> None:
    workload = replace(
        messy(), meters=("a",), groups=("g",), times_s=(300_000_000, 300_000_002, 300_000_002),
        cells=[["1"], ["2"], ["3"]],
    )  # fmt: skip
    plain = plaintext_of_cells(workload, LARGEST, MeterSettings())
    assert plain.readings[:, 0].tolist() == [1, 0, 2]
    assert plain.present[:, 0].tolist() == [True, False, True]
    assert plain.counts["absent"] == 1
