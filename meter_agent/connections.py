"""Broker sessions for the meters of one process: one for each meter, as in the field, or one shared."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gridhe.broker.client.session import Message, Session
from gridhe.wire import topics
from gridhe.wire.status import Status

if TYPE_CHECKING:
    from gridhe.broker.client.loop import EventLoop
    from gridhe.config.settings import BrokerSettings
    from gridhe.meter_agent.publisher import MeterUnit
    from gridhe.meter_agent.service import MeterService

__all__ = ["close_all", "connect_each", "connect_shared"]

_PLANS = f"{topics.PREFIX}/plan/#"
_AGGREGATORS = topics.status_aggregator("+")
_CLOSE_S = 5.0  # for all DISCONNECTs; for sessions still open then, the broker publishes the will


def connect_each(
    service: "MeterService",
    units: "Sequence[MeterUnit]",
    settings: "BrokerSettings",
    loop: "EventLoop",
    *,
    version: str,
    incarnation: str,
) -> list[Session]:
    """One session per unit, each with a will. Only the first subscribes to plans and statuses."""
    sessions = []
    for at, unit in enumerate(units):
        credential = unit.credential
        offline = Status(online=False, version=version, incarnation=incarnation)
        session = Session(
            settings=settings,
            client_id=unit.meter,
            username=unit.meter,
            password=credential.password,
            will=Message(topic=topics.status_meter(unit.meter), payload=offline.encode(), retain=True),
            on_message=service.on_message,
            on_connect=lambda _present, unit=unit: service.on_connect(unit),  # type: ignore[misc]
            subscriptions=[topics.receipt(unit.meter), *([_PLANS, _AGGREGATORS] if at == 0 else [])],
            rng=random.Random(),  # noqa: S311 - spreads reconnects, keeps no secret
        )
        unit.session = session
        sessions.append(session)
        loop.add(session)
    return sessions


def connect_shared(
    service: "MeterService",
    units: "Sequence[MeterUnit]",
    settings: "BrokerSettings",
    loop: "EventLoop",
    *,
    user: str,
    password: str | None,
) -> list[Session]:
    """One session for all units. It sets no will, because MQTT allows one will topic per connection."""

    def on_connect(_present: bool) -> None:
        for unit in units:
            service.on_connect(unit)

    session = Session(
        settings=settings,
        client_id=user,
        username=user,
        password=password,
        on_message=service.on_message,
        on_connect=on_connect,
        subscriptions=[_PLANS, _AGGREGATORS, *(topics.receipt(unit.meter) for unit in units)],
    )
    for unit in units:
        unit.session = session
    loop.add(session)
    return [session]


def close_all(sessions: Sequence[Session], loop: "EventLoop") -> None:
    """Send DISCONNECT on every session; takes at most `_CLOSE_S` in total."""
    deadline_s = loop.clock() + _CLOSE_S
    for session in sessions:
        session.close(timeout_s=min(2.0, max(0.0, deadline_s - loop.clock())))
