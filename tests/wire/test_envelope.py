"""Envelopes: sealed and opened, and every other byte string refused for a named reason."""

import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import EnvelopeError
from gridhe.wire.envelope import (
    HEADER_BYTES_MAX,
    OVERHEAD_BYTES,
    PROOF_BYTES_MAX,
    Header,
    envelope_key,
    open_envelope,
    seal_envelope,
)

KEY = bytes(range(32))
HEADER = Header(
    plan="p" + "0" * 16,
    key="k" + "f" * 16,
    meter="m1",
    group="north/f1",
    window=19_000,
    proof=bytes(range(11)),
)
LONGEST = replace(
    HEADER,
    meter="m" * 64,
    group="/".join(["g" * 64] * 8),
    window=2**48 - 1,
    proof=b"\xff" * PROOF_BYTES_MAX,
)
CIPHERTEXT = bytes(range(256)) * 4

names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)


def reason(payload: bytes, max_bytes: int = 1 << 20) -> str:
    with pytest.raises(EnvelopeError) as caught:
        open_envelope(payload, max_bytes)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value.reason


@given(
    st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
    names.map(lambda name: "m" + name[:60]),
    st.lists(names.map(lambda name: "g" + name[:60]), min_size=1, max_size=8).map("/".join),
    st.integers(0, 2**48 - 1),
    st.binary(max_size=2_000),
    st.binary(min_size=9, max_size=PROOF_BYTES_MAX),
)
def test_what_is_sealed_opens_to_the_same(
    hexes: str, meter: str, group: str, window: int, ciphertext: bytes, proof: bytes
) -> None:
    header = Header(plan="p" + hexes, key="k" + hexes, meter=meter, group=group, window=window, proof=proof)
    payload = seal_envelope(header, ciphertext, KEY)
    assert len(payload) <= OVERHEAD_BYTES + len(ciphertext)
    envelope = open_envelope(payload, len(payload))
    assert envelope.header == header
    assert envelope.open(KEY) == ciphertext
    assert msgpack.packb(msgpack.unpackb(payload)) == payload  # lengths in their shortest form


@pytest.mark.parametrize("size", [0, 1, 227, 228, 255, 256, 65_507, 65_508, 65_535, 65_536, 300_000])
def test_lengths_of_every_width_are_as_msgpack_writes_them(size: int) -> None:
    payload = seal_envelope(HEADER, bytes(size), KEY)
    assert msgpack.packb(msgpack.unpackb(payload)) == payload
    assert open_envelope(payload, len(payload)).open(KEY) == bytes(size)


def test_the_bytes_are_a_header_and_a_nonce_with_the_aes_gcm_of_the_ciphertext() -> None:
    header, sealed = msgpack.unpackb(seal_envelope(HEADER, CIPHERTEXT, KEY))
    assert msgpack.unpackb(header) == {
        "v": 2,
        "plan": HEADER.plan,
        "key": HEADER.key,
        "meter": "m1",
        "group": "north/f1",
        "window": 19_000,
        "proof": bytes(range(11)),
    }
    assert len(sealed) == 12 + len(CIPHERTEXT) + 16
    assert AESGCM(KEY).decrypt(sealed[:12], sealed[12:], header) == CIPHERTEXT


def test_the_envelope_key_derives_from_the_ingest_key() -> None:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"gridhe/v2/envelope").derive(KEY)
    assert envelope_key(KEY) == derived != KEY


def test_each_envelope_has_another_nonce_and_shows_nothing_of_its_ciphertext() -> None:
    payloads = [seal_envelope(HEADER, CIPHERTEXT, KEY) for _ in range(100)]
    assert len({msgpack.unpackb(payload)[1][:12] for payload in payloads}) == 100
    assert not any(CIPHERTEXT[at : at + 16] in payloads[0] for at in range(0, 256, 16))


def test_parsing_does_not_copy_the_sealed_part() -> None:
    payload = seal_envelope(HEADER, bytes(1 << 20), KEY)
    tracemalloc.start()
    try:
        envelope = open_envelope(payload, len(payload))
        assert tracemalloc.get_traced_memory()[1] < 50_000
        assert len(envelope.open(KEY)) == 1 << 20
    finally:
        tracemalloc.stop()


