"""The memory of a ring: `python -m gridhe.bench.ring_memory RELIN DEGREE BITS...`, RELIN 0 or 1.

Each ring is measured in a new process, which has no freed memory to reuse. Prints a JSON object: grown_mb,
the growth of resident memory by making the context (with relinearization keys if RELIN is 1), and peak_mb,
the peak growth while a vector was encrypted, serialized, loaded, added, multiplied (if RELIN is 1) and
decrypted.
"""

import json
import math
import sys
from typing import Any

import tenseal as ts

from gridhe.bench.machine import own_memory_mb
from gridhe.plan.parameters import CkksParameters

__all__ = ["make_context", "ring_memory", "scale_of"]


def make_context(ring: CkksParameters, *, relin: bool) -> Any:
    """A TenSEAL context; with `relin` it has the keys that a product needs."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        ring.ring_degree,
        coeff_mod_bit_sizes=list(ring.prime_bits),
        n_threads=1,
    )
    context.auto_rescale = False
    if relin:
        context.generate_relin_keys()
    return context


def scale_of(ring: CkksParameters, *, relin: bool) -> float:
    """A scale; with `relin` its square fits the data primes, as a product needs."""
    return float(2.0 ** min(40, math.floor((math.log2(ring.modulus) - 12) / (2 if relin else 1))))


def ring_memory(ring: CkksParameters, *, relin: bool) -> dict[str, float]:
    """Measure a ring in this process, which should be a new one."""
    before = own_memory_mb("VmRSS")
    context = make_context(ring, relin=relin)
    grown = own_memory_mb("VmRSS") - before
    vector = ts.ckks_vector(context, [1.0] * ring.slots, scale_of(ring, relin=relin))
    total = vector + ts.ckks_vector_from(context, vector.serialize())
    if relin:
        total = vector * vector
    total.decrypt()
    return {"grown_mb": max(0.0, grown), "peak_mb": max(0.0, own_memory_mb("VmHWM") - before)}


if __name__ == "__main__":
    wanted, degree, *bits = (int(one) for one in sys.argv[1:])
    print(json.dumps(ring_memory(CkksParameters(degree, tuple(bits)), relin=bool(wanted))))
