"""Conversion between TenSEAL's serialized ciphertexts and our residues, without TenSEAL installed.

A serialized CKKSVector is a protobuf: 1 = sizes (packed varints), 2 = SEAL ciphertext, 3 = scale
(double). The ciphertext is SEAL 4's save format: a 16-byte header, then (possibly compressed)

    parms_id        32 bytes   BLAKE2b-256 of the 64-bit words (2, N, data primes..., 0)
    is_ntt_form     1 byte     1
    size            uint64     2 components
    N, primes       uint64 each
    scale           double
    correction      uint64     1
    header          16 bytes   of the array that follows, never compressed
    count           uint64     2 * primes * N
    residues        uint64     [component][prime][coefficient]
"""

import hashlib
import struct

import numpy as np
import zstandard
from numpy.typing import NDArray

from gridhe.errors import EnvelopeError
from gridhe.plan.parameters import CkksParameters

__all__ = ["from_tenseal", "protobuf_fields", "seal_body", "to_tenseal"]

_SEAL_HEADER = struct.Struct("<HBBBBHQ")  # magic, header bytes, major, minor, compression, reserved, size
_MAGIC, _MAJOR, _MINOR = 0xA15E, 4, 3
_PLAIN, _ZSTD = 0, 2
_BODY = struct.Struct("<32sBQQQdQ")
_COUNT = struct.Struct("<Q")
_CKKS = 2


def _parms_id(parameters: CkksParameters) -> bytes:
    words = (_CKKS, parameters.ring_degree, *parameters.primes, 0)
    return hashlib.blake2b(struct.pack(f"<{len(words)}Q", *words), digest_size=32).digest()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise EnvelopeError("tenseal", "a broken number in the protobuf")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def to_tenseal(residues: NDArray[np.uint64], parameters: CkksParameters, scale: float) -> bytes:
    """A serialized CKKSVector (all slots) of residues uint64[2][primes][N], for `ts.ckks_vector_from`."""
    size = (2, len(parameters.primes), parameters.ring_degree)
    if residues.shape != size:
        raise ValueError(f"expected residues of shape {size}, got {residues.shape}")
    array = np.ascontiguousarray(residues, "<u8").tobytes()
    body = b"".join(
        (
            _BODY.pack(_parms_id(parameters), 1, 2, parameters.ring_degree, len(parameters.primes), scale, 1),
            _SEAL_HEADER.pack(_MAGIC, 16, _MAJOR, _MINOR, _PLAIN, 0, 16 + 8 + len(array)),
            _COUNT.pack(residues.size),
            array,
        )
    )
    seal = _SEAL_HEADER.pack(_MAGIC, 16, _MAJOR, _MINOR, _PLAIN, 0, 16 + len(body)) + body
    slots = _varint(parameters.slots)
    return b"".join(
        (
            b"\x0a",
            _varint(len(slots)),
            slots,
            b"\x12",
            _varint(len(seal)),
            seal,
            b"\x19",
            struct.pack("<d", scale),
        )
    )


def protobuf_fields(data: memoryview) -> dict[int, memoryview]:
    """The values of a protobuf's fields of fixed or given size, by number. Raises EnvelopeError `tenseal`."""
    fields: dict[int, memoryview] = {}
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        if key & 7 == 2:
            size, at = _read_varint(data, at)
        elif key & 7 == 1:
            size = 8
        else:
            raise EnvelopeError("tenseal", f"unexpected protobuf wire type {key & 7}")
        if at + size > len(data) or key >> 3 in fields:
            raise EnvelopeError("tenseal", "the protobuf is truncated, or a field occurs twice")
        fields[key >> 3] = data[at : at + size]
        at += size
    return fields


def seal_body(seal: memoryview, body_bytes: int) -> memoryview | bytes:
    """What follows the header of an object in SEAL's save format, decompressed: at most `body_bytes`.

    Raises EnvelopeError `tenseal`. Never decompresses more than `body_bytes`.
    """
    if len(seal) < 16:
        raise EnvelopeError("tenseal", "the protobuf has no SEAL object")
    magic, header_bytes, _, _, compression, _, size = _SEAL_HEADER.unpack_from(seal)
    if magic != _MAGIC or header_bytes != 16 or size != len(seal):
        raise EnvelopeError("tenseal", "the SEAL header is not valid")
    body = seal[16:]
    if compression == _PLAIN:
        return body
    if compression != _ZSTD:
        raise EnvelopeError(
            "tenseal", f"compression {compression} is not supported: use zstd (2) or none (0)"
        )
    try:
        # A frame may declare any size, and the decompressor would allocate it: check first.
        if zstandard.frame_content_size(body) > body_bytes:
            raise EnvelopeError("tenseal", f"the SEAL object unpacks to more than {body_bytes} bytes")
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=body_bytes)
    except zstandard.ZstdError as error:
        raise EnvelopeError("tenseal", f"the SEAL object does not decompress: {error}") from None


def from_tenseal(data: bytes, parameters: CkksParameters, scale: float | None = None) -> NDArray[np.uint64]:
    """The residues uint64[2][primes][N] (read-only) of a serialized CKKSVector of these parameters.

    If `scale` is given, it must be the ciphertext's. Raises EnvelopeError `tenseal` for any other bytes.
    Never decompresses more than one ciphertext of this ring.
    """
    seal = protobuf_fields(memoryview(data)).get(2, memoryview(b""))
    array_bytes = 2 * len(parameters.primes) * parameters.ring_degree * 8
    body_bytes = _BODY.size + _SEAL_HEADER.size + _COUNT.size + array_bytes
    body = seal_body(seal, body_bytes)
    if len(body) != body_bytes:
        raise EnvelopeError("tenseal", f"the ciphertext has {len(body)} bytes, {parameters} has {body_bytes}")
    parms_id, ntt, components, degree, primes, actual_scale, _ = _BODY.unpack_from(body)
    if (parms_id, ntt, components) != (_parms_id(parameters), 1, 2):
        raise EnvelopeError("tenseal", f"the ciphertext is not a fresh one of {parameters}")
    if (degree, primes) != (parameters.ring_degree, len(parameters.primes)):
        raise EnvelopeError("tenseal", f"the ciphertext is not of {parameters}")
    inner = _SEAL_HEADER.unpack_from(body, _BODY.size)
    count = _COUNT.unpack_from(body, _BODY.size + _SEAL_HEADER.size)[0]
    if (inner[0], inner[1], inner[4], inner[6]) != (_MAGIC, 16, _PLAIN, array_bytes + 24) or (
        count * 8 != array_bytes
    ):
        raise EnvelopeError("tenseal", "the array in the SEAL ciphertext is not of uncompressed residues")
    if scale is not None and actual_scale != scale:
        raise EnvelopeError("tenseal", f"the ciphertext's scale is {actual_scale}, expected {scale}")
    return np.frombuffer(body, "<u8", offset=body_bytes - array_bytes).reshape(
        2, len(parameters.primes), parameters.ring_degree
    )
