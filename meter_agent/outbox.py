"""Stores sealed batches on disk until their receipts: SQLite, one file for a device or a whole fleet.

`commit` is one transaction (WAL, synchronous=FULL). What a crash leaves:

1. before it: nothing. The journal of open readings, or the repeatable source, gives the same readings
   again. None of the bytes were published, so sealing the window again makes no second version.
2. after it: the batch, the watermark and the journal without that window, together. From now on
   this window is published with these bytes, or not at all.
3. after a receipt, before the commit that deletes the batch: the batch is published again with the
   same bytes, and the aggregator answers the duplicate with another receipt.

The watermark (`sealed`: per meter, the end of the last sealed window in UTC epoch seconds) outlives
the batches. A window that ends at or before it is never sealed again.

Every row carries a checksum, and the number of transactions is also kept outside the database
(gridhe.base.sqlite): a flipped byte on the disk raises StateError and never changes a reading.

The time of the next resend is not stored: after a restart all waiting batches are sent at once.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from gridhe.base.failpoints import failpoint
from gridhe.base.files import make_private_dir
from gridhe.base.lock import DirectoryLock
from gridhe.base.sqlite import SqliteDatabase
from gridhe.errors import StateError

if TYPE_CHECKING:
    from gridhe.config.settings import MeterSettings

__all__ = ["Committed", "DamagedBatch", "Outbox", "SealedBatch", "Settled", "Waiting"]

_LOG = logging.getLogger(__name__)
_VERSION = 3  # 2: checksums. 3: transactions are counted in a table
_CHECK_MAX_BYTES = 128 << 20  # a larger file is not checked at every start
_CACHE_KIB = 2_048
_CHECKSUM_BYTES = 16
_CLOCK = "clock_s"
_SCHEMA = """
CREATE TABLE batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    meter TEXT NOT NULL,
    plan TEXT NOT NULL,
    window INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'refused')),
    reason TEXT,
    payload BLOB NOT NULL,
    checksum BLOB NOT NULL
);
CREATE UNIQUE INDEX batch ON batches (meter, plan, window);
CREATE INDEX queue ON batches (meter, state, id);
CREATE TABLE sealed (meter TEXT PRIMARY KEY, until_s INTEGER NOT NULL, checksum BLOB NOT NULL)
    WITHOUT ROWID;
