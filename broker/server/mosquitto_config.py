"""Configuration files for Mosquitto (2.0.11 or newer) that give each user only the topics of its role.

    user               publishes on                         reads
    a meter            its batch/..., its status            plan/#, its receipts, status/aggregator/+
    fleet, if any      those of its meters                  plan/#, their receipts, status/aggregator/+
    aggregator-<id>    receipt/+, total/#, its status       batch/#, plan/#, roster/#, status/#, its receipts
    authority          plan/#, roster/#, release/#,         total/#, status/#
                       receipt/+, status/authority
    operator           nothing                              release/#, status/#, plan/#

All other topics and anonymous users are refused.

The same configuration is written twice: mosquitto.conf runs a separate broker, gridhe.conf adds the listener
to a distribution's service (/etc/mosquitto/conf.d/), whose own file sets the places of data and logs.
"""

import base64
import hashlib
import ipaddress
import os
import pwd
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gridhe.base.files import make_private_dir, write_private
from gridhe.config.settings import BrokerSettings
from gridhe.errors import ConfigError, StateError
from gridhe.plan.names import (
    AUTHORITY_USER,
    FLEET_USER,
    OPERATOR_USER,
    aggregator_user,
    check_group,
    check_meter,
    check_name,
)
from gridhe.wire import topics
from gridhe.wire.roster import RosterEntry

__all__ = [
    "AUTHORITY_USER",
    "FLEET_USER",
    "OPERATOR_USER",
    "ServerTls",
    "acl",
    "aggregator_user",
    "mosquitto_conf",
    "password_line",
    "write_server_files",
]

# The default of mosquitto_passwd. Passwords have 192 random bits, so more rounds add no security, and the
# broker checks them on its only thread: at 101 rounds, 1,000 reconnecting meters take 0.1 s.
_PBKDF2_ROUNDS = 101
_SALT_BYTES = 12  # mosquitto 2.0 refuses longer salts
_QUEUED_MESSAGES = 1_000_000  # per client; the byte limit applies first. 0 would remove the byte limit too
_PACKET_SPARE = 65_536  # topic and properties around the largest payload
_STANDALONE, _DROP_IN = "mosquitto.conf", "gridhe.conf"
_EXPIRE_DAYS = 60  # for sessions of MQTT 3.1.1 clients, which cannot set an expiry


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """The broker's PEM files; `ca_file` only if clients need certificates.

    With `ca_file`, every client needs a certificate. Its common name is the user for the ACL, and passwords
    are not checked.
    """

    cert_file: Path
    key_file: Path
    ca_file: Path | None = None


def password_line(user: str, password: str) -> str:
    """One line of a password file: `user:$7$...` (PBKDF2-SHA512, as mosquitto_passwd writes it)."""
    check_name(user, "broker user")
    if not password:
        raise ConfigError(f"broker user {user!r} has an empty password")
    salt = os.urandom(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _PBKDF2_ROUNDS)
    return f"{user}:$7${_PBKDF2_ROUNDS}${_base64(salt)}${_base64(digest)}\n"


def acl(
    entries: Iterable[RosterEntry],
    aggregators: Iterable[str] = (),
    fleets: Mapping[str, Collection[str]] | None = None,
) -> str:
    """The ACL file of these meters, aggregators and fleets (fleet user -> its meters).

    Raises ConfigError for an illegal name, a meter that occurs twice or has the name of an aggregator
    (their receipts would share a topic), and a fleet's meter that is not enrolled.
    """
    enrolled: dict[str, RosterEntry] = {}
    for entry in entries:
        check_group(entry.group)
        if enrolled.setdefault(check_meter(entry.meter), entry) is not entry:
            raise ConfigError(f"meter {entry.meter!r} is enrolled twice")
    blocks = [_block(meter, _meter_rules([entry])) for meter, entry in sorted(enrolled.items())]
    for user, meters in sorted((fleets or {}).items()):
        if check_name(user, "fleet user") in enrolled:
            raise ConfigError(f"fleet user {user!r} is the name of a meter")
        unknown = sorted(set(meters) - set(enrolled))
        if unknown:
            raise ConfigError(f"fleet user {user!r}: meter {unknown[0]!r} is not enrolled")
        blocks.append(_block(user, _meter_rules([enrolled[meter] for meter in sorted(set(meters))])))
    for aggregator in sorted(set(aggregators)):
        if aggregator in enrolled:
            raise ConfigError(
                f"{aggregator!r} is a meter and an aggregator; their receipts would share a topic"
            )
        blocks.append(_block(aggregator_user(aggregator), _aggregator_rules(aggregator)))
    blocks.append(_block(AUTHORITY_USER, _authority_rules()))
    blocks.append(_block(OPERATOR_USER, _operator_rules()))
    return "".join(blocks)


