"""One home, and the sealed batches of all groups: some 4 s."""

from collections.abc import Iterator

import pytest

from gridhe_testing.forgeries.targets import Targets


@pytest.fixture(scope="session")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Targets]:
    """Groups of 5, 25 and 1,000 batches."""
    made = Targets(tmp_path_factory.mktemp("targets"))
    yield made
    made.close()
