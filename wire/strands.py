"""Strands: how a leaf part whose total failed is divided, by aggregator and authority alike.

A part of `STRANDED_METERS` members or more is divided by an HMAC of each meter's name and the window, under a
key that derives from the ingest secret. So no meter can choose its neighbours, they are others in each
window, and an aggregator cannot choose which meters it sends again: the authority computes the same strands.
"""

import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["STRANDED_METERS", "STRANDS", "strand_key", "strand_of"]

STRANDS = 8
STRANDED_METERS = 40  # smaller parts have one sum only: an eighth of them would be too few


def strand_key(ingest_secret: bytes) -> bytes:
    """The 32-byte key of the strands: HKDF-SHA256 of the ingest secret, info = `gridhe/v2/strands`."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"gridhe/v2/strands").derive(ingest_secret)


def strand_of(key: bytes, meter: str, window: int) -> int:
    """A meter's strand in a window, 0 to `STRANDS` - 1.

    The first byte of HMAC-SHA256(key, window as 8 bytes, big-endian, and the meter's name), modulo 8.
    """
    return hmac.digest(key, window.to_bytes(8, "big") + meter.encode(), "sha256")[0] % STRANDS
