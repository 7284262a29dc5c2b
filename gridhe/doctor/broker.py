"""Checks of `gridhe doctor` at the broker: authentication and access rules.

| client                          | expected                              |
|---------------------------------|---------------------------------------|
| the user of a credential        | connected                             |
| a client without a password     | refused                               |
| a user with a wrong password    | refused                               |
| the user of a credential        | no access to topics of other roles    |
"""

import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.mosquitto_config import AUTHORITY_USER
from gridhe.config import Settings
from gridhe.config.settings import BrokerSettings
from gridhe.doctor.checks import Check
from gridhe.errors import BrokerError, ConfigError, CredentialError
from gridhe.wire import topics

__all__ = ["Login", "try_broker"]

_TIMEOUT_S = 5.0
_HINT = "run it with the mosquitto.conf that enrolment writes; or is another broker on this port?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A broker user and its password, from a credential, and filters of topics that it must not read."""

    user: str
    password: str
    foreign: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """The result of one connection."""

    state: Literal["in", "refused", "away"]
    why: str = ""
    protocol: str = ""
    received: tuple[str, ...] = ()  # topics of messages that arrived
    published: bool = False  # the broker accepted a message on a topic that no user may publish on


def try_broker(settings: Settings, login: Login | None) -> Iterator[Check]:
    """Check that the broker answers, accepts the login if there is one, and refuses all other clients."""
    logging.getLogger("gridhe").addHandler(logging.NullHandler())  # the checks report the session's warnings
    # A separate client id, and a session that ends with the connection, so that the probe does not disconnect
    # the agent of this login.
    broker = settings.broker.model_copy(update={"session_expiry_s": 0})
    unconfigured = settings.broker == Settings().broker and login is None
    try:
        first = _connect(broker, login.user, login.password) if login else _connect(_bare(broker), None, None)
        if first.state == "away" and unconfigured:
            hint = "not needed for gridhe demo, which starts its own"
            yield Check(name="broker", state="warn", text=first.why, hint=hint)
        elif first.state == "away" or (login is not None and first.state == "refused"):
            yield Check(name="broker", state="fail", text=first.why)
        else:
            if login is not None:
                text = f"{broker.url} accepts {login.user}, MQTT {first.protocol}"
                yield Check(name="broker", state="ok", text=text)
            yield _check_authentication(broker, login, configured=not unconfigured)
            if login is not None:
                yield _check_access(broker, login, first.protocol)
    except (ConfigError, CredentialError) as error:
        yield Check(name="broker", state="fail", text=str(error))


def _check_authentication(broker: BrokerSettings, login: Login | None, *, configured: bool) -> Check:
    """Try to connect without a password and with a wrong one, both without a client certificate."""
    user = login.user if login else AUTHORITY_USER
    bare = _bare(broker)
    tried = {
        "clients without a password": _connect(bare, None, None),
        f"user {user} with a wrong password": _connect(bare, user, secrets.token_urlsafe(24)),
    }
    accepted = [client for client, attempt in tried.items() if attempt.state == "in"]
    if accepted:
        text = f"{broker.url} accepts {' and '.join(accepted)}"
        if not configured:  # the default address: perhaps the distribution's broker
            hint = "fine for gridhe demo --broker, never for a grid"
            return Check(name="broker", state="warn", text=text, hint=hint)
        return Check(name="broker", state="fail", text=text, hint=_HINT)
    away = [attempt.why for attempt in tried.values() if attempt.state == "away"]
    if away:
        text = f"not checked whether {broker.url} refuses unknown clients: {away[0]}"
        return Check(name="broker", state="warn", text=text)
    text = f"{broker.url} refuses clients without a password, and a wrong password"
    return Check(
        name="broker", state="ok", text=text, hint="" if login else "give --credential to try a login"
    )


def _check_access(broker: BrokerSettings, login: Login, protocol: str) -> Check:
    """Try topics of other roles: a broker without access rules would allow them."""
    if protocol != "5":
        text = f"access rules for {login.user} not checked: MQTT {protocol} has no error codes for them"
        return Check(name="broker", state="warn", text=text)
    probe = (
        f"{topics.PREFIX}/doctor/{secrets.token_hex(8)}"  # no user may use it, and nobody subscribes to it
    )
    attempt = _connect(broker, login.user, login.password, filters=(*login.foreign, probe), probe=probe)
    if attempt.state == "in" and attempt.received:
        text = f"{login.user} can read {attempt.received[0]} at {broker.url}, which is not its topic"
        return Check(name="broker", state="fail", text=text, hint=_HINT)
    if attempt.state == "in" and attempt.published:
        text = f"{login.user} can publish on {probe} at {broker.url}, which is not its topic"
        return Check(name="broker", state="fail", text=text, hint=_HINT)
    if attempt.state == "away":
        text = f"access rules for {login.user} at {broker.url} not checked: {attempt.why}"
        return Check(name="broker", state="warn", text=text)
    text = f"{broker.url} refuses {login.user} the topics of other roles"
    return Check(name="broker", state="ok", text=text)


def _bare(broker: BrokerSettings) -> BrokerSettings:
    return broker.model_copy(update={"client_cert_file": None, "client_key_file": None})


def _connect(
    broker: BrokerSettings,
    user: str | None,
    password: str | None,
    *,
    filters: tuple[str, ...] = (),
    probe: str | None = None,
) -> _Attempt:
    """Connect, subscribe to `filters`, publish on `probe`. Raises ConfigError, CredentialError."""
    received: list[str] = []
    session = Session(
        settings=broker,
        client_id=f"doctor-{secrets.token_hex(4)}",
        username=user,
        password=password,
        on_message=lambda topic, _payload: received.append(topic),
        subscriptions=filters,
    )

    def decided() -> bool:
        # If the broker refuses MQTT 5, the session tries 3.1.1 at once.
        return session.connected or "so 3.1.1 is used" not in (session.last_error or "so 3.1.1 is used")

    timeout_s = min(_TIMEOUT_S, broker.connect_timeout_s)
    try:
        with EventLoop() as loop:
            loop.add(session)
            loop.run_until(decided, timeout_s)
            published = 0
            # Twice: when the second is acknowledged, messages for the subscriptions have arrived.
            while session.connected and probe is not None and published < 2:
                session.publish(Message(topic=probe, payload=b""))
                published += 1
                loop.run_until(lambda: session.in_flight == 0, timeout_s)
            connected, why = session.connected, session.last_error or str(session.unreachable())
            session.close()
    except BrokerError as error:
        untrusted = "has a certificate" in str(error)
        return _Attempt(state="away" if untrusted else "refused", why=str(error))
    if connected:
        return _Attempt(
            state="in",
            protocol=session.protocol,
            received=tuple(received),
            published=published > session.refused,
        )
    return _Attempt(state="refused" if "does not answer CONNECT" in why else "away", why=why)
