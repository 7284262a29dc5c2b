"""Sealed batches, safe on disk until their receipts: SQLite, one file for a device or a whole fleet.

`commit` is one transaction (WAL, synchronous=FULL). What a crash leaves:

1. before it: nothing of it. The journal of open readings, or the repeatable source, gives the same
   readings again; none of the bytes had left the device, so sealing them anew is no second version.
2. after it: the batch with its bytes, the watermark and the journal without that window, together.
   From now on this window is published with these bytes, or not at all.
3. after a receipt, before the commit that deletes the batch: it is published again, with the same
   bytes; the aggregator answers a duplicate with another receipt.

The watermark (`sealed`: per meter, the end of the last sealed window in UTC epoch seconds) outlives
the batches. A window that ends at or before it is never sealed again.

Every row carries a checksum, and transactions are counted a second time outside the database
(gridhe.base.sqlite): a flipped byte on the disk is a StateError, and never another reading.

When the batch would be next sent is not kept: after a restart everything that waits is sent at once.
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
_CHECK_MAX_BYTES = 128 << 20  # a larger file is not read through at every start
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
    """The disk did not give a batch's bytes back as they were. The others are not concerned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBatch:
    """A window's envelope. `until_s` is the window's end, UTC epoch seconds."""

    meter: str
    plan: str
    window: int
    until_s: int
    payload: bytes = field(repr=False)
    anew: bool = False  # in place of a batch of the same window that was refused, and never counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An aggregator's last word on a batch: committed (`reason` None), or refused for good."""

    meter: str
    plan: str
    window: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A batch that waits for its receipt; `id` rises in the order of sealing."""

    id: int
    plan: str
    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a transaction did."""

    stored: tuple[tuple[str, Waiting], ...]  # by meter
    dropped: tuple[tuple[str, int], ...]  # (meter, id) of batches that had to go: the outbox was full
    repeated: int  # batches of windows that were sealed before: not stored


