"""The cost of a larger ring: the presets and the planner's rings, in plain TenSEAL on one thread.

Per ring: context with the keys that a multiplication needs, encrypt, serialize, load, add, multiply (with
relinearization, where the ring has a prime to spare), decrypt; bytes; the error of a sum; resident
memory, in a new process for each ring.
"""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import tenseal as ts

from gridhe.bench.grid import preset_name
from gridhe.bench.measure import side_by_side
from gridhe.bench.recorder import Setup
from gridhe.bench.ring_memory import make_context, scale_of
from gridhe.bench.throughput import StreamFailed
from gridhe.plan.parameters import PRESETS, RINGS, CkksParameters

__all__ = ["ABOUT", "NAME", "run"]

NAME = "security"
ABOUT = "the cost of a larger ring: light (4096) to maximum (32768), and the planner's rings"

_SUMMED = 8
_TIMEOUT_S = 120.0


def run(setup: Setup) -> None:
    """Measure the presets; without --quick the planner's rings too."""
    rings = dict(PRESETS)
    if not setup.quick:
        rings |= {preset_name(ring): ring for ring in RINGS if ring.wire_bytes < 600_000}
    setup.progress.suite(NAME, len(rings))
    for name, ring in rings.items():
        with setup.progress.case(f"{name}, {ring}"):
            _measure(setup, name, ring)


def _measure(setup: Setup, name: str, ring: CkksParameters) -> None:
    multiplies = len(ring.prime_bits) >= 3
    memory = _memory(ring, relin=multiplies)
    scale = scale_of(ring, relin=multiplies)
    context = make_context(ring, relin=multiplies)
    numbers = np.random.default_rng(setup.seed).integers(0, 16, ring.slots)
    values = numbers.astype(np.float64).tolist()
    vector = ts.ckks_vector(context, values, scale)
    data = vector.serialize()
    loaded = ts.ckks_vector_from(context, data)
    calls: dict[str, Any] = {
        "encrypt": lambda: ts.ckks_vector(context, values, scale),
        "serialize": vector.serialize,
        "load": lambda: ts.ckks_vector_from(context, data),
        "add": lambda: vector + loaded,
        "decrypt": vector.decrypt,
    }
    if multiplies:
        calls["multiply"] = lambda: vector * loaded
    times = side_by_side(calls, budget_s=1.5 if setup.quick else 5.0, seed=setup.seed, rounds_least=3)
    for verb, samples in times.items():
        setup.recorder.add(NAME, verb, "time", [s * 1e3 for s in samples.seconds], "ms", preset=name)
    made = side_by_side(
        {"c": lambda: make_context(ring, relin=multiplies)}, budget_s=1.0, seed=1, rounds_least=2
    )
    setup.recorder.add(NAME, "context", "time", [s * 1e3 for s in made["c"].seconds], "ms", preset=name)
    add = setup.recorder.add
    add(NAME, "ciphertext", "size in planes", ring.wire_bytes, "B", preset=name)
    add(NAME, "ciphertext", "size in TenSEAL", len(data), "B", preset=name, better="neither")
    add(NAME, "context", "memory", memory["grown_mb"], "MB", preset=name, better="neither")
    add(NAME, "every call once", "memory", memory["peak_mb"], "MB", preset=name, better="neither")
    total = vector
    for _ in range(_SUMMED - 1):
        total = total + ts.ckks_vector(context, values, scale)
    error = float(np.max(np.abs(np.array(total.decrypt()) - _SUMMED * numbers)))
    add(NAME, f"sum of {_SUMMED}", "largest error", error, "reading", preset=name, better="neither")
    if multiplies:
        error = float(np.max(np.abs(np.array((vector * loaded).decrypt()) - numbers**2)))
        add(NAME, "product", "largest error", error, "reading", preset=name, better="neither")


def _memory(ring: CkksParameters, *, relin: bool) -> dict[str, float]:
    """The memory in MB in a new process: growth by the context, and peak growth over all calls."""
    arguments = [int(relin), ring.ring_degree, *ring.prime_bits]
    command = [sys.executable, "-P", "-m", "gridhe.bench.ring_memory", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)  # noqa: S603
    if done.returncode:
        raise StreamFailed(f"measuring the memory of {ring} failed: {done.stderr[-500:]}")
    memory: dict[str, float] = json.loads(done.stdout)
    return memory
