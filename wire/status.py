"""Status: retained word of who is online, with a last will that says when they are not."""

from dataclasses import dataclass

from gridhe.errors import EnvelopeError
from gridhe.wire.codec import field, pack, unpack

__all__ = ["Status"]

VERSION = 1
_BYTES_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One role's state; `backlog` counts what waits.

    `incarnation` is new whenever its process starts, and when an aggregator's broker lost its session:
    what was sent before may be gone then, so meters send again.
    """

    online: bool
    version: str
    incarnation: str
    backlog: int = 0

    def encode(self) -> bytes:
        """The status as msgpack."""
        return pack(
            {
                "v": VERSION,
                "online": self.online,
                "version": self.version,
                "incarnation": self.incarnation,
                "backlog": self.backlog,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "Status":
        """The status in these bytes. Raises EnvelopeError."""
        if len(data) > _BYTES_MAX:
            raise EnvelopeError("size", f"a status of {len(data)} bytes")
        record = unpack(data)
        if field(record, "v", int) != VERSION:
            raise EnvelopeError("version", f"status version {record['v']}, this is version {VERSION}")
        backlog = field(record, "backlog", int)
        if backlog < 0:
            raise EnvelopeError("malformed", f"a backlog of {backlog}")
        return cls(
            online=field(record, "online", bool),
            version=field(record, "version", str)[:64],
            incarnation=field(record, "incarnation", str)[:64],
            backlog=backlog,
        )
