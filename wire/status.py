"""Status: a retained message for each role that is online or offline; the last will sets it to offline."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field

from gridhe.errors import EnvelopeError
from gridhe.wire.codec import field, pack, unpack

__all__ = ["Status"]

VERSION = 1
_BYTES_MAX = 1024
_EVENTS_MAX = 16
_EVENT = re.compile(r"[a-z][a-z_]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The status of one role; `backlog` is the number of waiting batches or totals.

    `incarnation` is new after every start of the process, and after the broker lost the session of an
    aggregator. Earlier messages may be lost then, so meters send again. The authority's status also has
    `failed`, the number of totals that failed its checks so far, and `stopped`, the number of aggregators,
    groups and keys that are stopped and of meters that are excluded now. A meter's status has `events`: the
    count of each named event at its device, such as `swap` (the meter was exchanged). It has no readings.
    """

    online: bool
    version: str
    incarnation: str
    backlog: int = 0
    failed: int = 0
    stopped: int = 0
    events: Mapping[str, int] = dataclass_field(default_factory=dict)

    def encode(self) -> bytes:
        """The status as msgpack."""
        return pack(
            {
                "v": VERSION,
                "online": self.online,
                "version": self.version,
                "incarnation": self.incarnation,
                "backlog": self.backlog,
                **({"failed": self.failed} if self.failed else {}),
                **({"stopped": self.stopped} if self.stopped else {}),
                **({"events": dict(self.events)} if self.events else {}),
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
        counts = {"failed": 0, "stopped": 0, **record}
        backlog, failed, stopped = (field(counts, name, int) for name in ("backlog", "failed", "stopped"))
        if min(backlog, failed, stopped) < 0:
            raise EnvelopeError("malformed", f"a count of {min(backlog, failed, stopped)}")
        events = field({"events": {}, **record}, "events", dict)
        if len(events) > _EVENTS_MAX:
            raise EnvelopeError("malformed", f"{len(events)} events")
        for name in events:
            if not isinstance(name, str) or not _EVENT.fullmatch(name) or field(events, name, int) < 0:
                raise EnvelopeError("malformed", "an event that is no name with a count")
        return cls(
            online=field(record, "online", bool),
            version=field(record, "version", str)[:64],
            incarnation=field(record, "incarnation", str)[:64],
            backlog=backlog,
            failed=failed,
            stopped=stopped,
            events=events,
        )
