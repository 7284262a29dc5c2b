"""Real brokers, and sessions on one loop."""

import datetime
import ipaddress
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import BrokerSettings

Inbox = list[tuple[str, bytes]]


class Client:
    """A session and what it has received."""

    def __init__(self, loop: EventLoop, settings: BrokerSettings, client_id: str, **options: Any) -> None:
        self.loop = loop
        self.inbox: Inbox = []
        self.greetings: list[bool] = []
        options.setdefault("on_message", lambda topic, payload: self.inbox.append((topic, payload)))
        options.setdefault("on_connect", self.greetings.append)
        self.session = Session(settings=settings, client_id=client_id, **options)
        loop.add(self.session)

    def connected(self, timeout_s: float = 10.0) -> "Client":
        assert self.loop.run_until(lambda: self.session.connected, timeout_s), self.session.last_error
        # A broker answers in order: once this is acknowledged, so are the subscriptions before it.
        self.publish("probe", b"")
        return self.flushed(timeout_s)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self.session.publish(Message(topic=topic, payload=payload, retain=retain))

    def flushed(self, timeout_s: float = 10.0) -> "Client":
        assert self.loop.run_until(lambda: self.session.in_flight == 0, timeout_s)
        return self

    def receives(self, count: int, timeout_s: float = 10.0) -> Inbox:
        assert self.loop.run_until(lambda: len(self.inbox) >= count, timeout_s), (
            f"{len(self.inbox)} of {count} messages came; {self.session.last_error}"
        )
        return self.inbox

    def sees(self, topic: str, payload: bytes, timeout_s: float = 10.0) -> None:
        assert self.loop.run_until(lambda: (topic, payload) in self.inbox, timeout_s), (
            f"{self.session.client_id} never saw {payload!r} on {topic}"
        )


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with EventLoop() as one:
        yield one


@pytest.fixture
def client(loop: EventLoop) -> Iterator[Callable[..., Client]]:
    """client(url or settings, client_id, **Session options) -> Client, on `loop`."""

    def make(where: str | BrokerSettings, client_id: str, **options: Any) -> Client:
        settings = where
        if isinstance(where, str):
            settings = BrokerSettings(url=where, reconnect_min_s=0.05, reconnect_max_s=0.2)
        return Client(loop, settings, client_id, **options)

    return make


@pytest.fixture
def broker(tmp_path: Path, mosquitto: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path / "broker", prefer="mosquitto") as started:
        yield started


@pytest.fixture(params=["mosquitto", "iotcore"])
def any_broker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedBroker]:
    """Each kind in turn."""
    if request.param == "mosquitto":
        request.getfixturevalue("mosquitto")
    with EmbeddedBroker(tmp_path / "broker", prefer=request.param) as started:
        yield started


@pytest.fixture
def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass(frozen=True)
class Pki:
    """PEM files of a CA made for this test, and of 127.0.0.1's certificate."""

    ca: Path
    cert: Path
    key: Path
    locked_key: Path


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    directory = tmp_path_factory.mktemp("pki")
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(subject: str, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("a test's CA"))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    # From 3.13 on, Python takes no chain without the identifiers that RFC 5280 asks for.
    key_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    signs = {"key_cert_sign": True, "crl_sign": True}
    signs |= dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False
    )
    signs |= dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False)
    key_usage = x509.KeyUsage(**signs)
    ca = (
        builder("a test's CA", ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage, critical=True)
        .add_extension(key_id, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    cert = (
        builder("127.0.0.1", key.public_key())
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = serialization.BestAvailableEncryption(b"passphrase")
    contents = {
        "ca": ca.public_bytes(pem),
        "cert": cert.public_bytes(pem),
        "key": key.private_bytes(pem, pkcs8, serialization.NoEncryption()),
        "locked_key": key.private_bytes(pem, pkcs8, locked),
    }
    paths = {}
    for what, data in contents.items():
        paths[what] = directory / f"{what}.pem"
        paths[what].write_bytes(data)
        paths[what].chmod(0o600)
    return Pki(**paths)
