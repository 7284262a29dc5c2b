"""The secret key's residues out of TenSEAL's serialized context, without TenSEAL.

A serialized context is a protobuf whose field 3 holds the keys; in it, field 1 is the secret key in SEAL 4's
save format: a header of 16 bytes, then (possibly compressed)

    parms_id      32 bytes
    count         uint64     primes * N, the special prime included
    scale         double
    header        16 bytes   of the array that follows, never compressed
    count         uint64
    residues      uint64     [prime][coefficient], in NTT form

SEAL's secret keys have coefficients -1, 0 and 1. A key of another ring, or a damaged one, has others when it
is read with this ring's primes, so this is checked instead of the parms_id.
"""

import numpy as np
from numpy.typing import NDArray

from gridhe.custody.ring import ring_of
from gridhe.errors import EnvelopeError, VaultError
from gridhe.plan.parameters import CkksParameters
from gridhe.wire.tenseal_format import protobuf_fields, seal_body

__all__ = ["secret_of"]

_KEYS, _SECRET_KEY = 3, 1
_HEAD_BYTES = 32 + 8 + 8 + 16 + 8


def secret_of(context: bytes, parameters: CkksParameters) -> NDArray[np.uint64]:
    """The secret key uint64[data primes][N], in NTT form, in a serialized private context of this ring.

    Raises VaultError, without any of the key's bytes in its text.
    """
    n, primes = parameters.ring_degree, len(parameters.prime_bits)
    size = _HEAD_BYTES + 8 * primes * n
    try:
        keys = protobuf_fields(memoryview(context)).get(_KEYS, memoryview(b""))
        body = seal_body(protobuf_fields(keys).get(_SECRET_KEY, memoryview(b"")), size)
    except EnvelopeError:
        body = b""
    if len(body) == size:
        residues = np.frombuffer(body, "<u8", offset=_HEAD_BYTES).reshape(primes, n)[:-1].astype(np.uint64)
        if _is_ternary(residues, parameters):
            return residues
    raise VaultError(f"the stored secret key is not one of {parameters}; restore the vault from a backup")


def _is_ternary(residues: NDArray[np.uint64], parameters: CkksParameters) -> bool:
    if any(int(row.max()) >= prime for row, prime in zip(residues, parameters.primes, strict=True)):
        return False
    ring = ring_of(parameters)
    return bool(np.abs(ring.centred(ring.intt(residues))).max() <= 1)
