"""A small authority of our own for the meter's tests: plan, bundle, credentials, and the secret context."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridhe.bench.authority import PlanKey, new_context
from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import BrokerSettings
from gridhe.plan.guards import guard_key, home_key
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity
from gridhe.wire import topics
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.credential import DeviceCredential
from gridhe.wire.envelope import Header, envelope_key, open_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.receipt import Receipt
from gridhe.wire.signing import SigningKey, authority_id
from gridhe.wire.status import Status

INGEST_SECRET, GUARD_SECRET = bytes(range(32)), bytes(range(32, 64))


@dataclass(frozen=True, repr=False)
class SmallAuthority:
    """Everything of one key: what meters get, and what only a test may hold."""

    signing_key: SigningKey
    context: Any  # with the secret key
    public_key: bytes
    plan: Plan

    @property
    def bundle(self) -> Bundle:
        return Bundle(plan=self.plan, public_key=self.public_key)

    def with_plan(self, **changes: Any) -> "SmallAuthority":
        """The same key under a changed plan."""
        return replace(self, plan=replace(self.plan, **changes))

    def encoded(self) -> bytes:
        return self.bundle.encode(self.signing_key)

    def device(self, meter: str, group: str = "north/f1") -> DeviceCredential:
        return DeviceCredential(
            meter=meter,
            group=group,
            password="not checked by this broker",
            ingest_key=derive_key(INGEST_SECRET, meter),
            guard_key=guard_key(GUARD_SECRET, meter),
            home_key=home_key(GUARD_SECRET),
            authority_key=self.signing_key.verify_key,
        )

    def opened(self, payload: bytes) -> bytes:
        """The ciphertext in an envelope, opened as the aggregator does."""
        envelope = open_envelope(payload, 1 << 22)
        return envelope.open(envelope_key(derive_key(INGEST_SECRET, envelope.header.meter)))

    def slots_of(self, payload: bytes) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """All decrypted slots of an envelope, rounded."""
        return PlanKey(bundle=self.bundle, context=self.context).all_slots(self.opened(payload))

    def readings_of(self, payload: bytes) -> list[int]:
        """The first quantity's readings in an envelope, -1 where missing."""
        layout, name = self.plan.layout, self.plan.quantities[0].name
        slots = self.slots_of(payload)
        reading, present = slots[layout.block(name, "reading")], slots[layout.block(name, "present")]
        return [int(value) for value in np.where(present == 1, reading, -1)]


def make_authority(
    parameters: CkksParameters, scale_bits: int, *, window_s: int = 86_400, interval_s: int = 3_600
) -> SmallAuthority:
    context, public_key = new_context(parameters)
    signing_key = SigningKey.generate()
    plan = Plan(
        authority=authority_id(signing_key.verify_key),
        key_id=key_id_of(public_key),
        first_window=0,
        window_s=window_s,
        interval_s=interval_s,
        quantities=(Quantity(name="import_wh", unit="Wh", largest=20_000, statistics=("sum", "mean")),),
        largest_group=100,
        largest_rollup=100,
        minimum_meters=2,
        grace_s=1.0,
        late_s=1.0,
        early_s=60.0,
        horizon_s=1.5e9,
        parameters=parameters,
        scale_bits=scale_bits,
        flooding_bits=0,
        decryptions=1,
        guard_bits=14,
    )
    return SmallAuthority(signing_key=signing_key, context=context, public_key=public_key, plan=plan)


@pytest.fixture(scope="session")
def authority() -> SmallAuthority:
    """The smallest ring, daily windows of hours."""
    return make_authority(CkksParameters(2048, (40, 14)), 16)


@pytest.fixture(scope="session")
def authority_of() -> Callable[..., SmallAuthority]:
    """Makes an authority of other parameters."""
    return make_authority


