"""Stores the strands of leaf parts."""

import hashlib

import msgpack

from gridhe.aggregator.state.database import Database
from gridhe.wire.strands import STRANDS, strand_of
from gridhe.wire.total import TotalKey

__all__ = ["Strands"]

_WHERE = "WHERE plan = ? AND grp = ? AND window = ? AND part = ?"


def _checksum(key: TotalKey, strand: int, meters: int, ciphertext: bytes) -> bytes:
    digest = hashlib.sha256(msgpack.packb((*key, strand, meters)))
    digest.update(ciphertext)
    return digest.digest()[:16]


class Strands:
    """The table of strands. Raises StateError."""

    def __init__(self, database: Database, key: bytes) -> None:
        """`key`: that of `gridhe.wire.strands.strand_key`."""
        self._db, self._key = database, key

    def of(self, meter: str, window: int) -> int:
        """A meter's strand in a window."""
        return strand_of(self._key, meter, window)

    def save(self, key: TotalKey, strand: int, meters: int, ciphertext: bytes) -> None:
        """Store a strand's sum; inside a transaction."""
        checksum = _checksum(key, strand, meters, ciphertext)
        self._db.write(
            "INSERT INTO strands VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (plan, window, grp, part, strand) DO UPDATE SET meters = excluded.meters, "
            "ciphertext = excluded.ciphertext, checksum = excluded.checksum",
            *(*key, strand, meters, ciphertext, checksum),
        )

    def meters(self, key: TotalKey, total: int) -> list[int]:
        """How many meters each strand of a part of `total` meters has."""
        meters = [0] * STRANDS
        for strand, count in self._db.query(f"SELECT strand, meters FROM strands {_WHERE}", *key):  # noqa: S608
            if type(strand) is not int or not 0 <= strand < STRANDS or type(count) is not int:
                raise self._db.damaged(f"a strand of {key} is not valid")
            meters[strand] = count
        if sum(meters) != total:
            raise self._db.damaged(f"the strands of {key} do not add up to {total} meters")
        return meters

    def ciphertext(self, key: TotalKey, strand: int) -> bytes:
        """A strand's sum."""
        sql = f"SELECT meters, ciphertext, checksum FROM strands {_WHERE} AND strand = ?"  # noqa: S608
        for meters, ciphertext, checksum in self._db.query(sql, *key, strand):
            if isinstance(ciphertext, bytes) and checksum == _checksum(key, strand, meters, ciphertext):
                return ciphertext
        raise self._db.damaged(f"strand {strand} of {key} is missing or fails its checksum")

    def delete(self, key: TotalKey) -> None:
        """Delete the strands of a part; inside a transaction."""
        self._db.write(f"DELETE FROM strands {_WHERE}", *key)  # noqa: S608
