"""The answers to released totals, stored so that the same request gets the same answer. One SQLite file.

Each answer is stored with the ledger's head at that moment (gridhe.keyring.release.ledger), and with the
versions of the other files of the home (gridhe.keyring.release.consistency), in the same transaction. For a
withheld interval, only the reason is stored. `given` lists the totals whose line is in the `--out` file.

`lists` has the member list of each decided piece (gridhe.keyring.release.register), with the version of the
roster that its bitmap refers to. A list is stored before the ledger's decision, which has its digest; without
a decision it does not count, and the next one replaces it. `sums` are the sums of the members' guards, stored
with the answer of the first opened total that has the piece.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np
from numpy.typing import NDArray

from gridhe.base.sqlite import SqliteDatabase
from gridhe.errors import StateError
from gridhe.keyring.release.family import WITHHELD, PieceKey
from gridhe.keyring.release.ledger import START, Head
from gridhe.wire.total import MemberList, Piece, TotalKey

__all__ = ["Answer", "Answers"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    plan TEXT NOT NULL, win INTEGER NOT NULL, grp TEXT NOT NULL, part INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (plan, win, grp, part)
);
CREATE TABLE IF NOT EXISTS head (id INTEGER PRIMARY KEY CHECK (id = 1), count INTEGER NOT NULL, hash TEXT
NOT NULL);
CREATE TABLE IF NOT EXISTS lists (
    plan TEXT NOT NULL, win INTEGER NOT NULL, grp TEXT NOT NULL, part INTEGER NOT NULL,
    roster INTEGER NOT NULL, bitmap BLOB NOT NULL, proofs BLOB NOT NULL, sums BLOB,
    PRIMARY KEY (plan, win, grp, part)
);
CREATE TABLE IF NOT EXISTS versions (name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
"""
_GIVEN = """
CREATE TABLE given (
    plan TEXT NOT NULL, win INTEGER NOT NULL, grp TEXT NOT NULL, part INTEGER NOT NULL,
    PRIMARY KEY (plan, win, grp, part)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A released total: integers per quantity, kind of block and interval.

    `withheld[quantity]` has a reason for each interval that was not given out, "" for the others; the
    integers of a withheld interval are 0. `expected`: the meters that were enrolled in the group for this
    window when the total was opened.
    """

    blocks: Mapping[str, Mapping[str, tuple[int, ...]]]
    withheld: Mapping[str, tuple[str, ...]]
    expected: int

    @classmethod
    def of(
        cls,
        blocks: Mapping[str, Mapping[str, NDArray[np.int64]]],
        withheld: Mapping[str, list[str]],
        *,
        expected: int,
    ) -> "Answer":
        """The answer for decrypted blocks, int64[intervals] each, without the withheld intervals."""
        shown = {name: np.array([not reason for reason in reasons]) for name, reasons in withheld.items()}
        return cls(
            blocks={
                name: {
                    kind: tuple(np.where(shown[name], values, 0).tolist()) for kind, values in kinds.items()
                }
                for name, kinds in blocks.items()
            },
            withheld={name: tuple(reasons) for name, reasons in withheld.items()},
            expected=expected,
        )

    def given(self) -> dict[str, NDArray[np.int64]]:
        """Per quantity the released present counts, int64[intervals], WITHHELD for a withheld interval."""
        return {
            name: np.array(
                [
                    WITHHELD if reason else count
                    for count, reason in zip(kinds["present"], reasons, strict=True)
                ],
                np.int64,
            )
            for (name, kinds), reasons in zip(self.blocks.items(), self.withheld.values(), strict=True)
        }

    def encode(self) -> bytes:
        """The answer as msgpack."""
        body: bytes = msgpack.packb([self.blocks, self.withheld, self.expected])
        return body

    @classmethod
    def decode(cls, data: bytes) -> "Answer":
        """The answer that `encode` wrote. Raises StateError if it is damaged."""
        try:
            blocks, withheld, expected = msgpack.unpackb(data, use_list=False)
            return cls(blocks=blocks, withheld=withheld, expected=expected)
        except (ValueError, TypeError):
            raise StateError("a stored answer is damaged; restore answers.db from a backup") from None


def digest_of(body: bytes) -> str:
    """The digest of an answer that the ledger records."""
    return hashlib.sha256(body).hexdigest()


