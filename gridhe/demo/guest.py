"""Being a guest on a user's broker: disturb nobody who is there, and leave nothing behind.

A demo publishes a plan, a roster and statuses, retained. On a broker that serves a real grid they would
replace the real ones, so such a broker is refused; on a free one they are removed at the end.
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

    Raises BrokerError when it is away or refuses us, ConfigError when a grid lives there already.
    """
    found = _retained(settings)
    if found:
        raise ConfigError(
            f"the broker at {settings.url} serves a grid already ({found[0]} is retained there), and a "
            "demo would replace its plan; use another broker, or leave --broker away"
        )
    try:
        yield
    finally:
        mine = [
            topics.STATUS_AUTHORITY,
            topics.status_aggregator(aggregator),
            *map(topics.status_meter, meters),
        ]
        _clear(settings, [*_retained(settings), *mine])


def _connected(settings: BrokerSettings, loop: EventLoop, heard: dict[str, bytes], *filters: str) -> Session:
    name = f"gridhe-demo-{secrets.token_hex(4)}"
    session = Session(
        settings=settings.model_copy(update={"session_expiry_s": 0}),
        client_id=name,
        username=name,
        on_message=heard.__setitem__,
        subscriptions=filters,
    )
    loop.add(session)
    if not loop.run_until(lambda: session.connected, settings.connect_timeout_s):
        why = session.last_error or f"no answer within {settings.connect_timeout_s:g} s"
        raise BrokerError(f"{why}; is the broker at {settings.url} running, and open to anybody?")
    return session


def _retained(settings: BrokerSettings) -> list[str]:
    """The topics of plans and rosters that are retained at the broker."""
    heard: dict[str, bytes] = {}
    probe = f"gridhe-demo/{secrets.token_hex(8)}"
    with EventLoop() as loop:
        wanted = (topics.plan("+"), topics.ROSTER_CURRENT, probe)
        session = _connected(settings, loop, heard, *wanted)
        # A broker hands over what is retained before it routes a later message of the same client.
        session.publish(Message(topic=probe, payload=b"?"))
        if not loop.run_until(lambda: probe in heard, settings.connect_timeout_s):
            raise BrokerError(f"the broker at {settings.url} does not let us read what we publish")
        session.close()
    return [topic for topic, payload in heard.items() if topic != probe and payload]


def _clear(settings: BrokerSettings, retained: Iterable[str]) -> None:
    """Remove retained messages: an empty one in their place."""
    with EventLoop() as loop:
        session = _connected(settings, loop, {})
        for topic in retained:
            session.publish(Message(topic=topic, payload=b"", retain=True))
        loop.run_until(lambda: session.in_flight == 0, settings.connect_timeout_s)
        session.close()
