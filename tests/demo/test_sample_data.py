"""The readings that ship."""

import gzip
import hashlib
import re

import numpy as np
import pytest

from gridhe.errors import SourceError
from gridhe.meter_agent.data import HOMES, HOURS, house_weeks, load_sample, sample_path


def test_the_sample_is_small_and_its_readme_names_its_checksums() -> None:
    packed = sample_path().read_bytes()
    readme = sample_path().with_name("README.md").read_text()
    assert len(packed) <= 400_000
    assert hashlib.sha256(packed).hexdigest() in readme
    assert hashlib.sha256(gzip.decompress(packed)).hexdigest() in readme
    assert packed[4:8] == b"\0\0\0\0"  # no time stamp
    assert packed[3] == 0  # no name: the same input is the same file


def test_what_the_readme_says_of_the_sample_is_so() -> None:
    readme = sample_path().with_name("README.md").read_text()
    sample = load_sample()
    assert sample.shape == (HOURS, HOMES)
    assert sample.dtype == np.int64
    assert sample.min() == 0
    zeros = re.search(r"([\d,]+) of 148,920 readings are 0", readme)
    assert zeros
    assert int(zeros[1].replace(",", "")) == np.count_nonzero(sample == 0)
    assert f"Largest hour {sample.max():,} Wh (home {sample.max(axis=0).argmax() + 1})" in readme
    assert [np.count_nonzero(sample[:, home - 1] == 0) for home in (7, 12, 14, 15)] == [1150, 4558, 949, 4391]


def test_meters_get_different_stretches_of_the_homes() -> None:
    sample = load_sample()
    weeks = house_weeks(100, 7)
    assert weeks.shape == (168, 100)
    assert np.array_equal(weeks[:, :HOMES], sample[:168])
    assert np.array_equal(weeks[:, 99], sample[5 * 168 : 6 * 168, 99 % HOMES])
    assert len({weeks[:, meter].tobytes() for meter in range(100)}) == 100


def test_all_stretches_can_be_used_and_not_one_more() -> None:
    everything = house_weeks(52 * HOMES, 7)
    assert everything.sum() == load_sample()[: 52 * 168].sum()
    with pytest.raises(SourceError, match="885 meters of 168 h are asked for; the 17 homes have 884"):
        house_weeks(52 * HOMES + 1, 7)
    with pytest.raises(SourceError, match="have 0 such stretches"):
        house_weeks(1, 366)


@pytest.mark.parametrize("asked", [(0, 7, 24), (1, 0, 24), (1, 1, 0)])
def test_nothing_is_not_a_number_of_meters(asked: tuple[int, int, int]) -> None:
    with pytest.raises(SourceError, match="1 or more"):
        house_weeks(*asked)
