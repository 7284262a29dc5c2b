"""Ingest keys: one for each meter and aggregator, derived from the aggregator's ingest secret.

Receipts are tagged with the receiver's; a meter's envelope key derives from its own (gridhe.wire.envelope).
"""

import secrets

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["KEY_BYTES", "derive_key", "new_ingest_secret"]

KEY_BYTES = 32


def new_ingest_secret() -> bytes:
    """32 bytes from the operating system's CSPRNG."""
    return secrets.token_bytes(KEY_BYTES)


def derive_key(ingest_secret: bytes, name: str) -> bytes:
    """The 32-byte ingest key of a meter (its name) or an aggregator (`aggregator/<id>`).

    HKDF-SHA256 (RFC 5869) without salt, info = `gridhe/v1/ingest/` + name.
    """
    info = b"gridhe/v1/ingest/" + name.encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(ingest_secret)
