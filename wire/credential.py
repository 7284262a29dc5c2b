"""Credentials: the secret files that enrolment creates. A file that others can read is refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gridhe.base.files import read_private, write_private
from gridhe.errors import ConfigError, CredentialError
from gridhe.plan.names import check_group, check_meter, check_name
from gridhe.wire.signing import authority_id

__all__ = [
    "AggregatorCredential",
    "DeviceCredential",
    "FleetCredential",
    "load_aggregator",
    "load_device",
    "load_fleet",
]

_KEY_BYTES = 32
T = TypeVar("T")


def _hex_key(record: dict[str, Any], name: str) -> bytes:
    value = bytes.fromhex(record[name])
    if len(value) != _KEY_BYTES:
        raise ValueError(f"{name} must have {_KEY_BYTES} bytes")
    return value


def _text(record: dict[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text")
    return value


def _save(path: Path, record: dict[str, Any]) -> None:
    write_private(path, (json.dumps(record, indent=1) + "\n").encode())


def _load(path: Path, kind: str, read: Callable[[dict[str, Any]], T]) -> T:
    data = read_private(path)
    try:
        record = json.loads(data)
        if not isinstance(record, dict) or record.get("kind") != kind:
            actual = record.get("kind") if isinstance(record, dict) else type(record).__name__
            raise CredentialError(f"this is not a credential of kind {kind!r} (it is {actual!r})")
        return read(record)
    except CredentialError as error:
        raise CredentialError(f"{path}: {error}") from None
    # Without the exception's own text, which may quote the secret.
    except (ValueError, TypeError, KeyError, RecursionError, ConfigError) as error:
        raise CredentialError(
            f"{path} is not a complete {kind} credential ({type(error).__name__}); enrol it again"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCredential:
    """Secrets of one meter, its group, and the authority's verify key.

    `guard_key` is the meter's own, `home_key` that of all meters (gridhe.plan.guards).
    """

    meter: str
    group: str
    password: str = field(repr=False)
    ingest_key: bytes = field(repr=False)
    guard_key: bytes = field(repr=False)
    home_key: bytes = field(repr=False)
    authority_key: bytes

    @property
    def authority(self) -> str:
        """The id of the authority that enrolled this meter."""
        return authority_id(self.authority_key)

    def _record(self) -> dict[str, Any]:
        return {
            "meter": self.meter,
            "group": self.group,
            "password": self.password,
            "ingest_key": self.ingest_key.hex(),
            "guard_key": self.guard_key.hex(),
            "home_key": self.home_key.hex(),
        }

    @classmethod
    def _read(cls, record: object, authority_key: bytes) -> "DeviceCredential":
        if not isinstance(record, dict):
            raise TypeError("a device must be a map")
        if not {"guard_key", "home_key"} <= record.keys():
            raise CredentialError(
                f"the credential of {check_meter(record['meter'])} has no guard keys; make a new one with: "
                f"gridhe-keyring enrol {record['meter']} --group {check_group(record['group'])}"
            )
        return cls(
            meter=check_meter(record["meter"]),
            group=check_group(record["group"]),
            password=_text(record, "password"),
            ingest_key=_hex_key(record, "ingest_key"),
            guard_key=_hex_key(record, "guard_key"),
            home_key=_hex_key(record, "home_key"),
            authority_key=authority_key,
        )

    def save(self, path: Path) -> None:
        """Write the credential, 0600."""
        _save(path, {"kind": "device", "authority_key": self.authority_key.hex(), **self._record()})


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCredential:
    """Credentials of many devices of one authority in one file, for a simulated fleet."""

    devices: tuple[DeviceCredential, ...]
    password: str | None = field(
        default=None, repr=False
    )  # of the broker user `fleet`, for one shared connection

    def save(self, path: Path) -> None:
        """Write the credentials, 0600. Raises CredentialError without devices or with two authorities."""
        keys = {device.authority_key for device in self.devices}
        if len(keys) != 1:
            raise CredentialError("a fleet credential needs devices, all of one authority")
        devices = [device._record() for device in self.devices]
        _save(
            path,
            {
                "kind": "fleet",
                "authority_key": keys.pop().hex(),
                "password": self.password,
                "devices": devices,
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorCredential:
    """Secrets of an aggregator (password, ingest secret, signing key) and the authority's verify key."""

    aggregator: str
    password: str = field(repr=False)
    ingest_secret: bytes = field(repr=False)
    signing_key: bytes = field(repr=False)
    authority_key: bytes

    @property
    def authority(self) -> str:
        """The id of the authority that enrolled this aggregator."""
        return authority_id(self.authority_key)

    def save(self, path: Path) -> None:
        """Write the credential, 0600."""
        _save(
            path,
            {
                "kind": "aggregator",
                "authority_key": self.authority_key.hex(),
                "aggregator": self.aggregator,
                "password": self.password,
                "ingest_secret": self.ingest_secret.hex(),
                "signing_key": self.signing_key.hex(),
            },
        )


def load_device(path: Path) -> DeviceCredential:
    """The device credential in a 0600 file. Raises CredentialError."""
    return _load(
        path, "device", lambda record: DeviceCredential._read(record, _hex_key(record, "authority_key"))
    )


def load_fleet(path: Path) -> FleetCredential:
    """The fleet credential in a 0600 file. Raises CredentialError."""

    def read(record: dict[str, Any]) -> FleetCredential:
        authority_key = _hex_key(record, "authority_key")
        devices = tuple(DeviceCredential._read(device, authority_key) for device in record["devices"])
        if len({device.meter for device in devices}) != len(devices):
            raise ValueError("a meter occurs twice")
        password = None if record.get("password") is None else _text(record, "password")
        return FleetCredential(devices=devices, password=password)

    return _load(path, "fleet", read)


def load_aggregator(path: Path) -> AggregatorCredential:
    """The aggregator credential in a 0600 file. Raises CredentialError."""
    return _load(
        path,
        "aggregator",
        lambda record: AggregatorCredential(
            aggregator=check_name(record["aggregator"], "aggregator"),
            password=_text(record, "password"),
            ingest_secret=_hex_key(record, "ingest_secret"),
            signing_key=_hex_key(record, "signing_key"),
            authority_key=_hex_key(record, "authority_key"),
        ),
    )
