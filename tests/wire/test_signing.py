"""Signatures: over a kind and a body, by one key, or BundleError."""

import hashlib

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gridhe.errors import BundleError
from gridhe.wire.signing import SigningKey, authority_id, open_record, sign_record, verify

KEY = SigningKey.from_private_bytes(bytes(range(32)))


def test_a_record_opens_under_its_kind_and_its_makers_key() -> None:
    assert open_record(KEY.verify_key, "plan", sign_record(KEY, "plan", b"body")) == b"body"


def test_the_signature_covers_the_domain_the_kind_a_zero_and_the_body() -> None:
    kind, body, signature = msgpack.unpackb(sign_record(KEY, "roster", b"xyz"))
    assert (kind, body) == ("roster", b"xyz")
    public = Ed25519PublicKey.from_public_bytes(KEY.verify_key)
    public.verify(signature, b"gridhe/v1/roster\x00xyz")  # raises when it is not


def test_a_record_of_one_kind_cannot_pass_for_another() -> None:
    data = sign_record(KEY, "roster", b"body")
    with pytest.raises(BundleError, match="not a signed bundle"):
        open_record(KEY.verify_key, "bundle", data)
    _, body, signature = msgpack.unpackb(data)
    with pytest.raises(BundleError, match="not signed by"):
        open_record(KEY.verify_key, "bundle", msgpack.packb(["bundle", body, signature]))


def test_another_makers_record_is_refused_and_the_expected_maker_named() -> None:
    data = sign_record(SigningKey.generate(), "plan", b"body")
    with pytest.raises(BundleError, match=authority_id(KEY.verify_key)):
        open_record(KEY.verify_key, "plan", data)


def test_every_flipped_bit_of_a_record_is_found() -> None:
    data = sign_record(KEY, "plan", b"some body")
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(BundleError):
            open_record(KEY.verify_key, "plan", bytes(damaged))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93",
        msgpack.packb(None),
        msgpack.packb(["plan", b"x"]),
        msgpack.packb(["plan", b"x", b"y", b"z"]),
        msgpack.packb(["plan", "text", b"y" * 64]),
        msgpack.packb(["plan", b"x", "y" * 64]),
        msgpack.packb(["plan", b"x", b""]),
        msgpack.packb(["plan", b"x", b"y" * 63]),
        msgpack.packb({"plan": 1}),
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x93\xa4plan\xc6\xff\xff\xff\xff",
        sign_record(KEY, "plan", b"x") + b"\x00",
    ],
)
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        open_record(KEY.verify_key, "plan", data)


@pytest.mark.parametrize("key", [b"", b"x" * 31, b"x" * 33])
def test_a_key_of_the_wrong_size_is_refused(key: bytes) -> None:
    with pytest.raises(BundleError):
        verify(key, b"message", KEY.sign(b"message"))
    with pytest.raises(BundleError, match="32 bytes"):
        SigningKey.from_private_bytes(key)


def test_a_key_survives_its_private_bytes_and_signs_the_same() -> None:
    key = SigningKey.generate()
    again = SigningKey.from_private_bytes(key.private_bytes())
    assert (again.verify_key, again.sign(b"m")) == (key.verify_key, key.sign(b"m"))
    assert SigningKey.generate().verify_key != key.verify_key


def test_a_key_does_not_print_itself() -> None:
    assert KEY.private_bytes().hex()[:16] not in f"{KEY!r} {KEY}"
    assert str(KEY.private_bytes())[2:-1] not in f"{KEY!r} {KEY}"


def test_an_authority_is_named_by_the_hash_of_its_key() -> None:
    assert authority_id(b"k" * 32) == "a" + hashlib.sha256(b"k" * 32).hexdigest()[:16]
