"""A decoder to be fuzzed: how bytes are fed to it, and what it may raise."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.plan.plan import Plan
from gridhe.plan.planner import choose, make_plan
from gridhe.wire.bundle import key_id_of
from gridhe.wire.signing import SigningKey, authority_id

MAX_BYTES = 1 << 20
KEY = bytes(range(32))
NONCE = bytes(12)
SIGNER = SigningKey.from_private_bytes(KEY)  # fixed, so that an input means the same in every run
PUBLIC_KEY = b"a public key is any bytes to a bundle's decoder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """`feed` any bytes; anything it raises but `errors` is a finding. `modes`: values of the first byte."""

    feeders: tuple[Callable[[bytes], object], ...]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    close: Callable[[], object] = field(default=lambda: None)  # called after the last input

    def feed(self, data: bytes) -> None:
        if data:
            with suppress(*self.errors):
                self.feeders[data[0] % len(self.feeders)](data[1:])


def small_plan() -> Plan:
    settings = Settings(
        ckks=CkksSettings(flooding_bits=0, ring_degree=2048, prime_bits=(40, 14)),
        plan=PlanSettings(
            window_s=3_600,
            interval_s=900,
            quantities=(QuantitySettings(largest=500, bins=4, statistics=("sum", "min")),),
            largest_group=20,
            largest_rollup=20,
            minimum_meters=5,
        ),
    )
    return make_plan(
        settings,
        choose(settings),
        authority=authority_id(SIGNER.verify_key),
        key_id=key_id_of(PUBLIC_KEY),
        first_window=0,
    )


def seeds_of(*inside: bytes | tuple[bytes, ...]) -> tuple[bytes, ...]:
    """One seed for each mode and example: its number, then the bytes."""
    found = []
    for mode, examples in enumerate(inside):
        for example in examples if isinstance(examples, tuple) else (examples,):
            found.append(bytes([mode]) + example)
    return tuple(found)
