"""The envelope: one encrypted batch with its header and tag.

msgpack array of three byte strings [header, ciphertext, tag]. The header is a msgpack map
{v, plan, key, meter, group, window}; the tag is HMAC-SHA256 over header || ciphertext with the
meter's ingest key. For any bytes, the decoder returns an envelope or raises EnvelopeError.
"""

from dataclasses import dataclass

from gridhe.errors import EnvelopeError
from gridhe.plan.names import check_group, check_meter
from gridhe.wire.codec import TAG_BYTES, field, key_id, pack, plan_id, tag, tag_matches, unpack, unpack_bins

__all__ = ["HEADER_BYTES_MAX", "OVERHEAD_BYTES", "Envelope", "Header", "open_envelope", "seal_envelope"]

VERSION = 1
WINDOW_MAX = 2**48
# Room for a map of six fields, with a group of 8 levels of 64 characters and a meter of 64 characters.
HEADER_BYTES_MAX = 768
OVERHEAD_BYTES = (
    1 + 3 + HEADER_BYTES_MAX + 5 + 2 + TAG_BYTES
)  # largest size of an envelope without its ciphertext


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The identity of a batch."""

    plan: str
    key: str
    meter: str
    group: str
    window: int

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
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "Header":
        """The header in these bytes. Raises EnvelopeError `version` or `malformed`."""
        record = unpack(data)
        if field(record, "v", int) != VERSION:
            raise EnvelopeError("version", f"envelope version {record['v']}, this is version {VERSION}")
        if len(record) != 6:
            raise EnvelopeError("malformed", f"a header has 6 fields, not {len(record)}")
        window = field(record, "window", int)
        if not 0 <= window < WINDOW_MAX:
            raise EnvelopeError("malformed", f"window {window} is out of range")
        return cls(
            plan=field(record, "plan", str, check=plan_id),
            key=field(record, "key", str, check=key_id),
            meter=field(record, "meter", str, check=check_meter),
            group=field(record, "group", str, check=check_group),
            window=window,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A decoded envelope. Do not trust its content before `check_tag`."""

    header: Header
    header_bytes: bytes
    ciphertext: memoryview  # a view into the payload, which stays in memory as long
    tag: bytes

    def check_tag(self, ingest_key: bytes) -> None:
        """Raise EnvelopeError `tag` unless the tag was made with this ingest key."""
        if not tag_matches(self.tag, ingest_key, self.header_bytes, self.ciphertext):
            raise EnvelopeError("tag", f"the tag was not made with the ingest key of {self.header.meter}")


def seal_envelope(header: Header, ciphertext: bytes, ingest_key: bytes) -> bytes:
    """The envelope's bytes."""
    header_bytes = header.encode()
    return pack([header_bytes, ciphertext, tag(ingest_key, header_bytes, ciphertext)])


def open_envelope(payload: bytes, max_bytes: int) -> Envelope:
    """The envelope in these bytes, at most `max_bytes`. Raises EnvelopeError; does not check the tag."""
    header_bytes, ciphertext, received_tag = unpack_bins(payload, 3, max_bytes)
    if len(header_bytes) > HEADER_BYTES_MAX or len(received_tag) != TAG_BYTES:
        raise EnvelopeError(
            "malformed", f"a header of {len(header_bytes)} or a tag of {len(received_tag)} bytes"
        )
    return Envelope(
        header=Header.decode(bytes(header_bytes)),
        header_bytes=bytes(header_bytes),
        ciphertext=ciphertext,
        tag=bytes(received_tag),
    )
