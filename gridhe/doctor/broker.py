"""What `gridhe doctor` finds at the broker: it lets the right ones in, and nobody else.

| who comes                       | must be                             |
|---------------------------------|-------------------------------------|
| the user of a credential        | let in                              |
| somebody without a password     | refused                             |
| a user with a wrong password    | refused                             |
| the user of a credential        | kept from topics that are not its own |
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
    """A broker user and its password, out of a credential, and filters of topics that it must not read."""

    user: str
    password: str
    foreign: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """How it went to connect."""

    state: Literal["in", "refused", "away"]
    why: str = ""
    protocol: str = ""
    heard: tuple[str, ...] = ()  # topics, of those subscribed to
    published: bool = False  # the broker took a message on a topic that nobody may publish on


def try_broker(settings: Settings, login: Login | None) -> Iterator[Check]:
    """The broker answers, takes the login if there is one, and refuses everybody else."""
    logging.getLogger("gridhe").addHandler(logging.NullHandler())  # the session's warnings are told here
    # A name of its own, and a session that ends with the connection: it must not take the place of the agent
    # whose login it tries.
    broker = settings.broker.model_copy(update={"session_expiry_s": 0})
    nobody_said_where = settings.broker == Settings().broker and login is None
    try:
        first = _connect(broker, login.user, login.password) if login else _connect(_bare(broker), None, None)
        if first.state == "away" and nobody_said_where:
            hint = "not needed for gridhe demo, which starts its own"
            yield Check(name="broker", state="warn", text=first.why, hint=hint)
        elif first.state == "away" or (login is not None and first.state == "refused"):
            yield Check(name="broker", state="fail", text=first.why)
        else:
            if login is not None:
                text = f"{broker.url} takes us as {login.user}, MQTT {first.protocol}"
                yield Check(name="broker", state="ok", text=text)
            yield _strangers(broker, login, configured=not nobody_said_where)
            if login is not None:
                yield _trespass(broker, login, first.protocol)
    except (ConfigError, CredentialError) as error:
        yield Check(name="broker", state="fail", text=str(error))


def _strangers(broker: BrokerSettings, login: Login | None, *, configured: bool) -> Check:
    """Somebody without a password, and somebody with a wrong one. A client certificate is not shown."""
    user = login.user if login else AUTHORITY_USER
    bare = _bare(broker)
    tried = {
        "somebody without a password": _connect(bare, None, None),
        f"user {user} with a wrong password": _connect(bare, user, secrets.token_urlsafe(24)),
    }
    let_in = [who for who, attempt in tried.items() if attempt.state == "in"]
    if let_in:
        text = f"{broker.url} lets in {' and '.join(let_in)}"
        if not configured:  # the default address: perhaps the distribution's own broker
            hint = "fine for gridhe demo --broker, never for a grid"
            return Check(name="broker", state="warn", text=text, hint=hint)
        return Check(name="broker", state="fail", text=text, hint=_HINT)
    away = [attempt.why for attempt in tried.values() if attempt.state == "away"]
    if away:
        text = f"cannot tell whether {broker.url} refuses strangers: {away[0]}"
        return Check(name="broker", state="warn", text=text)
    text = f"{broker.url} refuses who has no password, and a wrong one"
    return Check(
        name="broker", state="ok", text=text, hint="" if login else "give --credential to try a login"
    )


def _trespass(broker: BrokerSettings, login: Login, protocol: str) -> Check:
    """Topics that are not the user's own: a broker without access rules would give them."""
    if protocol != "5":
        text = f"the access rules for {login.user} were not tried: MQTT {protocol} does not tell"
        return Check(name="broker", state="warn", text=text)
    probe = f"{topics.PREFIX}/doctor/{secrets.token_hex(8)}"  # nobody may use it, and nobody listens
    attempt = _connect(broker, login.user, login.password, filters=(*login.foreign, probe), probe=probe)
    if attempt.state == "in" and attempt.heard:
        text = f"{login.user} reads {attempt.heard[0]} at {broker.url}, where it has no right"
        return Check(name="broker", state="fail", text=text, hint=_HINT)
    if attempt.state == "in" and attempt.published:
        text = f"{login.user} may publish on {probe} at {broker.url}, where it has no right"
        return Check(name="broker", state="fail", text=text, hint=_HINT)
    if attempt.state == "away":
        text = f"cannot tell what {login.user} may do at {broker.url}: {attempt.why}"
        return Check(name="broker", state="warn", text=text)
    text = f"{broker.url} keeps {login.user} from topics that are not its own"
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
    heard: list[str] = []
    session = Session(
        settings=broker,
        client_id=f"doctor-{secrets.token_hex(4)}",
        username=user,
        password=password,
        on_message=lambda topic, _payload: heard.append(topic),
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
            # Twice: once the second is acknowledged, what the first and the subscriptions bring has come.
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
            heard=tuple(heard),
            published=published > session.refused,
        )
    return _Attempt(state="refused" if "does not answer CONNECT" in why else "away", why=why)