def _block(user: str, rules: list[str]) -> str:
    return f"user {user}\n" + "".join(f"topic {rule}\n" for rule in rules) + "\n"


def _meter_rules(entries: list[RosterEntry]) -> list[str]:
    rules = [f"read {topics.PREFIX}/plan/#", f"read {topics.status_aggregator('+')}"]
    for entry in entries:
        rules += [
            f"write {topics.batch(entry.group, entry.meter)}",
            f"write {topics.status_meter(entry.meter)}",
            f"read {topics.receipt(entry.meter)}",
        ]
    return rules


def _aggregator_rules(aggregator: str) -> list[str]:
    prefix = topics.PREFIX
    return [
        f"read {prefix}/batch/#",
        f"read {prefix}/plan/#",
        f"read {prefix}/roster/#",
        f"read {prefix}/status/#",
        f"read {topics.receipt(aggregator)}",
        f"write {topics.receipt('+')}",
        f"write {prefix}/total/#",
        f"write {topics.status_aggregator(aggregator)}",
    ]


def _authority_rules() -> list[str]:
    prefix = topics.PREFIX
    return [
        f"read {prefix}/total/#",
        f"read {prefix}/status/#",
        f"write {prefix}/plan/#",
        f"write {prefix}/roster/#",
        f"write {prefix}/release/#",
        f"write {topics.receipt('+')}",
        f"write {topics.STATUS_AUTHORITY}",
    ]


def _operator_rules() -> list[str]:
    return [f"read {topics.PREFIX}/{each}/#" for each in ("release", "status", "plan")]


def mosquitto_conf(
    *,
    settings: BrokerSettings,
    port: int,
    largest_payload: int,
    bind: str | None = "127.0.0.1",
    password_file: Path | None,
    acl_file: Path | None,
    data_dir: Path | None,
    tls: ServerTls | None = None,
    user: str | None = None,
    own_ids: bool = False,
    drop_in: bool = False,
) -> str:
    """The text of a mosquitto.conf, or of a file for the conf.d/ of a distribution's service (`drop_in`).

    largest_payload: bytes of the largest envelope, bundle or total; larger packets are refused.
    password_file, acl_file: None for both only on a loopback port (then anybody on this machine may connect).
    bind: the address to listen on; None: every address of this machine, IPv4 and IPv6.
    data_dir: the folder for sessions and retained messages; None: they do not survive a restart.
    user: a broker started by root switches to this user (Mosquitto's default: `mosquitto`), which must be
    able to read these files.
    own_ids: each client's id is its user name. Without it, any user can disconnect another client again and
    again by connecting with its id (the ACL still prevents reading that client's messages).
    drop_in: leave out the service's own settings: user, data and logs (a second persistence_location is an
    error in Mosquitto).
    Raises ConfigError for values that Mosquitto would misread.
    """
    anonymous = password_file is None
    if anonymous and not _is_loopback(bind):
        raise ConfigError(f"a broker without passwords may only listen on loopback, not on {bind!r}")
    lines = [
        "# Made by gridhe; it is overwritten by the next enrolment.",
        "per_listener_settings false",
        f"listener {port}" + (f" {_plain(bind, 'the listen address')}" if bind is not None else ""),
        *_tls_lines(tls),
        f"allow_anonymous {_yes(anonymous)}",
        *([f"password_file {_path(password_file)}"] if password_file is not None else []),
        *([f"acl_file {_path(acl_file)}"] if acl_file is not None else []),
        *([f"user {_plain(user, 'the user')}"] if user is not None and not drop_in else []),
        *(["use_username_as_clientid true"] if own_ids else []),
        "",
        "# Mosquitto's default queue of 1000 messages drops silently. Bytes are the limit here.",
        f"max_queued_messages {_QUEUED_MESSAGES}",
        f"max_queued_bytes {settings.max_queued_mb * 1024 * 1024}",
        f"max_inflight_messages {settings.receive_maximum}",
        "queue_qos0_messages false",
        f"max_packet_size {largest_payload + _PACKET_SPARE}",
        f"persistent_client_expiration {_EXPIRE_DAYS}d",
        "set_tcp_nodelay true",
    ]
    if not drop_in:
        lines += [
            "",
            *_persistence_lines(data_dir),
            "",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "connection_messages false",
        ]
    return "\n".join(lines) + "\n"


