"""What the authority's process says when there is no broker."""

from typing import Any

import pytest

from gridhe.config.settings import BrokerSettings
from gridhe.errors import BrokerError
from gridhe.keyring.release.service import ReleaseService, publish_bundles


def test_a_broker_that_is_away_is_one_clear_error(small_authority: Any) -> None:
    away = BrokerSettings(url="mqtt://127.0.0.1:9", connect_timeout_s=0.5)
    settings = small_authority.settings.model_copy(update={"broker": away})
    with (
        ReleaseService(small_authority.authority, settings, emit=lambda outcome: None) as service,
        pytest.raises(BrokerError, match="is the broker at"),
    ):
        service.online(idle_s=0.1, follow=False)
    with pytest.raises(BrokerError, match="is the broker at"):
        publish_bundles(small_authority.authority, settings)