def test_an_envelope_does_not_open_under_another_key_or_with_other_bytes() -> None:
    payload = seal_envelope(HEADER, CIPHERTEXT, KEY)
    envelope = open_envelope(payload, 1 << 20)
    other = open_envelope(seal_envelope(replace(HEADER, window=19_001), CIPHERTEXT, KEY), 1 << 20)
    for wrong in (
        replace(envelope, header_bytes=other.header_bytes),
        replace(envelope, sealed=envelope.sealed[:-1]),
        replace(envelope, sealed=memoryview(bytes(12) + bytes(envelope.sealed[12:]))),
        replace(envelope, sealed=other.sealed),
    ):
        with pytest.raises(EnvelopeError, match="not sealed with the envelope key of m1") as caught:
            wrong.open(KEY)
        assert caught.value.reason == "tag"
    with pytest.raises(EnvelopeError):
        envelope.open(bytes(32))
    with pytest.raises(EnvelopeError):
        envelope.open(envelope_key(KEY))


def test_every_flipped_bit_is_found_before_any_value_is_used() -> None:
    payload = seal_envelope(HEADER, b"some ciphertext", KEY)
    for bit in range(len(payload) * 8):
        damaged = bytearray(payload)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(EnvelopeError):
            open_envelope(bytes(damaged), 1 << 20).open(KEY)


def test_the_longest_legal_header_fits_and_one_byte_more_does_not() -> None:
    assert len(LONGEST.encode()) <= HEADER_BYTES_MAX
    payload = seal_envelope(LONGEST, CIPHERTEXT, KEY)
    assert open_envelope(payload, OVERHEAD_BYTES + len(CIPHERTEXT)).header == LONGEST
    padded = msgpack.packb([bytes(HEADER_BYTES_MAX + 1), bytes(32)])
    with pytest.raises(EnvelopeError, match=f"header of {HEADER_BYTES_MAX + 1}"):
        open_envelope(padded, 1 << 20)


def test_an_envelope_larger_than_expected_is_refused_unread() -> None:
    payload = seal_envelope(HEADER, CIPHERTEXT, KEY)
    assert open_envelope(payload, len(payload)).header == HEADER
    assert reason(payload, len(payload) - 1) == "size"
    assert reason(bytes(100), 99) == "size"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x92",
        b"\x92\xc4",
        b"\x92\xc4\x05abc",
        b"\x92\xc5\x00",
        b"\x92\xc6\x00\x00\x00",
        b"\x92\xc6\xff\xff\xff\xff",
        msgpack.packb(None),
        msgpack.packb({"v": 2}),
        msgpack.packb([b"", bytes(28)]),
        msgpack.packb([HEADER.encode()]),
        msgpack.packb([HEADER.encode(), b""]),
        msgpack.packb([HEADER.encode(), bytes(27)]),
        msgpack.packb([HEADER.encode(), bytes(28), b""]),
        msgpack.packb([HEADER.encode(), CIPHERTEXT, bytes(32)]),
        msgpack.packb([HEADER.encode(), "a" * 32]),
        msgpack.packb([HEADER.encode(), None]),
        msgpack.packb((HEADER.encode(), [CIPHERTEXT])),
        b"\xdc\x00\x02" + msgpack.packb([HEADER.encode(), CIPHERTEXT])[1:],
        seal_envelope(HEADER, CIPHERTEXT, KEY) + b"\x00",
        seal_envelope(HEADER, CIPHERTEXT, KEY)[:-1],
        seal_envelope(HEADER, CIPHERTEXT, KEY)[1:],
    ],
)
def test_bytes_of_another_shape_are_malformed(payload: bytes) -> None:
    assert reason(payload) == "malformed"


def test_a_byte_string_may_be_announced_with_any_width_of_its_length() -> None:
    header = HEADER.encode()
    sealed = bytes(12) + AESGCM(KEY).encrypt(bytes(12), b"c", header)
    payload = b"\x92\xc6" + len(header).to_bytes(4, "big") + header + b"\xc5\x00\x1d" + sealed
    envelope = open_envelope(payload, 1 << 20)
    assert (envelope.header, envelope.open(KEY)) == (HEADER, b"c")


