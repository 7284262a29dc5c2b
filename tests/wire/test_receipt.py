"""Receipts: only the aggregator's word makes a meter forget, only the authority's an aggregator."""

import hmac
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import EnvelopeError
from gridhe.wire.receipt import RECEIPT_BYTES_MAX, TRANSIENT_REASONS, Receipt, TotalReceipt

KEY = bytes(range(32))
PLAN = "p" + "0" * 16
RECEIPT = Receipt(plan=PLAN, meter="m1", committed=(1, 2, 2**48 - 1), refused=((3, "late"), (4, "early")))
TOTALS = TotalReceipt(aggregator="main", stored=((PLAN, "north/f1", 5, 0), (PLAN, "grid", 5, 1)))

REFUSED = TotalReceipt(aggregator="main", refused=((PLAN, "grid", 5, 1, "unsound"),))


DOMAINS: dict[type, bytes] = {
    Receipt: b"gridhe/v2/receipt/batches\0",
    TotalReceipt: b"gridhe/v2/receipt/totals\0",
}


def sealed(kind: type[Receipt] | type[TotalReceipt], body: Any, key: bytes = KEY) -> bytes:
    packed = msgpack.packb(body)
    found: bytes = msgpack.packb([packed, hmac.digest(key, DOMAINS[kind] + packed, "sha256")])
    return found


def body_of(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgpack.unpackb(msgpack.unpackb(data)[0])
    return found


def reason(kind: type[Receipt] | type[TotalReceipt], data: bytes, key: bytes = KEY) -> str:
    with pytest.raises(EnvelopeError) as caught:
        kind.decode(data, key)
    return caught.value.reason


windows = st.integers(0, 2**48 - 1)


@given(st.lists(windows), st.lists(st.tuples(windows, st.text(max_size=20))))
def test_a_receipt_survives_its_bytes(committed: list[int], refused: list[tuple[int, str]]) -> None:
    receipt = Receipt(plan=PLAN, meter="m1", committed=tuple(committed), refused=tuple(refused))
    assert Receipt.decode(receipt.encode(KEY), KEY) == receipt


groups = st.sampled_from(["grid", "a", "a/b/c"])


@given(
    st.lists(st.tuples(st.just(PLAN), groups, windows, windows)),
    st.lists(st.tuples(st.just(PLAN), groups, windows, windows, st.text(max_size=20))),
)
def test_a_receipt_for_totals_survives_its_bytes(
    stored: list[tuple[str, str, int, int]], refused: list[tuple[str, str, int, int, str]]
) -> None:
    receipt = TotalReceipt(aggregator="main", stored=tuple(stored), refused=tuple(refused))
    assert TotalReceipt.decode(receipt.encode(KEY), KEY) == receipt


def test_the_bytes_are_a_body_and_the_hmac_of_its_domain_and_it() -> None:
    body, tag = msgpack.unpackb(RECEIPT.encode(KEY))
    assert tag == hmac.digest(KEY, b"gridhe/v2/receipt/batches\0" + body, "sha256")
    assert msgpack.unpackb(body) == {
        "v": 2,
        "plan": PLAN,
        "meter": "m1",
        "committed": [1, 2, 2**48 - 1],
        "refused": [[3, "late"], [4, "early"]],
    }
    body, tag = msgpack.unpackb(TOTALS.encode(KEY))
    assert tag == hmac.digest(KEY, b"gridhe/v2/receipt/totals\0" + body, "sha256")
    assert msgpack.unpackb(body) == {
        "v": 2,
        "aggregator": "main",
        "stored": [[PLAN, "north/f1", 5, 0], [PLAN, "grid", 5, 1]],
        "refused": [],
    }
    assert body_of(REFUSED.encode(KEY)) == {
        "v": 2,
        "aggregator": "main",
        "stored": [],
        "refused": [[PLAN, "grid", 5, 1, "unsound"]],
    }


@pytest.mark.parametrize("receipt", [RECEIPT, TOTALS, REFUSED])
def test_every_flipped_bit_and_another_key_are_refused(receipt: Receipt | TotalReceipt) -> None:
    data = receipt.encode(KEY)
    assert reason(type(receipt), data, bytes(32)) == "tag"
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        assert reason(type(receipt), bytes(damaged)) in ("tag", "malformed")


@pytest.mark.parametrize("tag", [b"", bytes(31), bytes(33), bytes(32)])
def test_a_tag_of_another_size_does_not_match(tag: bytes) -> None:
    body = msgpack.packb(body_of(RECEIPT.encode(KEY)))
    assert reason(Receipt, msgpack.packb([body, tag])) == "tag"


def test_one_kind_of_receipt_is_not_taken_for_the_other() -> None:
    assert reason(TotalReceipt, RECEIPT.encode(KEY)) == "tag"
    assert reason(Receipt, TOTALS.encode(KEY)) == "tag"


@pytest.mark.parametrize("receipt", [RECEIPT, TOTALS])
def test_a_receipt_of_another_version_says_so(receipt: Receipt | TotalReceipt) -> None:
    kind, body = type(receipt), body_of(receipt.encode(KEY))
    assert reason(kind, sealed(kind, {**body, "v": 3})) == "version"
    packed = msgpack.packb({**body, "v": 1, "kind": "batches"})
    first = msgpack.packb([packed, hmac.digest(KEY, packed, "sha256")])
    assert reason(kind, first) == "version"
    assert reason(kind, first, bytes(32)) == "tag"


def test_repro_a_tag_without_a_domain_is_refused_also_for_a_body_of_this_version() -> None:
    # A tag over other bytes, made for another purpose with the same key, must not pass for a receipt's.
    body, _ = msgpack.unpackb(RECEIPT.encode(KEY))
    assert reason(Receipt, msgpack.packb([body, hmac.digest(KEY, body, "sha256")])) == "version"


def test_a_receipt_larger_than_a_mebibyte_is_refused_unread() -> None:
    assert reason(Receipt, bytes(RECEIPT_BYTES_MAX + 1)) == "size"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plan", "p"),
        ("plan", None),
        ("meter", "M"),
        ("meter", 1),
        ("committed", None),
        ("committed", 5),
        ("committed", ["1"]),
        ("committed", [1.0]),
        ("committed", [True]),
        ("committed", [-1]),
        ("committed", [2**48]),
        ("committed", [2**64 - 1]),
        ("committed", [[1]]),
        ("refused", None),
        ("refused", [3]),
        ("refused", [[3]]),
        ("refused", [[3, "late", 1]]),
        ("refused", [["3", "late"]]),
        ("refused", [[3, b"late"]]),
        ("refused", [[-1, "late"]]),
        ("refused", [[2**48, "late"]]),
        ("refused", [[True, "late"]]),
        ("v", "1"),
    ],
)
def test_repro_a_receipt_with_a_field_no_meter_could_hold_is_malformed(name: str, value: object) -> None:
    assert reason(Receipt, sealed(Receipt, {**body_of(RECEIPT.encode(KEY)), name: value})) == "malformed"