class Outbox:
    """Use as a context manager, or `close` it. One process at a time; not for threads."""

    def __init__(self, state_dir: Path, *, authority: str, settings: "MeterSettings") -> None:
        """Open or make the outbox of this authority in `state_dir`. Raises StateError."""
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
                if_damaged="move it away and start again; batches in it that have no receipt yet are lost, "
                "unless the source can give their readings again",
            )
            opened.callback(self._db.close)
            # Per meter: batches held here, and how many of them are refused ones.
            self._held = self._counted("SELECT meter, count(*) FROM batches GROUP BY meter")
            self._aside = self._counted(
                "SELECT meter, count(*) FROM batches WHERE state = 'refused' GROUP BY meter"
            )
            opened.pop_all()

    def _counted(self, query: str) -> Counter[str]:
        return Counter(dict(self._db.query(query)))

    def _checked(self, *row: Any) -> tuple[Any, ...]:
        """A row without its last column, which must be the others' checksum."""
        *values, checksum = row
        if _checksum(*values) != checksum:
            raise self._db.damaged("a row fails its checksum")
        return tuple(values)

    # -- reading -------------------------------------------------------------------------------

    def waiting(self, meter: str, *, after: int = 0, limit: int = 1_000) -> list[Waiting]:
        """A meter's batches that wait for a receipt, oldest first, with ids above `after`."""
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
        """A batch's bytes; None when it is gone. Raises DamagedBatch."""
        rows = self._db.query("SELECT meter, plan, window, payload, checksum FROM batches WHERE id = ?", id_)
        return self._payload(rows)

    def payload_of(self, meter: str, plan: str, window: int) -> bytes | None:
        """The bytes of a window's batch; None when it is gone. Raises DamagedBatch."""
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
        """Per meter: the end of its last sealed window."""
        rows = self._db.query("SELECT meter, until_s, checksum FROM sealed")
        return {str(meter): int(until_s) for meter, until_s in (self._checked(*row) for row in rows)}

    def journal(self, meter: str) -> bytes | None:
        """The meter's open readings as last committed."""
        rows = self._db.query("SELECT meter, state, checksum FROM journal WHERE meter = ?", meter)
        return bytes(self._checked(*rows[0])[-1]) if rows else None

    def backlog(self, meter: str) -> int:
        """How many of a meter's batches wait for a receipt."""
        return self._held[meter] - self._aside[meter]

    def meters(self) -> set[str]:
        """The meters that have batches here."""
        return {meter for meter, count in self._held.items() if count}

    def refused(self, meter: str) -> list[tuple[int, str]]:
        """A meter's refused batches: (window, reason)."""
        return self._db.query(
            "SELECT window, reason FROM batches WHERE meter = ? AND state = 'refused' ORDER BY id", meter
        )

    def note(self, name: str) -> str | None:
        """A remark kept with the outbox (where a simulation started, say)."""
        value = self._db.meta(f"note:{name}")
        return None if value is None else value.decode()

    @property
    def known_s(self) -> float | None:
        """The last time that was believed (UTC epoch seconds)."""
        note = self.note(_CLOCK)
        return None if note is None else float(note)

    # -- writing -------------------------------------------------------------------------------

    def set_note(self, name: str, value: str) -> None:
        """Keep a remark."""
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
        """All of it or nothing, durable when this returns. `clock_s`: the time, if it is believed.

        Raises DatabaseFull when the disk has no room (nothing was written: call again with the same), and
        StateError for what no retry mends.
        """
        stored: list[tuple[str, Waiting]] = []
        dropped: list[tuple[str, int]] = []
        held, aside = self._held.copy(), self._aside.copy()  # put back if the transaction fails
        repeated = 0
        try:
            with self._db.transaction():
                for word in settled:
                    self._settle(word)
                for batch in sealed:
                    kept = self._store(batch, dropped)
                    if kept is None:
                        repeated += 1
                    elif kept.id:
                        stored.append((batch.meter, kept))
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
        gone = set(dropped)
        left = tuple((meter, kept) for meter, kept in stored if (meter, kept.id) not in gone)
        return Committed(stored=left, dropped=tuple(dropped), repeated=repeated)

    def _settle(self, word: Settled) -> None:
        where = (word.meter, word.plan, word.window)
        if word.reason is None:
            was = self._db.query(
                "DELETE FROM batches WHERE meter = ? AND plan = ? AND window = ? RETURNING state", *where
            )
            self._held[word.meter] -= len(was)
            self._aside[word.meter] -= was == [("refused",)]
        else:
            self._aside[word.meter] += self._db.write(
                "UPDATE batches SET state = 'refused', reason = ? "
                "WHERE meter = ? AND plan = ? AND window = ? AND state = 'waiting'",
                word.reason[:200],
                *where,
            )

    def _store(self, batch: SealedBatch, dropped: list[tuple[str, int]]) -> Waiting | None:
        """The stored batch; None if its window was sealed before; id 0 if it had to be dropped itself."""
        rows = self._db.query("SELECT until_s FROM sealed WHERE meter = ?", batch.meter)
        if batch.anew:
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
        # (RETURNING id would copy the payload once more: 0.2 ms of 0.5.)
        [(id_,)] = self._db.query("SELECT last_insert_rowid()")
        self._held[batch.meter] += 1
        return Waiting(id=id_, plan=batch.plan, window=batch.window)

    def _set_sealed_until(self, meter: str, until_s: int) -> None:
        until = (meter, until_s)
        self._db.write("INSERT OR REPLACE INTO sealed VALUES (?, ?, ?)", *until, _checksum(*until))

    def take_back(self, meters: Iterable[str], until_s: int, batches: Iterable[Settled]) -> None:
        """Forget what these meters read and sealed while the clock was ahead, and seal from `until_s` on.

        A transaction of its own. `batches` are those of windows that have not been yet.
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
        """Whether an old batch went: a refused one in any case, else the oldest if that is the policy."""
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
        """Let go of file and lock."""
        self._db.close()
        self._lock.release()

    def __enter__(self) -> "Outbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checksum(*values: object) -> bytes:
    """BLAKE2b-128 over a row's values."""
    return hashlib.blake2b(msgpack.packb(values), digest_size=_CHECKSUM_BYTES).digest()