def sealed(record: Any) -> bytes:
    packed: bytes = msgpack.packb([msgpack.packb(record), CIPHERTEXT])
    return packed


def record() -> dict[str, Any]:
    found: dict[str, Any] = msgpack.unpackb(HEADER.encode())
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plan", "p123"),
        ("plan", "k" + "0" * 16),
        ("plan", "p" + "G" * 16),
        ("plan", "p" + "0" * 17),
        ("plan", "p" + "0" * 16 + "\n"),
        ("plan", b"p" + b"0" * 16),
        ("key", "p" + "0" * 16),
        ("key", None),
        ("meter", "M"),
        ("meter", ""),
        ("meter", "authority"),
        ("meter", "a/b"),
        ("meter", 7),
        ("group", "grid"),
        ("group", "a//b"),
        ("group", "a/" * 8 + "a"),
        ("group", ["a"]),
        ("window", -1),
        ("window", 2**48),
        ("window", 1.0),
        ("window", True),
        ("window", "5"),
        ("proof", b""),
        ("proof", bytes(8)),
        ("proof", bytes(PROOF_BYTES_MAX + 1)),
        ("proof", "a" * 11),
        ("proof", None),
        ("proof", [1] * 11),
    ],
)
def test_a_header_with_an_illegal_field_is_malformed(name: str, value: object) -> None:
    assert reason(sealed({**record(), name: value})) == "malformed"


def test_a_header_with_a_field_too_few_or_too_many_is_refused() -> None:
    for name in record():
        assert reason(sealed({key: value for key, value in record().items() if key != name})) == "malformed"
    assert reason(sealed({**record(), "more": 1})) == "malformed"


@pytest.mark.parametrize("junk", [None, 5, [], ["v", 1], "text", {}, {"v": [[[]]]}, {1: 2}])
def test_a_header_that_is_no_map_of_fields_is_malformed(junk: object) -> None:
    assert reason(sealed(junk)) == "malformed"


def test_another_version_says_so_whatever_else_has_changed() -> None:
    assert reason(sealed({**record(), "v": 3})) == "version"
    assert reason(sealed({"v": 3, "new": 1})) == "version"
    assert reason(sealed({**record(), "v": True})) == "malformed"


def test_an_envelope_of_version_1_says_so_although_it_has_another_shape() -> None:
    header = {name: value for name, value in record().items() if name != "proof"}
    assert reason(msgpack.packb([msgpack.packb({**header, "v": 1}), CIPHERTEXT, bytes(32)])) == "version"
    assert reason(msgpack.packb([msgpack.packb({**header, "v": 2}), CIPHERTEXT, bytes(32)])) == "malformed"


@pytest.mark.parametrize(
    "header",
    [
        b"\x81\x81\xa1a\x01\x01",  # a map as a key
        b"\x81\xa1v\xd6\x00abcd",  # an extension type
        b"\x81\xa1v\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x81\xa1v\xa2\xff\xfe",  # text that is not UTF-8
        b"\x91" * 700,  # deep nesting
        b"\xdf\xff\xff\xff\xff",  # a map of 2^32
        b"\xc1",
    ],
)
def test_whatever_msgpack_stumbles_over_is_malformed(header: bytes) -> None:
    assert reason(msgpack.packb([header, CIPHERTEXT])) == "malformed"


@pytest.mark.parametrize("item", [b"\x80", b"\xc0", b"\x93\xc0\xc0\xc0", b"\x81\xa1a\xc0"])
def test_repro_nested_junk_costs_no_memory(item: bytes) -> None:
    # A general unpacker makes 64 bytes of every such byte, before anyone has checked a tag.
    many = (4 << 20) // len(item)
    payload = b"\x92\xdd" + many.to_bytes(4, "big") + item * many + msgpack.packb(b"")
    tracemalloc.start()
    try:
        assert reason(payload, len(payload)) == "malformed"
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
