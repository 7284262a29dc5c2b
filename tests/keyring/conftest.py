"""A small authority with an enrolled aggregator, and totals made with real TenSEAL."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import BrokerSettings, Settings
from gridhe.wire.credential import load_aggregator
from gridhe_testing.authority_peer import Peer
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


@pytest.fixture
def broker(small_authority: Any, tmp_path: Path, mosquitto: Path) -> Iterator[EmbeddedBroker]:
    """A Mosquitto with the passwords and ACL of the small authority."""
    authority = small_authority.authority
    from gridhe.broker.server.mosquitto_config import acl

    credential = load_aggregator(small_authority.home / "credentials" / "aggregator-agg1.json")
    users = {"authority": authority.broker_password, "aggregator-agg1": credential.password}
    rules = acl(authority.enrolment.entries(), ["agg1"])
    with EmbeddedBroker(tmp_path / "broker", prefer="mosquitto", users=users, acl=rules) as running:
        yield running


@pytest.fixture
def peer_of(small_authority: Any, broker: EmbeddedBroker) -> Callable[[EventLoop], Peer]:
    password = load_aggregator(small_authority.home / "credentials" / "aggregator-agg1.json").password
    return lambda loop: Peer(loop, BrokerSettings(url=broker.url), password)
