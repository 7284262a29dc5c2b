"""The envelope: one encrypted batch, sealed to the aggregator.

msgpack array of two byte strings [header, sealed]. The header is a msgpack map {v, plan, key, meter, group,
window, proof}. `sealed` is a nonce of 12 bytes and the AES-256-GCM of the ciphertext's planes under the
meter's envelope key, with the header as associated data. So the broker holds no ciphertext, and only the
meter can have made the batch. For any bytes, the decoder returns an envelope or raises EnvelopeError.
"""

import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gridhe.errors import EnvelopeError
from gridhe.plan.names import check_group, check_meter
from gridhe.wire.codec import bin_header, field, key_id, pack, plan_id, unpack, unpack_bins

__all__ = [
    "HEADER_BYTES_MAX",
    "OVERHEAD_BYTES",
    "PROOF_BYTES_MAX",
    "WINDOW_MAX",
    "Envelope",
    "Header",
    "envelope_key",
    "open_envelope",
    "seal_envelope",
    "seal_parts",
]

VERSION = 2
WINDOW_MAX = 2**48
_NONCE_BYTES, _TAG_BYTES = 12, 16
_PROOF_BYTES_MIN = 9  # siv, and one bit at least
# siv, and a bit for each of 8192 intervals: an interval takes two slots or more, of at most 16,384
PROOF_BYTES_MAX = 8 + 1024
# Room for a map of seven fields, with a group of 8 levels of 64 characters and a meter of 64 characters.
HEADER_BYTES_MAX = 776 + PROOF_BYTES_MAX
OVERHEAD_BYTES = (
    1 + 3 + HEADER_BYTES_MAX + 5 + _NONCE_BYTES + _TAG_BYTES
)  # largest size of an envelope without its ciphertext


def envelope_key(ingest_key: bytes) -> bytes:
    """The 32-byte key of a meter's envelopes: HKDF-SHA256 of its ingest key, info = `gridhe/v2/envelope`."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"gridhe/v2/envelope").derive(ingest_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The identity of a batch. `proof` is opaque to the aggregator (gridhe.plan.guards)."""

    plan: str
    key: str
    meter: str
    group: str
    window: int
    proof: bytes

    def encode(self) -> bytes:
        """The header as msgpack."""
        return pack(
            {
                "v": VERSION,
                "plan": self.plan,
                "key": self.key,
                "meter": self.meter,
                "group": self.group,
                "window": self.window,
                "proof": self.proof,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "Header":
        """The header in these bytes. Raises EnvelopeError `version` or `malformed`."""
        record = unpack(data)
        if field(record, "v", int) != VERSION:
            raise EnvelopeError("version", f"envelope version {record['v']}, this is version {VERSION}")
        if len(record) != 7:
            raise EnvelopeError("malformed", f"a header has 7 fields, not {len(record)}")
        window = field(record, "window", int)
        if not 0 <= window < WINDOW_MAX:
            raise EnvelopeError("malformed", f"window {window} is out of range")
        proof = field(record, "proof", bytes)
        if not _PROOF_BYTES_MIN <= len(proof) <= PROOF_BYTES_MAX:
            raise EnvelopeError("malformed", f"a proof of {len(proof)} bytes")
        return cls(
            plan=field(record, "plan", str, check=plan_id),
            key=field(record, "key", str, check=key_id),
            meter=field(record, "meter", str, check=check_meter),
            group=field(record, "group", str, check=check_group),
            window=window,
            proof=proof,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A decoded envelope. Do not trust its header before `open`."""

    header: Header
    header_bytes: bytes
    sealed: memoryview  # a view into the payload, which stays in memory as long

    def open(self, key: bytes) -> bytes:
        """The ciphertext's planes. Raises EnvelopeError `tag` unless it was sealed with this envelope key."""
        nonce, body = self.sealed[:_NONCE_BYTES], self.sealed[_NONCE_BYTES:]
        try:
            return AESGCM(key).decrypt(nonce, body, self.header_bytes)
        except InvalidTag:
            raise EnvelopeError(
                "tag", f"the batch was not sealed with the envelope key of {self.header.meter}"
            ) from None


def seal_parts(header: bytes, ciphertext: bytes, key: bytes) -> tuple[bytes, bytes]:
    """An envelope's bytes in two parts, head and body: msgpack would copy the body. 15 us for 96 KB."""
    nonce = os.urandom(_NONCE_BYTES)
    body = AESGCM(key).encrypt(nonce, ciphertext, header)
    sealed_size = _NONCE_BYTES + len(body)
    return b"\x92" + bin_header(len(header)) + header + bin_header(sealed_size) + nonce, body


def seal_envelope(header: Header, ciphertext: bytes, key: bytes) -> bytes:
    """The envelope's bytes; `key` is the meter's envelope key. Each call draws a new nonce."""
    return b"".join(seal_parts(header.encode(), ciphertext, key))


def open_envelope(payload: bytes, max_bytes: int) -> Envelope:
    """The envelope in these bytes, at most `max_bytes`. Raises EnvelopeError; does not decrypt it."""
    header_bytes, sealed = _parts(payload, max_bytes)
    if len(header_bytes) > HEADER_BYTES_MAX or len(sealed) < _NONCE_BYTES + _TAG_BYTES:
        raise EnvelopeError(
            "malformed", f"a header of {len(header_bytes)} or a sealed part of {len(sealed)} bytes"
        )
    return Envelope(
        header=Header.decode(bytes(header_bytes)), header_bytes=bytes(header_bytes), sealed=sealed
    )


def _parts(payload: bytes, max_bytes: int) -> list[memoryview]:
    try:
        return unpack_bins(payload, 2, max_bytes)
    except EnvelopeError as error:
        if error.reason != "malformed":
            raise
        try:  # version 1 had three parts
            Header.decode(bytes(unpack_bins(payload, 3, max_bytes)[0]))
        except EnvelopeError as older:
            if older.reason == "version":
                raise older from None
        raise
