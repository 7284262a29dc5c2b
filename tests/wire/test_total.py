"""Totals: signed by their aggregator, and pieces that add up."""

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import EnvelopeError
from gridhe.wire.signing import SigningKey, sign_record
from gridhe.wire.total import (
    TOTAL_HEADER_BYTES_MAX,
    MemberList,
    Piece,
    TotalHeader,
    bitmap_of,
    open_total,
    positions_of,
    seal_total,
)

KEY = SigningKey.from_private_bytes(bytes(range(32)))
CIPHERTEXT = bytes(range(256))
LISTED = MemberList(bitmap_of((0, 3, 11)), bytes(range(27)))
HEADER = TotalHeader(
    plan="p" + "0" * 16,
    key="k" + "f" * 16,
    aggregator="main",
    group="north",
    window=19_000,
    part=2,
    meters=12,
    roster=7,
    pieces=(Piece("north/f1", 0, 5), Piece("north/f1", 1, 3, LISTED), Piece("north/f2", 0, 4)),
)


def reason(payload: bytes, max_bytes: int = 1 << 25) -> str:
    with pytest.raises(EnvelopeError) as caught:
        open_total(payload, max_bytes)
    return caught.value.reason


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        replace(HEADER, group="grid"),
        replace(HEADER, group="north/f1", meters=1, pieces=(Piece("north/f1", 0, 1),)),
        replace(HEADER, window=2**48 - 1, part=2**48 - 1, roster=2**48 - 1),
        replace(HEADER, roster=0, pieces=(Piece("north/f1", 0, 12, MemberList(b"", b"")),)),
    ],
)
def test_what_is_sealed_opens_to_the_same_and_its_signature_holds(header: TotalHeader) -> None:
    payload = seal_total(header, CIPHERTEXT, KEY)
    total = open_total(payload, len(payload))
    assert (total.header, total.ciphertext) == (header, CIPHERTEXT)
    total.check_signature(KEY.verify_key)


def test_the_signature_covers_the_domain_a_zero_the_header_and_the_ciphertext() -> None:
    header, ciphertext, signature = msgpack.unpackb(seal_total(HEADER, CIPHERTEXT, KEY))
    Ed25519PublicKey.from_public_bytes(KEY.verify_key).verify(
        signature, b"gridhe/v2/total\x00" + header + ciphertext
    )
    assert msgpack.unpackb(header) == {
        "v": 2,
        "plan": HEADER.plan,
        "key": HEADER.key,
        "aggregator": "main",
        "group": "north",
        "window": 19_000,
        "part": 2,
        "meters": 12,
        "roster": 7,
        "pieces": [
            ["north/f1", 0, 5],
            ["north/f1", 1, 3, b"\x09\x08", bytes(range(27))],
            ["north/f2", 0, 4],
        ],
    }


