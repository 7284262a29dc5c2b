"""A grid for measuring: real keys, a real plan, and as many meters as a suite needs.

Encrypting is slow, so meters share a small pool of ciphertexts, those of the first meters. Each envelope is
one of them, sealed under the own header and envelope key of a meter. The aggregator sees no difference to
batches of their own. The authority can check the batches of the first `POOL` meters only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gridhe.bench.authority import MadeUpAuthority
from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.errors import PlanError
from gridhe.meter_agent.sealing import Sealer
from gridhe.plan.guards import guard_key
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.planner import Choice, choose
from gridhe.wire import topics
from gridhe.wire.envelope import Header, envelope_key, seal_envelope, seal_parts
from gridhe.wire.roster import RosterEntry

__all__ = ["RINGS", "BenchGrid", "Parcel", "preset_name", "roster_entries"]

# Key: kilobytes of a ciphertext on the wire.
RINGS = {
    24: CkksParameters(2048, (40, 14)),
    64: CkksParameters(4096, (32, 32, 20)),
    96: CkksParameters(4096, (48, 41, 20)),
    288: CkksParameters(8192, (48, 48, 48, 20)),
}
INTERVAL_S = 15
FIRST_WINDOW = 1_600_000  # in 2015: in the past for every clock, and within the horizon below
POOL = 16


def preset_name(parameters: CkksParameters) -> str:
    """The name of a ring in records."""
    return f"{parameters.ring_degree}-{parameters.wire_bytes // 1024}k"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One batch before it is sealed, so that many need little memory: the ciphertext is the pool's."""

    topic: str
    header: bytes
    key: bytes  # the meter's envelope key
    ciphertext: bytes

    def seal(self) -> tuple[bytes, bytes]:
        """The envelope in two parts."""
        return seal_parts(self.header, self.ciphertext, self.key)

    @property
    def payload(self) -> bytes:
        """The envelope."""
        return b"".join(self.seal())


class BenchGrid(MadeUpAuthority):
    """An authority, an aggregator, and meters in groups of equal size."""

    def __init__(
        self,
        parameters: CkksParameters,
        *,
        groups: int,
        meters: int,
        seed: int,
        intervals: int = 60,
        flooding_bits: int = 0,
    ) -> None:
        """Distribute `meters` meters over `groups` groups. Raises PlanError if no such plan is exact."""
        settings, choice = _choose(parameters, max(2, -(-meters // groups)), intervals, flooding_bits)
        super().__init__(settings, FIRST_WINDOW, choice=choice)
        self.meters, self.groups, self._seed = meters, groups, seed
        self._pool, self._proofs = [], []
        for number in range(POOL):
            ciphertext, proof = self.batch(number)
            self._pool.append(ciphertext)
            self._proofs.append(proof)

    @property
    def preset(self) -> str:
        """The ring's name in records."""
        return preset_name(self.plan.parameters)

    @property
    def now(self) -> float:
        """A moment just after the first window, UTC epoch seconds."""
        return float(self.plan.window_start_s(FIRST_WINDOW + 1) + 1)

    def meter(self, number: int) -> str:
        """A meter's name."""
        return _meter(number)

    def group(self, number: int) -> str:
        """The group of meter `number`."""
        return _group(number, self.groups)

    def readings(self, number: int, window: int = FIRST_WINDOW) -> NDArray[np.int64]:
        """The readings of meter `number`, int64[intervals], the same at every call."""
        rng = np.random.default_rng([self._seed, number, window])
        return rng.integers(0, self.plan.quantities[0].largest + 1, self.plan.intervals)

    def filled(self, number: int, window: int = FIRST_WINDOW) -> tuple[NDArray[np.int64], bytes]:
        """All slots of this meter's batch, int64[N/2], and its proof."""
        credential = self.credential_of(self.meter(number), self.group(number))
        return self.encryptor.guards.fill(
            window,
            self.plan.layout.encode({"import_wh": self.readings(number, window)}),
            guard_key=credential.guard_key,
            home_key=credential.home_key,
        )

    def batch(self, number: int, window: int = FIRST_WINDOW) -> tuple[bytes, bytes]:
        """This meter's own ciphertext, newly encrypted, and its proof."""
        slots, proof = self.filled(number, window)
        return self.encryptor.encrypt(slots), proof

    def member(self, number: int) -> tuple[bytes, bytes]:
        """(guard key, proof) of one of the first `POOL` meters, in the first window."""
        return guard_key(self.guard_secret, self.meter(number)), self._proofs[number]

    def ciphertext(self, number: int) -> bytes:
        """The ciphertext of meter `number`, from the pool."""
        return self._pool[number % POOL]

    def roster(self) -> bytes:
        """The signed roster of all meters."""
        return self.signed_roster(roster_entries(self.meters, self.groups))

    def ingest_key(self, number: int) -> bytes:
        """A meter's ingest key."""
        return self.ingest_key_of(self.meter(number))

    def envelope_key(self, number: int) -> bytes:
        """A meter's envelope key."""
        return envelope_key(self.ingest_key(number))

    def sealer(self, number: int) -> Sealer:
        """The sealer of this meter's batches."""
        return Sealer(self.encryptor, self.credential_of(self.meter(number), self.group(number)))

    def header(self, number: int, window: int = FIRST_WINDOW) -> Header:
        """The header of a meter's batch."""
        return Header(
            plan=self.encryptor.plan_id,
            key=self.plan.key_id,
            meter=self.meter(number),
            group=self.group(number),
            window=window,
            proof=self._proofs[number % POOL],
        )

    def envelope(self, number: int, window: int = FIRST_WINDOW) -> bytes:
        """A meter's envelope around a ciphertext of the pool."""
        return seal_envelope(self.header(number, window), self.ciphertext(number), self.envelope_key(number))

    def parcels(self, numbers: range, window: int = FIRST_WINDOW) -> Iterator[Parcel]:
        """These meters' batches."""
        for number in numbers:
            yield Parcel(
                topic=topics.batch(self.group(number), self.meter(number)),
                header=self.header(number, window).encode(),
                key=self.envelope_key(number),
                ciphertext=self.ciphertext(number),
            )


def _meter(number: int) -> str:
    return f"m{number}"


def _group(number: int, groups: int) -> str:
    return f"region/f{number % groups}"


def roster_entries(meters: int, groups: int) -> Iterator[RosterEntry]:
    """The roster entries of a BenchGrid with this many meters and groups."""
    return (RosterEntry(_meter(i), _group(i, groups)) for i in range(meters))


def _choose(
    parameters: CkksParameters, group: int, intervals: int, flooding_bits: int
) -> tuple[Settings, Choice]:
    """A plan of this ring for groups of this size, with the largest readings that stay exact."""
    for largest in (500, 100, 20, 4, 1):
        settings = Settings(
            ckks=CkksSettings(
                flooding_bits=flooding_bits,
                ring_degree=parameters.ring_degree,
                prime_bits=parameters.prime_bits,
            ),
            plan=PlanSettings(
                window_s=intervals * INTERVAL_S,
                interval_s=INTERVAL_S,
                quantities=(QuantitySettings(name="import_wh", largest=largest, statistics=("sum", "mean")),),
                largest_group=group,
                largest_rollup=group,
                minimum_meters=2,
                small_groups="accepted",
                grace_s=86_400.0,
                horizon_s=1.5e9,
            ),
        )
        try:
            return settings, choose(settings)
        except PlanError as error:
            refused = error
    raise refused
