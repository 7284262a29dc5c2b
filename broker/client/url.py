"""A broker's address, `mqtt://host:port` or `mqtts://host:port`, and its check for clear-text passwords."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from gridhe.errors import ConfigError

__all__ = ["BrokerUrl"]

_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """A broker's host and port, and whether it uses TLS."""

    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, url: str) -> "BrokerUrl":
        """Read `mqtt[s]://host[:port]`. Raises ConfigError, also for credentials; its text never has them."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"broker.url is not a URL ({error}); use mqtts://host:8883") from error
        if "@" in parts.netloc:
            raise ConfigError("broker.url contains a user or password; they belong in the credential file")
        if parts.scheme not in _PORTS or not host or parts.path.strip("/") or parts.query or parts.fragment:
            raise ConfigError(
                f"broker.url {url[:120]!r} is not mqtt://host[:port] or mqtts://host[:port]; "
                "use, for example, mqtts://broker.example:8883"
            )
        if port == 0:
            raise ConfigError(f"broker.url {url[:120]!r}: port 0 is not valid")
        return cls(host=host, port=port or _PORTS[parts.scheme], tls=parts.scheme == "mqtts")

    @property
    def loopback(self) -> bool:
        """Whether the host is certainly this machine: `localhost` or a loopback address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def bind(self) -> str | None:
        """The address for a broker's `listener`: loopback, all of IPv4 or IPv6, or (None, for a name) all.

        Not the URL's own address: behind a router, the broker's machine does not have that address.
        """
        try:
            version = ipaddress.ip_address(self.host).version
        except ValueError:
            return "127.0.0.1" if self.loopback else None
        if self.loopback:
            return self.host
        return "0.0.0.0" if version == 4 else "::"  # noqa: S104 - a server; TLS and passwords guard it

    def check_secrecy(self, *, insecure: bool) -> None:
        """Raise ConfigError if passwords would cross a network in clear and `insecure` is not set."""
        if not (self.tls or self.loopback or insecure):
            raise ConfigError(
                f"broker.url {self} would send passwords in clear over the network; "
                f"use mqtts://{self.host}:8883, or set broker.insecure: true on a network you trust"
            )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"
