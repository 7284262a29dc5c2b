"""Ingest keys: HKDF-SHA256 as RFC 5869 has it, one key per name."""

import hashlib
import hmac

from gridhe.wire.ingest import KEY_BYTES, derive_key, new_ingest_secret


def hkdf_by_hand(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 with an empty salt and one block of output."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def test_a_key_is_what_the_rfc_gives_for_the_documented_info() -> None:
    secret = bytes(range(32))
    assert derive_key(secret, "m1") == hkdf_by_hand(secret, b"gridhe/v1/ingest/m1")
    assert derive_key(secret, "aggregator/main") == hkdf_by_hand(secret, b"gridhe/v1/ingest/aggregator/main")


def test_every_name_and_every_secret_has_a_key_of_its_own() -> None:
    secrets = [new_ingest_secret() for _ in range(3)]
    names = ("m1", "m2", "aggregator/m1", "aggregator/main")
    assert len({derive_key(secret, name) for secret in secrets for name in names}) == 12
    assert {len(secret) for secret in secrets} == {KEY_BYTES}