CREATE TABLE journal (meter TEXT PRIMARY KEY, state BLOB NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID;
"""


class DamagedBatch(StateError):
    """A stored batch fails its checksum. Other batches are not affected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBatch:
    """A window's envelope. `until_s` is the window's end, UTC epoch seconds."""

    meter: str
    plan: str
    window: int
    until_s: int
    payload: bytes = field(repr=False)
    replaces: bool = False  # replaces a refused, never counted batch of the same window


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The final result of a batch: committed (`reason` None), or refused permanently."""

    meter: str
    plan: str
    window: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A batch that waits for its receipt; `id` increases in the order of sealing."""

    id: int
    plan: str
    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The result of a transaction."""

    stored: tuple[tuple[str, Waiting], ...]  # by meter
    dropped: tuple[tuple[str, int], ...]  # (meter, id) of batches deleted because the outbox was full
    repeated: int  # batches of windows that were sealed before: not stored


class Outbox:
    """Use as a context manager, or call `close`. One process at a time; not thread-safe."""

    def __init__(self, state_dir: Path, *, authority: str, settings: "MeterSettings") -> None:
        """Open or create the outbox of this authority in `state_dir`. Raises StateError."""
        make_private_dir(state_dir)
        self.path = state_dir / "outbox.sqlite"
        self._max = settings.outbox_max_batches
        self._drop_oldest = settings.outbox_when_full == "drop_oldest"
        self._lock = DirectoryLock(state_dir)
        with ExitStack() as opened:
            opened.callback(self._lock.release)
            self._db = SqliteDatabase(
                self.path,
                _SCHEMA,
                version=_VERSION,
                owner={"authority": authority},
                pragmas=(
                    "page_size = 8192",
                    f"cache_size = -{_CACHE_KIB}",
                    "secure_delete = FAST",  # the journal holds readings: none in free pages
                    "journal_size_limit = 16777216",
                ),
                commits=state_dir / "commits",
                check_max_bytes=_CHECK_MAX_BYTES,
                if_damaged="move it away and start again; its batches without a receipt are lost, unless the "
                "source can give their readings again",
            )
            opened.callback(self._db.close)
            # Per meter: count of stored batches, and of the refused ones among them.
            self._held = self._counted("SELECT meter, count(*) FROM batches GROUP BY meter")
            self._aside = self._counted(
                "SELECT meter, count(*) FROM batches WHERE state = 'refused' GROUP BY meter"
            )
            opened.pop_all()

    def _counted(self, query: str) -> Counter[str]:
        return Counter(dict(self._db.query(query)))

    def _checked(self, *row: Any) -> tuple[Any, ...]:
        """A row without its last column, the checksum of the others. Raises StateError."""
        *values, checksum = row
        if _checksum(*values) != checksum:
            raise self._db.damaged("a row fails its checksum")
        return tuple(values)

    # -- reading -------------------------------------------------------------------------------

    def waiting(self, meter: str, *, after: int = 0, limit: int = 1_000) -> list[Waiting]:
        """At most `limit` batches that wait for a receipt, oldest first, with ids above `after`."""
        rows = self._db.query(
            "SELECT id, plan, window FROM batches WHERE meter = ? AND state = 'waiting' AND id > ? "
            "ORDER BY id LIMIT ?",
            meter,
            after,
            limit,
        )
        return [Waiting(id=id_, plan=plan, window=window) for id_, plan, window in rows]

    def waiting_from(self, plan: str, window: int) -> list[tuple[str, Waiting]]:
        """(meter, batch) of every waiting batch of a plan from this window on."""
        rows = self._db.query(
            "SELECT meter, id, plan, window FROM batches "
            "WHERE plan = ? AND window >= ? AND state = 'waiting' ORDER BY id",
            plan,
            window,
        )
        return [(meter, Waiting(id=id_, plan=plan, window=window)) for meter, id_, plan, window in rows]

    def payload(self, id_: int) -> bytes | None:
        """A batch's bytes; None if it was deleted. Raises DamagedBatch."""
        rows = self._db.query("SELECT meter, plan, window, payload, checksum FROM batches WHERE id = ?", id_)
        return self._payload(rows)

    def payload_of(self, meter: str, plan: str, window: int) -> bytes | None:
        """The bytes of a window's batch; None if it was deleted. Raises DamagedBatch."""
        return self._payload(
            self._db.query(
                "SELECT meter, plan, window, payload, checksum FROM batches "
                "WHERE meter = ? AND plan = ? AND window = ?",
                meter,
                plan,
                window,
            )
        )

    @staticmethod
    def _payload(rows: list[tuple[Any, ...]]) -> bytes | None:
        if not rows:
            return None
        *content, checksum = rows[0]
        if _checksum(*content) != checksum or not isinstance(content[-1], bytes):
            raise DamagedBatch("a batch fails its checksum")
        return content[-1]

    def sealed_until_s(self) -> dict[str, int]:
        """Per meter: the end of its last sealed window, UTC epoch seconds."""
        rows = self._db.query("SELECT meter, until_s, checksum FROM sealed")
        return {str(meter): int(until_s) for meter, until_s in (self._checked(*row) for row in rows)}

    def journal(self, meter: str) -> bytes | None:
        """The meter's open readings, as last committed; None without any."""
        rows = self._db.query("SELECT meter, state, checksum FROM journal WHERE meter = ?", meter)
        return bytes(self._checked(*rows[0])[-1]) if rows else None

    def backlog(self, meter: str) -> int:
        """Count of a meter's batches that wait for a receipt."""
        return self._held[meter] - self._aside[meter]

    def meters(self) -> set[str]:
        """The meters with stored batches."""
        return {meter for meter, count in self._held.items() if count}

    def refused(self, meter: str) -> list[tuple[int, str]]:
        """A meter's refused batches: (window, reason)."""
        return self._db.query(
            "SELECT window, reason FROM batches WHERE meter = ? AND state = 'refused' ORDER BY id", meter
        )

    def note(self, name: str) -> str | None:
        """A named value stored with the outbox, such as the start of a simulation; None if it is not set."""
        value = self._db.meta(f"note:{name}")
        return None if value is None else value.decode()

    @property
    def known_s(self) -> float | None:
        """The last committed time of a believed clock (UTC epoch seconds)."""
        note = self.note(_CLOCK)
        return None if note is None else float(note)

    # -- writing -------------------------------------------------------------------------------

    def set_note(self, name: str, value: str) -> None:
        """Store a named value, in a transaction of its own."""
        with self._db.transaction():
            self._db.set_meta(f"note:{name}", value.encode())

    def commit(
        self,
        *,
        sealed: Sequence[SealedBatch] = (),
        settled: Iterable[Settled] = (),
        journals: Mapping[str, bytes] | None = None,
        clock_s: float | None = None,
    ) -> Committed:
        """Write everything or nothing; durable on return. `clock_s`: the time, if the clock is believed.

        Raises DatabaseFull when the disk has no room (nothing was written: call again with the same
        arguments), and StateError for faults that a retry cannot cure.
        """
        stored: list[tuple[str, Waiting]] = []
        dropped: list[tuple[str, int]] = []
        held, aside = self._held.copy(), self._aside.copy()  # restored if the transaction fails
        repeated = 0
        try:
            with self._db.transaction():
                for final in settled:
                    self._settle(final)
                for batch in sealed:
                    waiting = self._store(batch, dropped)
                    if waiting is None:
                        repeated += 1
                    elif waiting.id:
                        stored.append((batch.meter, waiting))
                for meter, state in (journals or {}).items():
                    checksum = _checksum(meter, state)
                    self._db.write("INSERT OR REPLACE INTO journal VALUES (?, ?, ?)", meter, state, checksum)
                if clock_s is not None:
                    self._db.set_meta(f"note:{_CLOCK}", str(clock_s).encode())
                failpoint("meter.3.written")
        except StateError:
            self._held, self._aside = held, aside
            raise
        if dropped:
            oldest = "oldest" if self._drop_oldest else "newest"
            _LOG.warning(
                "the outbox is full (meter.outbox_max_batches %d): dropped %d batches, %s first",
                self._max,
                len(dropped),
                oldest,
            )
        deleted = set(dropped)
        left = tuple((meter, waiting) for meter, waiting in stored if (meter, waiting.id) not in deleted)
        return Committed(stored=left, dropped=tuple(dropped), repeated=repeated)

    def _settle(self, batch: Settled) -> None:
        where = (batch.meter, batch.plan, batch.window)
        if batch.reason is None:
            states = self._db.query(
                "DELETE FROM batches WHERE meter = ? AND plan = ? AND window = ? RETURNING state", *where
            )
            self._held[batch.meter] -= len(states)
            self._aside[batch.meter] -= states == [("refused",)]
        else:
            self._aside[batch.meter] += self._db.write(
                "UPDATE batches SET state = 'refused', reason = ? "
                "WHERE meter = ? AND plan = ? AND window = ? AND state = 'waiting'",
                batch.reason[:200],
                *where,
            )

    def _store(self, batch: SealedBatch, dropped: list[tuple[str, int]]) -> Waiting | None:
        """The stored batch; None if its window was sealed before; id 0 if the batch itself was dropped."""
        rows = self._db.query("SELECT until_s FROM sealed WHERE meter = ?", batch.meter)
        if batch.replaces:
            self._settle(Settled(meter=batch.meter, plan=batch.plan, window=batch.window))
        elif rows and batch.until_s <= rows[0][0]:
            return None
        else:
            self._set_sealed_until(batch.meter, batch.until_s)
        if self._held[batch.meter] >= self._max and not self._make_room(batch.meter, dropped):
            dropped.append((batch.meter, 0))
            return Waiting(id=0, plan=batch.plan, window=batch.window)
        content = (batch.meter, batch.plan, batch.window, batch.payload)
        self._db.write(
            "INSERT INTO batches (meter, plan, window, state, payload, checksum) "
            "VALUES (?, ?, ?, 'waiting', ?, ?)",
            *content,
            _checksum(*content),
        )
        # RETURNING id would copy the payload once more: 0.2 ms of 0.5 ms.
        [(id_,)] = self._db.query("SELECT last_insert_rowid()")
        self._held[batch.meter] += 1
        return Waiting(id=id_, plan=batch.plan, window=batch.window)

    def _set_sealed_until(self, meter: str, until_s: int) -> None:
        until = (meter, until_s)
        self._db.write("INSERT OR REPLACE INTO sealed VALUES (?, ?, ?)", *until, _checksum(*until))

    def take_back(self, meters: Iterable[str], until_s: int, batches: Iterable[Settled]) -> None:
        """Delete the journals of these meters and `batches` (of future windows); seal from `until_s` on.

        Called after a step back of the clock. A transaction of its own.
        """
        held, aside = self._held.copy(), self._aside.copy()
        try:
            with self._db.transaction():
                for batch in batches:
                    self._settle(replace(batch, reason=None))
                for meter in meters:
                    self._set_sealed_until(meter, until_s)
                    self._db.write("DELETE FROM journal WHERE meter = ?", meter)
        except StateError:
            self._held, self._aside = held, aside
            raise

    def _make_room(self, meter: str, dropped: list[tuple[str, int]]) -> bool:
        """Delete a refused batch, else the oldest if the policy allows it. Returns True if it did."""
        states = ("refused", "waiting") if self._drop_oldest else ("refused",)
        for state in states:
            rows = self._db.query(
                "SELECT id FROM batches WHERE meter = ? AND state = ? ORDER BY id LIMIT 1", meter, state
            )
            if rows:
                [(id_,)] = rows
                self._db.write("DELETE FROM batches WHERE id = ?", id_)
                self._held[meter] -= 1
                self._aside[meter] -= state == "refused"
                dropped.append((meter, id_))
                return True
        return False

    # -- closing -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the database and release the lock."""
        self._db.close()
        self._lock.release()

    def __enter__(self) -> "Outbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checksum(*values: object) -> bytes:
    """BLAKE2b-128 over a row's values."""
    return hashlib.blake2b(msgpack.packb(values), digest_size=_CHECKSUM_BYTES).digest()