@given(st.sets(st.integers(0, 2_000)))
def test_a_bitmap_has_the_lowest_bit_of_its_first_byte_first_and_no_empty_byte_at_its_end(
    positions: set[int],
) -> None:
    bitmap = bitmap_of(positions)
    assert len(bitmap) == (max(positions) // 8 + 1 if positions else 0)
    assert positions_of(bitmap) == sorted(positions)
    assert {
        8 * at + bit for at, byte in enumerate(bitmap) for bit in range(8) if byte & 1 << bit
    } == positions
    assert positions_of(bitmap + bytes(3)) == sorted(positions)


def test_every_flipped_bit_is_found() -> None:
    payload = seal_total(HEADER, b"some ciphertext", KEY)
    for bit in range(len(payload) * 8):
        damaged = bytearray(payload)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(EnvelopeError):
            open_total(bytes(damaged), 1 << 20).check_signature(KEY.verify_key)


def test_another_aggregators_signature_is_refused() -> None:
    total = open_total(seal_total(HEADER, CIPHERTEXT, SigningKey.generate()), 1 << 20)
    with pytest.raises(EnvelopeError, match="total of north is not signed by main") as caught:
        total.check_signature(KEY.verify_key)
    assert caught.value.reason == "signature"


@pytest.mark.parametrize("kind", ["bundle", "roster"])
def test_an_authoritys_record_cannot_pass_for_a_total(kind: str) -> None:
    header = HEADER.encode()
    _, _, signature = msgpack.unpackb(sign_record(KEY, kind, header + CIPHERTEXT))
    total = open_total(msgpack.packb([header, CIPHERTEXT, signature]), 1 << 20)
    with pytest.raises(EnvelopeError):
        total.check_signature(KEY.verify_key)


def test_a_total_larger_than_expected_is_refused_unread() -> None:
    payload = seal_total(HEADER, CIPHERTEXT, KEY)
    assert reason(payload, len(payload) - 1) == "size"
    assert reason(msgpack.packb([bytes(TOTAL_HEADER_BYTES_MAX + 1), b"", bytes(64)])) == "malformed"


def sealed(**changes: Any) -> bytes:
    record = {**msgpack.unpackb(HEADER.encode()), **changes}
    packed: bytes = msgpack.packb([msgpack.packb(record), CIPHERTEXT, bytes(64)])
    return packed


def test_the_record_those_tests_change_is_a_total() -> None:
    assert open_total(sealed(), 1 << 20).header == HEADER


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plan", "k" + "0" * 16),
        ("key", "p" + "0" * 16),
        ("aggregator", "A"),
        ("aggregator", b"main"),
        ("group", "North"),
        ("group", "grid/north"),
        ("window", -1),
        ("window", 2**48),
        ("window", True),
        ("part", -1),
        ("part", 2**48),
        ("part", 0.0),
        ("meters", 0),
        ("meters", 13),
        ("meters", -12),
        ("roster", -1),
        ("roster", 2**48),
        ("roster", True),
        ("roster", "7"),
        ("roster", None),
        ("pieces", None),
        ("pieces", []),
        ("pieces", {}),
        ("pieces", [["north/f1", 0]]),
        ("pieces", [["north/f1", 0, 12, 0]]),
        ("pieces", [["north/f1", 0, 12, b"\1"]]),
        ("pieces", [["north/f1", 0, 12, b"\1", "p"]]),
        ("pieces", [["north/f1", 0, 12, None, b"p"]]),
        ("pieces", [["north/f1", 0, 12, [0], b"p"]]),
        ("pieces", [["north/f1", 0, 12, b"\1", b"p", b""]]),
        ("pieces", ["north/f1"]),
        ("pieces", [[b"north/f1", 0, 12]]),
        ("pieces", [["north/f1", 0, 12.0]]),
        ("pieces", [["north/f1", -1, 12]]),
        ("pieces", [["north/f1", 2**48, 12]]),
        ("pieces", [["grid", 0, 12]]),
        ("pieces", [["north/f1", 0, 0], ["north/f2", 0, 12]]),
        ("pieces", [["north/f1", 0, 13], ["north/f2", 0, -1]]),
        ("pieces", [["north/f1", 0, 6], ["north/f1", 0, 6]]),
        ("pieces", [["north/f1", 0, 5], ["north/f1", 1, 3]]),
    ],
)
def test_a_header_with_an_illegal_field_or_pieces_that_do_not_add_up_is_malformed(
    name: str, value: object
) -> None:
    assert reason(sealed(**{name: value})) == "malformed"


def test_a_field_too_few_or_too_many_is_refused_and_another_version_says_so() -> None:
    record = msgpack.unpackb(HEADER.encode())
    for name in record:
        short = {key: value for key, value in record.items() if key != name}
        assert reason(msgpack.packb([msgpack.packb(short), b"", bytes(64)])) == "malformed"
    assert reason(sealed(more=1)) == "malformed"
    assert reason(sealed(v=3)) == "version"
    assert reason(sealed(v=1, members=bytes(32))) == "version"


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_size_is_malformed(size: int) -> None:
    assert reason(msgpack.packb([HEADER.encode(), CIPHERTEXT, bytes(size)])) == "malformed"


def test_pieces_sort_by_group_then_part() -> None:
    first, second, third = HEADER.pieces
    assert sorted([third, second, first]) == [
        first,
        second,
        third,
    ]
