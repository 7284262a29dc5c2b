"""Claims of totals and of the ledger's decisions."""

from collections.abc import Mapping
from typing import Any

from gridhe.errors import StateError
from gridhe.keyring.release.decrypt import noise_label
from gridhe.keyring.release.family import PieceKey
from gridhe.keyring.release.ledger import LedgerRecord
from gridhe.keyring.release.policy import Claim
from gridhe.keyring.release.register import Members
from gridhe.plan.plan import Plan
from gridhe.wire.total import Total, TotalKey

__all__ = ["claim_of", "claim_of_record", "fields_of", "key_of", "total_of_record"]


def claim_of(total: Total, plan: Plan | None, lists: Mapping[PieceKey, Members]) -> Claim:
    """The claim of a total with these lists. `content` covers plan, key and ciphertext, as `noise_label`."""
    header = total.header
    places = [(piece.group, piece.part) for piece in header.pieces]
    return Claim(
        plan=header.plan,
        key=header.key,
        aggregator=header.aggregator,
        group=header.group,
        window=header.window,
        part=header.part,
        meters=header.meters,
        members=tuple(lists[place].digest if place in lists else b"" for place in places),
        pieces=tuple((piece.group, piece.part, piece.meters) for piece in header.pieces),
        content=noise_label(plan, total.ciphertext) if plan is not None else b"",
    )


def fields_of(claim: Claim) -> dict[str, Any]:
    """The fields of the ledger record `decided`."""
    return {
        **key_of(claim.total),
        "key": claim.key,
        "aggregator": claim.aggregator,
        "meters": claim.meters,
        "members": [digest.hex() for digest in claim.members],
        "pieces": [list(piece) for piece in claim.pieces],
        "content": claim.content.hex(),
    }


def claim_of_record(record: LedgerRecord) -> Claim:
    """The claim in a ledger record of kind `decided`. Raises StateError."""
    try:
        return Claim(
            plan=record["plan"],
            key=record["key"],
            aggregator=record["aggregator"],
            group=record["group"],
            window=record["window"],
            part=record["part"],
            meters=record["meters"],
            members=tuple(bytes.fromhex(digest) for digest in record["members"]),
            pieces=tuple((group, part, meters) for group, part, meters in record["pieces"]),
            content=bytes.fromhex(record["content"]),
        )
    except (KeyError, TypeError, ValueError):
        raise StateError(
            f"ledger line {record.get('n')} is not a complete decision; restore the ledger from a backup"
        ) from None


def total_of_record(record: LedgerRecord) -> TotalKey:
    """The key of the total that a record is about."""
    return TotalKey(record["plan"], record["group"], record["window"], record["part"])


def key_of(total: TotalKey) -> dict[str, str | int]:
    """The fields that name a total in a ledger record."""
    return {"plan": total.plan, "window": total.window, "group": total.group, "part": total.part}
