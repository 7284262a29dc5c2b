"""Ed25519 signatures (RFC 8032), each over a kind and a body, so that no record can pass for another kind."""

import hashlib

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gridhe.errors import BundleError

__all__ = ["SIGNATURE_BYTES", "SigningKey", "authority_id", "open_record", "sign_record", "verify"]

SIGNATURE_BYTES = 64
_DOMAIN = b"gridhe/v1/"


class SigningKey:
    """An Ed25519 private key. Its repr does not show the key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "SigningKey":
        """A new key from the operating system's CSPRNG."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, data: bytes) -> "SigningKey":
        """The key of these 32 bytes. Raises BundleError for another length."""
        if len(data) != 32:
            raise BundleError(f"an Ed25519 private key has 32 bytes, not {len(data)}")
        return cls(Ed25519PrivateKey.from_private_bytes(data))

    def private_bytes(self) -> bytes:
        """The 32 secret bytes, for a 0600 file or the vault."""
        return self._key.private_bytes_raw()

    @property
    def verify_key(self) -> bytes:
        """The 32 public bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        return self._key.sign(message)


def verify(verify_key: bytes, message: bytes, signature: bytes) -> None:
    """Raise BundleError unless `signature` over `message` is valid for `verify_key`."""
    try:
        Ed25519PublicKey.from_public_bytes(verify_key).verify(signature, message)
    except (InvalidSignature, ValueError, TypeError):
        raise BundleError("the signature is not valid for this key") from None


def authority_id(verify_key: bytes) -> str:
    """`a` and the first 16 hex digits of the SHA-256 of an authority's verify key."""
    return "a" + hashlib.sha256(verify_key).hexdigest()[:16]


def _message(kind: str, body: bytes) -> bytes:
    return _DOMAIN + kind.encode() + b"\0" + body


def sign_record(key: SigningKey, kind: str, body: bytes) -> bytes:
    """msgpack [kind, body, signature]; the signature covers `gridhe/v1/`, kind, a zero byte and body."""
    record: bytes = msgpack.packb([kind, body, key.sign(_message(kind, body))])
    return record


def open_record(verify_key: bytes, kind: str, data: bytes) -> bytes:
    """The body of a record of this kind signed by this key. Raises BundleError for any other bytes."""
    try:
        record = msgpack.unpackb(data, max_array_len=3, max_map_len=0)
    except (ValueError, TypeError, msgpack.exceptions.ExtraData, msgpack.exceptions.UnpackException):
        raise BundleError(f"these {len(data)} bytes are not a signed {kind}") from None
    if (
        not isinstance(record, list)
        or len(record) != 3
        or record[0] != kind
        or not isinstance(record[1], bytes)
        or not isinstance(record[2], bytes)
    ):
        raise BundleError(f"these {len(data)} bytes are not a signed {kind}")
    try:
        verify(verify_key, _message(kind, record[1]), record[2])
    except BundleError:
        raise BundleError(
            f"this {kind} is not signed by {authority_id(verify_key)}: it is damaged or of another authority"
        ) from None
    return record[1]