@pytest.mark.parametrize(
    "entry",
    [
        None,
        5,
        [PLAN, "a", 1],
        [PLAN, "a", 1, 0, 0],
        ["x", "a", 1, 0],
        [PLAN, "A", 1, 0],
        [PLAN, "grid/a", 1, 0],
        [PLAN, "a", "1", 0],
        [PLAN, "a", -1, 0],
        [PLAN, "a", 2**64 - 1, 0],
        [PLAN, "a", 1, -1],
        [PLAN, "a", 1, 2**48],
        [PLAN, "a", True, 0],
    ],
)
def test_repro_a_total_no_aggregator_could_hold_is_malformed(entry: object) -> None:
    body = body_of(TOTALS.encode(KEY))
    assert reason(TotalReceipt, sealed(TotalReceipt, {**body, "stored": [entry]})) == "malformed"
    refused = [*entry, "size"] if isinstance(entry, list) else entry
    assert reason(TotalReceipt, sealed(TotalReceipt, {**body, "refused": [refused]})) == "malformed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("aggregator", "A"),
        ("aggregator", None),
        ("stored", None),
        ("stored", "x"),
        ("refused", None),
        ("refused", "x"),
        ("refused", [[PLAN, "a", 1, 0]]),
        ("refused", [[PLAN, "a", 1, 0, b"size"]]),
        ("refused", [[PLAN, "a", 1, 0, "size", 1]]),
    ],
)
def test_a_receipt_for_totals_with_an_illegal_field_is_malformed(name: str, value: object) -> None:
    assert (
        reason(TotalReceipt, sealed(TotalReceipt, {**body_of(TOTALS.encode(KEY)), name: value}))
        == "malformed"
    )


@pytest.mark.parametrize("body", [None, [], "text", {}, 5, {"v": 2}])
@pytest.mark.parametrize("kind", [Receipt, TotalReceipt])
def test_a_body_that_is_no_receipt_is_malformed(kind: type[Receipt], body: object) -> None:
    assert reason(kind, sealed(kind, body)) == "malformed"


def test_what_time_mends_is_no_refusal_for_good() -> None:
    reasons = {"after_plan", "capacity", "clock", "early", "late", "not_enrolled", "plan", "rate"}
    assert reasons == TRANSIENT_REASONS