def _tls_lines(tls: ServerTls | None) -> list[str]:
    if tls is None:
        return []
    lines = [f"certfile {_path(tls.cert_file)}", f"keyfile {_path(tls.key_file)}", "tls_version tlsv1.2"]
    if tls.ca_file is not None:
        lines += [f"cafile {_path(tls.ca_file)}", "require_certificate true", "use_identity_as_username true"]
    return lines


def _persistence_lines(data_dir: Path | None) -> list[str]:
    if data_dir is None:
        return ["persistence false"]
    return [
        "persistence true",
        f"persistence_location {_path(data_dir)}/",
        "autosave_interval 60",
    ]


def write_server_files(
    directory: Path,
    *,
    settings: BrokerSettings,
    passwords: Mapping[str, str],
    entries: Iterable[RosterEntry],
    aggregators: Iterable[str] = (),
    fleets: Mapping[str, Collection[str]] | None = None,
    largest_payload: int,
    port: int = 8883,
    bind: str | None = None,
    tls: ServerTls | None = None,
    owner: str | None = None,
) -> Path:
    """Write mosquitto.conf, gridhe.conf, passwords and acl into `directory`, each whole or not at all.

    Returns the path of mosquitto.conf.
    passwords: broker user -> password, for every user.
    bind, tls: as for `mosquitto_conf`. Paths in the files are below settings.server_dir, if that is set.
    owner: the system user that Mosquitto runs as. If it is not root, root owns the files and the user's group
    may read them (0640); the user owns only data/, so a compromised broker cannot change its rules.
    After a later enrolment a SIGHUP makes a running Mosquitto read passwords and ACL again.
    Client ids are bound to users unless there are fleets, whose connections share one user.
    Raises ConfigError (names, no TLS off loopback) and StateError (disk).
    """
    if tls is None and not _is_loopback(bind) and not settings.insecure:
        raise ConfigError(
            f"a broker on {bind or 'every address'} without TLS would receive passwords in clear; give a "
            "certificate and key, or set broker.insecure: true on a network you trust"
        )
    rules = acl(entries, aggregators, fleets)
    directory = directory.resolve()
    at_broker = directory if settings.server_dir is None else Path(settings.server_dir)
    confs = {
        name: mosquitto_conf(
            settings=settings,
            port=port,
            bind=bind,
            largest_payload=largest_payload,
            password_file=at_broker / "passwords",
            acl_file=at_broker / "acl",
            data_dir=at_broker / "data",
            tls=tls,
            user=owner,
            own_ids=not fleets,
            drop_in=name == _DROP_IN,
        )
        for name in (_STANDALONE, _DROP_IN)
    }
    make_private_dir(directory)
    data_dir = directory / "data"
    make_private_dir(data_dir)
    lines = "".join(password_line(user, password) for user, password in sorted(passwords.items()))
    write_private(directory / "passwords", lines.encode())
    write_private(directory / "acl", rules.encode())
    for name, conf in confs.items():
        write_private(directory / name, conf.encode())
        (directory / name).chmod(0o644)
    if owner is not None and os.geteuid() == 0:
        _give(owner, directory, data_dir)
    return directory / _STANDALONE


def _give(owner: str, directory: Path, data_dir: Path) -> None:
    """Let the broker's user read its files, TLS included, and own its data. Needs root."""
    try:
        user = pwd.getpwnam(owner)
        if user.pw_uid == 0:
            return
        for path in (directory, *directory.iterdir(), *directory.glob("tls/*")):
            if path != data_dir and not path.is_symlink():
                os.chown(path, 0, user.pw_gid)
                path.chmod(0o750 if path.is_dir() else 0o644 if path.suffix in (".conf", ".crt") else 0o640)
        if data_dir.stat().st_uid != user.pw_uid:
            for path in (*data_dir.iterdir(), data_dir):
                os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    except (KeyError, OSError) as error:
        raise StateError(f"cannot give {directory} to user {owner!r}: {error}") from error


def _is_loopback(bind: str | None) -> bool:
    try:
        return bind is not None and ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return False


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _yes(value: bool) -> str:
    return "true" if value else "false"


def _plain(text: str, what: str) -> str:
    if not text or any(c.isspace() or ord(c) < 32 for c in text):
        raise ConfigError(f"{what} {text[:80]!r} would be misread in mosquitto.conf; use no spaces")
    return text


def _path(path: Path) -> str:
    text = str(path)
    if not path.is_absolute() or text != text.strip() or any(ord(c) < 32 for c in text):
        raise ConfigError(
            f"{text!r} would be misread in mosquitto.conf; use an absolute path without control characters"
        )
    return text