class Answers:
    """The answers' database. Raises StateError if it is damaged or the disk fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = SqliteDatabase(path, _SCHEMA)
        try:
            with self._db.transaction():
                if not self._db.query("SELECT 1 FROM sqlite_master WHERE name = 'given'"):
                    self._db.write(_GIVEN)
                    # A home older than this table: its totals were given out when they were released.
                    self._db.write(
                        "INSERT INTO given (plan, grp, win, part) SELECT plan, grp, win, part FROM answers"
                    )
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def head(self) -> Head:
        """The ledger's head when the last answer was stored."""
        rows = self._db.query("SELECT count, hash FROM head")
        return Head(*rows[0]) if rows else START

    def version(self, name: str) -> int:
        """The version of another file of the home when the last answer was stored; 0 if unknown."""
        rows = self._db.query("SELECT version FROM versions WHERE name = ?", name)
        return int(rows[0][0]) if rows else 0

    def store(
        self,
        total: TotalKey,
        body: bytes,
        head: Head,
        versions: Mapping[str, int] = {},
        sums: Mapping[PieceKey, bytes] = {},
    ) -> None:
        """Store an answer, its pieces' guard sums, the ledger's head and other files' versions.

        On the disk when this returns.
        """
        with self._db.transaction():
            self._db.write(
                "INSERT INTO answers (plan, grp, win, part, body) VALUES (?, ?, ?, ?, ?)", *total, body
            )
            for (group, part), data in sums.items():
                self._db.write(
                    "UPDATE lists SET sums = ? WHERE plan = ? AND win = ? AND grp = ? AND part = ?",
                    data,
                    total.plan,
                    total.window,
                    group,
                    part,
                )
            self._db.write("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", head.count, head.hash)
            self._db.write_many("INSERT OR REPLACE INTO versions VALUES (?, ?)", versions.items())

    def store_lists(self, plan: str, window: int, roster: int, pieces: Iterable[Piece], head: Head) -> None:
        """Store the member lists of pieces, and the ledger's head; on the disk when this returns."""
        rows = [
            (plan, window, piece.group, piece.part, roster, piece.members.bitmap, piece.members.proofs)
            for piece in pieces
            if piece.members is not None
        ]
        with self._db.transaction():
            self._db.write("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", head.count, head.hash)
            self._db.write_many(
                "INSERT OR REPLACE INTO lists (plan, win, grp, part, roster, bitmap, proofs)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def lists(self, plan: str, window: int) -> Iterator[tuple[PieceKey, int, MemberList]]:
        """The stored lists of a window: piece, roster version and list."""
        query = "SELECT grp, part, roster, bitmap, proofs FROM lists WHERE plan = ? AND win = ?"
        for group, part, roster, bitmap, proofs in self._db.query(query, plan, window):
            yield (group, part), roster, MemberList(bitmap, proofs)

    def listed(self) -> Iterator[TotalKey]:
        """Every piece with a stored list, as the key of its own total."""
        yield from (TotalKey(*row) for row in self._db.stream("SELECT plan, grp, win, part FROM lists"))

    def sums(self, piece: TotalKey) -> bytes | None:
        """The stored guard sums of a piece."""
        query = "SELECT sums FROM lists WHERE plan = ? AND grp = ? AND win = ? AND part = ?"
        rows = self._db.query(query, *piece)
        return bytes(rows[0][0]) if rows and rows[0][0] is not None else None

    def get(self, total: TotalKey) -> bytes | None:
        """The encoded answer of a total."""
        query = "SELECT body FROM answers WHERE plan = ? AND grp = ? AND win = ? AND part = ?"
        rows = self._db.query(query, *total)
        return bytes(rows[0][0]) if rows else None

    def totals(self) -> Iterator[TotalKey]:
        """Every total that has an answer."""
        yield from (TotalKey(*row) for row in self._db.stream("SELECT plan, grp, win, part FROM answers"))

    def given(self, total: TotalKey) -> bool:
        """Whether this total's line is in the `--out` file."""
        query = "SELECT 1 FROM given WHERE plan = ? AND grp = ? AND win = ? AND part = ?"
        return bool(self._db.query(query, *total))

    def not_given(self) -> list[TotalKey]:
        """The answered totals whose line is not in the `--out` file, by window, group and part."""
        rows = self._db.query(
            "SELECT plan, grp, win, part FROM answers EXCEPT SELECT plan, grp, win, part FROM given"
            " ORDER BY win, grp, part, plan"
        )
        return [TotalKey(*row) for row in rows]

    def mark_given(self, total: TotalKey) -> None:
        """Note that the `--out` file has this total's line; on the disk when this returns."""
        with self._db.transaction():
            self._db.write("INSERT OR IGNORE INTO given (plan, grp, win, part) VALUES (?, ?, ?, ?)", *total)
