"""Use of a user's own broker by the demo.

A demo publishes retained messages: a plan, a roster and statuses. On a broker of a real grid they would
replace the real ones, so such a broker is refused. On another broker they are removed at the end.
"""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.config.settings import BrokerSettings
from gridhe.errors import BrokerError, ConfigError
from gridhe.wire import topics

__all__ = ["guest_at"]


@contextmanager
def guest_at(settings: BrokerSettings, meters: Iterable[str], aggregator: str) -> Iterator[None]:
    """Use the broker at `settings.url` for a demo of these meters.

    Raises BrokerError if it is unreachable or refuses us, ConfigError if it already serves a grid.
    """
    retained = _retained(settings)
    if retained:
        raise ConfigError(
            f"the broker at {settings.url} serves a grid already ({retained[0]} is retained there), and a "
            "demo would replace its plan; use another broker, or omit --broker"
        )
    try:
        yield
    finally:
        statuses = [
            topics.STATUS_AUTHORITY,
            topics.status_aggregator(aggregator),
            *map(topics.status_meter, meters),
        ]
        _clear(settings, [*_retained(settings), *statuses])


def _connected(
    settings: BrokerSettings, loop: EventLoop, received: dict[str, bytes], *filters: str
) -> Session:
    name = f"gridhe-demo-{secrets.token_hex(4)}"
    session = Session(
        settings=settings.model_copy(update={"session_expiry_s": 0}),
        client_id=name,
        username=name,
        on_message=received.__setitem__,
        subscriptions=filters,
    )
    loop.add(session)
    if not loop.run_until(lambda: session.connected, settings.connect_timeout_s):
        why = session.last_error or f"no answer within {settings.connect_timeout_s:g} s"
        raise BrokerError(f"{why}; is the broker at {settings.url} running, and does it accept all clients?")
    return session


def _retained(settings: BrokerSettings) -> list[str]:
    """The topics of plans and rosters that are retained at the broker."""
    received: dict[str, bytes] = {}
    probe = f"gridhe-demo/{secrets.token_hex(8)}"
    with EventLoop() as loop:
        wanted = (topics.plan("+"), topics.ROSTER_CURRENT, probe)
        session = _connected(settings, loop, received, *wanted)
        # A broker sends retained messages before it routes a later message of the same client.
        session.publish(Message(topic=probe, payload=b"?"))
        if not loop.run_until(lambda: probe in received, settings.connect_timeout_s):
            raise BrokerError(f"the broker at {settings.url} does not deliver our own messages to us")
        session.close()
    return [topic for topic, payload in received.items() if topic != probe and payload]


def _clear(settings: BrokerSettings, retained: Iterable[str]) -> None:
    """Remove retained messages, by publishing empty ones."""
    with EventLoop() as loop:
        session = _connected(settings, loop, {})
        for topic in retained:
            session.publish(Message(topic=topic, payload=b"", retain=True))
        loop.run_until(lambda: session.in_flight == 0, settings.connect_timeout_s)
        session.close()