class Receiver:
    """A small aggregator: keeps every envelope it is sent, checks it, and answers with receipts."""

    def __init__(self, url: str, authority: SmallAuthority) -> None:
        self.authority = authority
        self.loop = EventLoop()
        self.session = Session(
            settings=BrokerSettings(url=url),
            client_id="aggregator-test",
            on_message=self._on_message,
            subscriptions=[f"{topics.PREFIX}/batch/#", f"{topics.PREFIX}/status/#"],
        )
        self.loop.add(self.session)
        self.payloads: dict[tuple[str, int], list[bytes]] = {}  # (meter, window): every copy that came
        self.plans: dict[tuple[str, int], str] = {}
        self.statuses: dict[str, list[Status]] = {}
        self.answer: Callable[[Header], Receipt | None] = lambda header: Receipt(
            plan=header.plan, meter=header.meter, committed=(header.window,)
        )
        self.wait(lambda: self.session.connected)

    def _on_message(self, topic: str, payload: bytes) -> None:
        kind, _, name = topic.removeprefix(f"{topics.PREFIX}/").partition("/")
        if kind == "status":
            if not name.startswith("aggregator/"):
                self.statuses.setdefault(name, []).append(Status.decode(payload))
            return
        envelope = open_envelope(payload, 1 << 22)
        header = envelope.header
        self.authority.opened(payload)  # raises unless the meter sealed it
        assert topics.parse_batch(topic) == (header.group, header.meter)
        self.payloads.setdefault((header.meter, header.window), []).append(payload)
        assert self.plans.setdefault((header.meter, header.window), header.plan) == header.plan
        receipt = self.answer(header)
        if receipt is not None:
            self.publish(
                topics.receipt(header.meter), receipt.encode(derive_key(INGEST_SECRET, header.meter))
            )

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self.session.publish(Message(topic=topic, payload=payload, retain=retain))

    def publish_plan(self, authority: SmallAuthority | None = None) -> None:
        self.publish(topics.PLAN_CURRENT, (authority or self.authority).encoded(), retain=True)

    def show_incarnation(self, incarnation: str) -> None:
        status = Status(online=True, version="1", incarnation=incarnation)
        self.publish(topics.status_aggregator("test"), status.encode(), retain=True)

    def wait(self, predicate: Callable[[], bool], timeout_s: float = 60.0) -> None:
        assert self.loop.run_until(predicate, timeout_s), "what the test waits for did not happen"

    def until_exit(self, process: "subprocess.Popen[bytes]", timeout_s: float = 60.0) -> int:
        """Serve until the process ends; its exit code."""
        ended = self.loop.every(0.02, lambda: None)  # so that the loop looks at the process now and then
        self.wait(lambda: process.poll() is not None, timeout_s)
        ended.cancel()
        assert process.returncode is not None
        return process.returncode

    def distinct(self) -> dict[tuple[str, int], set[bytes]]:
        return {key: set(copies) for key, copies in self.payloads.items()}

    def close(self) -> None:
        self.session.close()
        self.loop.close()


@pytest.fixture
def receiver(broker: EmbeddedBroker, authority: SmallAuthority) -> Iterator[Receiver]:
    """The small aggregator, with the authority's plan published."""
    made = Receiver(broker.url, authority)
    made.publish_plan()
    made.show_incarnation("first")
    yield made
    made.close()


@pytest.fixture
def receiver_of(broker: EmbeddedBroker) -> Iterator[Callable[[SmallAuthority], Receiver]]:
    """Makes the small aggregator of an authority, with its plan published."""
    made: list[Receiver] = []

    def make(authority: SmallAuthority) -> Receiver:
        made.append(Receiver(broker.url, authority))
        made[-1].publish_plan()
        made[-1].show_incarnation("first")
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def broker(tmp_path: Path, mosquitto: Path) -> Iterator[EmbeddedBroker]:
    """A real mosquitto on a free loopback port, anonymous."""
    assert mosquitto.exists()
    with EmbeddedBroker(tmp_path / "broker", prefer="mosquitto", persistence=True) as started:
        yield started
