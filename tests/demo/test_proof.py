"""The proof: it says exact when all is well, and only then."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridhe.config.settings import MeterSettings
from gridhe.demo.proof import compare, plaintext_of_cells
from gridhe.demo.releases import Release
from gridhe.demo.workload import Workload
from gridhe.errors import SourceError
from gridhe.keyring.slots import MISSING
from gridhe.meter_agent.policy import ReadingPolicy
from gridhe.meter_agent.sources.table import read_table

LARGEST = 100


def changed(release: Release, kind: str, interval: int, value: int | None) -> Release:
    blocks = {name: {k: list(v) for k, v in kinds.items()} for name, kinds in release.blocks.items()}
    blocks["import_wh"][kind][interval] = value
    return replace(release, blocks=blocks)


def told(release: Release, interval: int, **statistics: Any) -> Release:
    records = [dict(record) for record in release.statistics["import_wh"]]
    records[interval] |= statistics
    return replace(release, statistics={"import_wh": records})


def test_flawless_releases_are_exact_and_every_integer_was_compared(small_run: Any) -> None:
    proof = compare(small_run.oracle, small_run.plan, small_run.releases)
    assert proof.exact, (proof.missing, proof.mismatches)
    assert proof.released == proof.expected == 7 * 2
    assert proof.integers == 14 * 24 * (3 + 20)  # reading, present, square and 20 bins
    assert proof.statistics == 14 * 24 * 5  # mean, variance, min, max, quantiles


def test_flawless_releases_are_exact_where_squares_lost_their_low_bits(shifted_run: Any) -> None:
    proof = compare(shifted_run.oracle, shifted_run.plan, shifted_run.releases)
    assert proof.exact, (proof.missing, proof.mismatches)
    assert proof.statistics == 14 * 24 * 2


@pytest.mark.parametrize("kind", ["reading", "present", "square", "bin:0", "bin:7"])
def test_one_integer_off_by_one_is_a_mismatch(small_run: Any, kind: str) -> None:
    first = small_run.releases[0]
    value = first.blocks["import_wh"][kind][5]
    proof = compare(
        small_run.oracle, small_run.plan, [changed(first, kind, 5, value + 1), *small_run.releases[1:]]
    )
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
    proof = compare(
        small_run.oracle, small_run.plan, [told(first, 5, **{name: value}), *small_run.releases[1:]]
    )
    assert [fault.split(": ")[0].split()[-1] for fault in proof.mismatches] == [name]


def test_a_total_that_never_came_is_not_exact(small_run: Any) -> None:
    proof = compare(small_run.oracle, small_run.plan, small_run.releases[1:])
    assert not proof.exact
    assert proof.released == proof.expected - 1
    assert proof.missing == [f"north/f1 window {small_run.workload.first_window}: 0 of 3 meters released"]
    assert not compare(small_run.oracle, small_run.plan, []).exact


def test_a_total_that_nobody_expects_is_not_exact(small_run: Any) -> None:
    stray = replace(small_run.releases[0], group="east/f1")
    assert not compare(small_run.oracle, small_run.plan, [*small_run.releases, stray]).exact


def test_parts_of_a_total_are_added_before_they_are_compared(small_run: Any) -> None:
    first, *others = small_run.releases
    rest = {kind: [0] * 24 for kind in first.blocks["import_wh"]}
    ones = changed(replace(first, blocks={"import_wh": rest}, part=1, meters=1), "reading", 5, 1)
    less = changed(replace(first, meters=2), "reading", 5, first.blocks["import_wh"]["reading"][5] - 1)
    assert compare(small_run.oracle, small_run.plan, [less, ones, *others]).exact
    twice = compare(small_run.oracle, small_run.plan, [first, first, *others])
    assert twice.missing == [f"north/f1 window {first.window}: 6 of 3 meters released"]


def test_an_interval_may_only_be_withheld_where_too_few_have_a_reading(small_run: Any) -> None:
    first, *others = small_run.releases
    withheld = first
    for kind in first.blocks["import_wh"]:
        withheld = changed(withheld, kind, 5, None)
    proof = compare(small_run.oracle, small_run.plan, [told(withheld, 5, sum=None, present=None), *others])
    assert not proof.exact
    assert proof.withheld == 1
    assert "withheld, the plaintext has 3" in " ".join(proof.mismatches)
    # The same with a minimum that three present meters do not reach.
    stricter = replace(small_run.plan, minimum_meters=4)
    proof = compare(small_run.oracle, stricter, [told(withheld, 5, sum=None, present=None), *others])
    assert proof.exact
    assert proof.withheld == 1


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
    agents = policy.apply(read_table(tmp_path / "x.csv").raw, LARGEST, str)
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
