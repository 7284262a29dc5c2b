"""Receipts: from the aggregator to a meter, and from the authority to an aggregator.

msgpack array of two byte strings [body, tag]; the tag is HMAC-SHA256 over a domain and the body with the
receiver's ingest key, so that nobody else can make a meter delete a batch. The domain, `gridhe/v2/receipt/`,
the kind (`batches` or `totals`) and a zero byte, keeps one kind of receipt from passing for the other.
"""

from dataclasses import dataclass

from gridhe.errors import ConfigError, EnvelopeError
from gridhe.plan.names import ROOT_GROUP, check_group, check_name
from gridhe.wire.codec import field, pack, plan_id, tag, tag_matches, unpack, unpack_bins
from gridhe.wire.envelope import WINDOW_MAX
from gridhe.wire.total import TotalKey

__all__ = [
    "LATE",
    "MOVED",
    "RATE",
    "RECEIPT_BYTES_MAX",
    "TRANSIENT_REASONS",
    "TRANSIENT_TOTAL_REASONS",
    "Receipt",
    "RefusedTotal",
    "TotalReceipt",
]

VERSION = 2
RECEIPT_BYTES_MAX = 1 << 20
# Refusals with a cause that can pass: a clock moves on or is set, the aggregator receives the plan or the
# roster, a full part closes, the aggregator commits (`rate`). With `after_plan` the meter waits for the next
# plan and seals the window again. A meter keeps these batches and sends them again later; any other refusal
# is final.
LATE, MOVED, RATE = "late", "group", "rate"
TRANSIENT_REASONS = frozenset(
    {"after_plan", "capacity", "clock", "early", LATE, "not_enrolled", "plan", RATE}
)
# The same for totals. This refusal is not final, because a forged total can cause it.
TRANSIENT_TOTAL_REASONS = frozenset({"signature"})
_BATCHES, _TOTALS = b"gridhe/v2/receipt/batches\0", b"gridhe/v2/receipt/totals\0"


def _seal(domain: bytes, body: bytes, ingest_key: bytes) -> bytes:
    return pack([body, tag(ingest_key, domain, body)])


def _open(data: bytes, ingest_key: bytes, domain: bytes) -> dict[str, object]:
    body, received_tag = unpack_bins(data, 2, RECEIPT_BYTES_MAX)
    if not tag_matches(received_tag, ingest_key, domain, body):
        if tag_matches(received_tag, ingest_key, body):  # version 1 had no domain
            raise EnvelopeError("version", f"receipt version 1, this is version {VERSION}")
        raise EnvelopeError("tag", "the receipt's tag does not match")
    record = unpack(body)
    if field(record, "v", int) != VERSION:
        raise EnvelopeError("version", f"receipt version {record['v']}, this is version {VERSION}")
    return dict(record)


def _windows(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(map(_is_window, values)):
        raise EnvelopeError("malformed", f"windows must be integers, 0 to {WINDOW_MAX - 1}")
    return values


def _is_window(value: object) -> bool:
    return type(value) is int and 0 <= value < WINDOW_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Committed windows of one plan and meter, and refused ones, each with its reason."""

    plan: str
    meter: str
    committed: tuple[int, ...] = ()
    refused: tuple[tuple[int, str], ...] = ()

    def encode(self, ingest_key: bytes) -> bytes:
        """The receipt's bytes, tagged for this meter."""
        refused = [[window, reason] for window, reason in self.refused]
        body = {
            "v": VERSION,
            "plan": self.plan,
            "meter": self.meter,
            "committed": list(self.committed),
            "refused": refused,
        }
        return _seal(_BATCHES, pack(body), ingest_key)

    @classmethod
    def decode(cls, data: bytes, ingest_key: bytes) -> "Receipt":
        """The receipt in these bytes. Raises EnvelopeError, also if the tag does not match."""
        record = _open(data, ingest_key, _BATCHES)
        refused = []
        for entry in field(record, "refused", tuple):
            if not (isinstance(entry, tuple) and len(entry) == 2 and type(entry[1]) is str):
                raise EnvelopeError("malformed", "refused must be pairs of a window and a reason")
            _windows(entry[:1])
            refused.append((entry[0], entry[1]))
        return cls(
            plan=field(record, "plan", str, check=plan_id),
            meter=field(record, "meter", str, check=check_name),
            committed=_windows(record.get("committed")),
            refused=tuple(refused),
        )


def _check_total_group(group: str) -> None:
    if group != ROOT_GROUP:
        check_group(group)


RefusedTotal = tuple[str, str, int, int, str]  # the fields of its TotalKey, and the reason


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalReceipt:
    """Totals that the authority has opened (`stored`), and totals that it refused, each with its reason.

    The reason is the name of a rule. `unsound` stands for every check of the decrypted slots, so that a
    receipt does not show which one failed.
    """

    aggregator: str
    stored: tuple[TotalKey, ...] = ()
    refused: tuple[RefusedTotal, ...] = ()

    def encode(self, ingest_key: bytes) -> bytes:
        """The receipt's bytes, tagged for this aggregator."""
        body = {
            "v": VERSION,
            "aggregator": self.aggregator,
            "stored": [list(entry) for entry in self.stored],
            "refused": [list(entry) for entry in self.refused],
        }
        return _seal(_TOTALS, pack(body), ingest_key)

    @classmethod
    def decode(cls, data: bytes, ingest_key: bytes) -> "TotalReceipt":
        """The receipt in these bytes. Raises EnvelopeError, also if the tag does not match."""
        record = _open(data, ingest_key, _TOTALS)
        stored = tuple(_total_key(entry) for entry in field(record, "stored", tuple))
        refused = []
        for entry in field(record, "refused", tuple):
            if not (isinstance(entry, tuple) and len(entry) == 5 and type(entry[4]) is str):
                raise EnvelopeError("malformed", "refused must be lists of a total and a reason")
            refused.append((*_total_key(entry[:4]), entry[4]))
        aggregator = field(record, "aggregator", str, check=check_name)
        return cls(aggregator=aggregator, stored=stored, refused=tuple(refused))


def _total_key(entry: object) -> TotalKey:
    if not isinstance(entry, tuple) or [type(part) for part in entry] != [str, str, int, int]:
        raise EnvelopeError("malformed", "a total must be a list of plan, group, window and part")
    plan, group, window, part = entry
    _windows((window, part))
    try:
        plan_id(plan)
        _check_total_group(group)
    except ConfigError as error:
        raise EnvelopeError("malformed", str(error)) from None
    return TotalKey(plan, group, window, part)
