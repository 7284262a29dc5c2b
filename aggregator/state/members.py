"""Stores the members of leaf parts: which meters' batches a part holds, and their proofs.

A commit appends one row for each part changed since the last commit, with the numbers and proofs of its new
members only. So its cost depends on the batches since then, and not on how many the parts hold. A meter is
counted for a window if its number is in one of the rows of its group and window.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import msgpack

from gridhe.aggregator.fold.parts import Node
from gridhe.aggregator.fold.rows import Member
from gridhe.aggregator.state.database import Database
from gridhe.errors import StateError
from gridhe.wire.total import TotalKey

__all__ = ["Counted", "Members"]

_CACHED = 8_192  # sets of counted meters in memory, one bit per enrolled meter
_COUNTED = "SELECT COALESCE(SUM(meters), 0) FROM totals WHERE plan = ? AND grp = ? AND window = ?"


@dataclass(frozen=True, slots=True)
class Counted:
    """The meters of a leaf that are counted for a window: bit `number % 8` of byte `number // 8`."""

    bits: bytearray

    def has(self, number: int) -> bool:
        """Whether the meter with this number is counted."""
        return number >> 3 < len(self.bits) and bool(self.bits[number >> 3] >> (number & 7) & 1)

    def add(self, number: int) -> None:
        """Count the meter with this number."""
        if number >> 3 >= len(self.bits):
            self.bits.extend(bytes((number >> 3) + 1 - len(self.bits)))
        self.bits[number >> 3] |= 1 << (number & 7)


def _checksum(key: TotalKey, packed: bytes) -> bytes:
    return hashlib.blake2b(msgpack.packb((*key, packed)), digest_size=16).digest()


class Members:
    """The table of members. Raises StateError."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._counted: OrderedDict[Node, Counted] = OrderedDict()
        self._new: dict[TotalKey, list[int | bytes]] = {}  # number, proof, number, proof ... to be written

    def counted(self, node: Node) -> Counted:
        """The counted meters of a leaf's window, to be changed only by `add`.

        Raises StateError also if they are not as many as the meters in the leaf's parts.
        """
        counted = self._counted.get(node)
        if counted is None:
            counted = self._counted[node] = self.read(node)
        else:
            self._counted.move_to_end(node)
        return counted

    def read(self, node: Node) -> Counted:
        """The counted meters of a leaf's window, from the cache or the disk; not cached."""
        if node in self._counted:
            return self._counted[node]
        counted, count = Counted(bytearray()), 0
        for number, _ in self._rows("plan = ? AND grp = ? AND window = ?", *node):
            counted.add(number)
            count += 1
        distinct = int.from_bytes(counted.bits, "little").bit_count()
        if not distinct == count == self._db.query(_COUNTED, *node)[0][0]:
            raise self._db.damaged(f"the members of {node[1]}, window {node[2]} are not those of its parts")
        return counted

    def of_part(self, key: TotalKey) -> list[Member]:
        """The stored members of a leaf part: (number, proof), in the order of arrival."""
        return list(self._rows("plan = ? AND grp = ? AND window = ? AND part = ?", *key))

    def _rows(self, where: str, *values: object) -> Iterator[Member]:
        rows = self._db.query(
            f"SELECT plan, grp, window, part, members, checksum FROM members WHERE {where} ORDER BY id",  # noqa: S608
            *values,
        )
        for *columns, packed, checksum in rows:
            key = TotalKey(*columns)
            # In a damaged file SQLite can return a value of any type.
            if not isinstance(packed, bytes) or checksum != _checksum(key, packed):
                raise self._db.damaged(f"members of {key} fail their checksum")
            flat = msgpack.unpackb(packed)
            yield from zip(flat[::2], flat[1::2], strict=True)

    def damaged(self, what: str) -> StateError:
        """The error to raise for damaged content."""
        return self._db.damaged(what)

    def move(self, key: TotalKey, parts: Mapping[TotalKey, Sequence[Member]]) -> None:
        """Move all members of a part to these parts of the same window; inside a transaction."""
        self._db.write("DELETE FROM members WHERE plan = ? AND grp = ? AND window = ? AND part = ?", *key)
        self._write({part: list(chain.from_iterable(members)) for part, members in parts.items()})

    def add(self, key: TotalKey, number: int, proof: bytes) -> None:
        """Add a member to an open part."""
        self.counted(key[:3]).add(number)
        self._new.setdefault(key, []).extend((number, proof))

    def save(self) -> None:
        """Write the members added since the last commit; inside a transaction."""
        self._write(self._new)

    def _write(self, parts: Mapping[TotalKey, list[int | bytes]]) -> None:
        self._db.write_many(
            "INSERT INTO members (plan, grp, window, part, members, checksum) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (*key, packed, _checksum(key, packed))
                for key, new in parts.items()
                for packed in (msgpack.packb(new),)
            ],
        )

    def saved(self) -> None:
        """Call when the transaction is durable."""
        self._new.clear()
        while len(self._counted) > _CACHED:
            self._counted.popitem(last=False)
