"""An aggregator that the tests move by hand, beside a real authority and broker."""

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import BrokerSettings, ReleaseSettings, Settings
from gridhe.wire import topics


class Peer:
    """An aggregator's end: what it hears, by topic."""

    def __init__(self, loop: EventLoop, settings: BrokerSettings, password: str) -> None:
        self.heard: dict[str, bytes] = {}
        self.session = Session(
            settings=settings,
            client_id="aggregator-agg1",
            username="aggregator-agg1",
            password=password,
            on_message=self.heard.__setitem__,
            subscriptions=[
                f"{topics.PREFIX}/{each}" for each in ("plan/#", "roster/#", "status/#", "receipt/agg1")
            ],
        )
        loop.add(self.session)

    def send(self, group: str, payload: bytes) -> None:
        assert self.session.publish(Message(topic=topics.total(group), payload=payload))


def with_broker(settings: Settings, broker: EmbeddedBroker, *, publish: bool = False) -> Settings:
    return settings.model_copy(
        update={"broker": BrokerSettings(url=broker.url), "release": ReleaseSettings(publish=publish)}
    )
