"""A small authority with an enrolled aggregator, and totals made with real TenSEAL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gridhe.config.settings import Settings
from gridhe_testing.small_authority import SmallAuthority, small_plan


@pytest.fixture
def small_settings() -> Settings:
    """A plan that is quick to compute with."""
    return small_plan()


@pytest.fixture
def small_authority(tmp_path: Path, small_settings: Settings) -> Iterator[SmallAuthority]:
    """A home with one aggregator."""
    made = SmallAuthority.make(tmp_path / "authority", small_settings)
    yield made
    made.authority.close()
