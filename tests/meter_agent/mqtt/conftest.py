"""The home's broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe_testing.home import HomeDevices


@pytest.fixture
def home(tmp_path: Path, mosquitto: Path) -> Iterator[str]:
    """The URL of a Mosquitto that anybody on this machine may use."""
    with EmbeddedBroker(tmp_path / "home", prefer="mosquitto") as broker:
        yield broker.url


@pytest.fixture
def devices(home: str) -> Iterator[HomeDevices]:
    with HomeDevices(home) as publishing:
        yield publishing
