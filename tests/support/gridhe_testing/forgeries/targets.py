"""A real authority's home with enrolled meters, their sealed batches, and an attacker with stolen secrets.

Groups of so many honest batches, by default `SIZES`, and two more meters each. One window: a power cut in
its last intervals, in which only the victim of each group has readings.

The attacker is the aggregator's operator together with a rogue meter of each group. It has the aggregator's
credential (ingest secret, signing key), the rogue meters' credentials (home key, own guard key) and all
envelopes. It does not have the guard secret, another meter's guard key or the secret key.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.config.settings import PlanSettings, Settings
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.home.vault import Kdf
from gridhe.keyring.release.service import ReleaseService
from gridhe.meter_agent.sealing import Encryptor, Sealer
from gridhe.plan.plan import Plan
from gridhe.plan.slots import MISSING
from gridhe.wire.bundle import Bundle
from gridhe.wire.credential import AggregatorCredential, DeviceCredential, load_aggregator, load_fleet
from gridhe.wire.envelope import envelope_key, open_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.planes import Planes
from gridhe.wire.signing import SigningKey
from gridhe.wire.total import MemberList, Piece, TotalHeader, seal_total
from gridhe_testing.forgeries.residues import Residues
from gridhe_testing.totals import member_list

__all__ = ["NAME", "SIZES", "Sealed", "Target", "Targets", "small_plan"]

NAME = "import_wh"
SIZES = (5, 25, 1000)
_WINDOW = 20_000
_KEPT = 25  # groups of at most this many keep their envelopes, 98 KB each
_KDF = Kdf(n=2**14)  # as cheap as it may be


def small_plan(**options: Any) -> PlanSettings:
    """The default plan with a minimum of 5 meters, the fewest that a forgery is tried with."""
    return PlanSettings(minimum_meters=min(SIZES), small_groups="accepted", **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A batch that the aggregator has opened. `used` int64[used] is what the meter knows, for comparison."""

    meter: str
    envelope: bytes
    proof: bytes
    residues: Residues
    used: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A group of which `size` batches are to be added: the victim is the first, the rogue meter the last."""

    group: str
    size: int
    meters: Sequence[str]  # all of the group, in order of name
    proofs: dict[str, bytes]  # of the batches to be added
    envelopes: dict[str, bytes]  # the same batches as sent; empty for a large group
    whole: Residues  # their sum
    sums: NDArray[np.int64]  # int64[used], of their slots
    victim: Sealed
    other: Sealed
    third: Sealed
    outsider: Sealed
    rogue: Sealed
    rogue_credential: DeviceCredential
    victim_credential: DeviceCredential  # to let the victim seal again


class Targets:
    """The home, the meters and all batches. Use `close` at the end."""

    def __init__(
        self,
        folder: Path,
        sizes: Sequence[int] = SIZES,
        *,
        settings: Settings | None = None,
        window: int = _WINDOW,
        seed: int = 1,
    ) -> None:
        if settings is None:
            rollup = sum(size + 2 for size in sizes)
            settings = Settings(plan=small_plan(largest_group=max(sizes) + 2, largest_rollup=rollup))
        self.settings, self.window = settings, window
        self.rng = np.random.default_rng(seed)
        self.home = AuthorityHome.init(folder / "home", self.settings, b"correct horse battery", kdf=_KDF)
        self.aggregators: dict[str, AggregatorCredential] = {
            name: load_aggregator(self.home.enrol_aggregator(name, self.settings))
            for name in ("main", "second")
        }
        self.fleet_file = folder / "fleet.json"
        places = [(f"m{size}-{at:04}", f"north/k{size}") for size in sizes for at in range(size + 2)]
        self.home.enrol_meters(places, self.settings, fleet_file=self.fleet_file)
        self.devices = {device.meter: device for device in load_fleet(self.fleet_file).devices}
        self.encryptor = Encryptor(self.bundle)
        self.planes = Planes(self.plan.parameters)
        self.targets = {size: self._target(size) for size in sizes}
        # Make the files of the release path, so that copies of the home have them.
        with ReleaseService(self.home, settings, emit=lambda outcome: None) as service:
            service.offline()

    def close(self) -> None:
        """Close the home."""
        self.home.close()

    @cached_property
    def bundle(self) -> Bundle:
        """The bundle that everybody has."""
        return self.home.bundle()

    @property
    def plan(self) -> Plan:
        """The plan of all batches."""
        return self.bundle.plan

    @cached_property
    def roster(self) -> int:
        """The version of the roster that member lists refer to."""
        return self.home.enrolment.version

    @property
    def cut(self) -> slice:
        """The intervals of the power cut."""
        return slice(self.plan.intervals * 5 // 6, self.plan.intervals)

    # -- meters ----------------------------------------------------------------------------------

    def seal(
        self,
        credential: DeviceCredential,
        readings: NDArray[np.int64],
        *,
        window: int | None = None,
        encryptor: Encryptor | None = None,
    ) -> Sealed:
        """What the aggregator has of the batch that the meter seals of these readings."""
        encryptor = self.encryptor if encryptor is None else encryptor
        window = self.window if window is None else window
        payload = Sealer(encryptor, credential).seal(window, {NAME: readings})
        envelope = open_envelope(payload, len(payload))
        secret = self.aggregators["main"].ingest_secret
        planes = envelope.open(envelope_key(derive_key(secret, credential.meter)))
        return Sealed(
            meter=credential.meter,
            envelope=payload,
            proof=envelope.header.proof,
            residues=self.planes.unpack(planes),
            used=self.plan.layout.encode({NAME: readings}),
        )

    def other_plan(self) -> Encryptor:
        """Of another plan under the same key, which the authority would not sign."""
        return Encryptor(replace(self.bundle, plan=replace(self.plan, late_s=self.plan.late_s + 1)))

    def household(self, *, everywhere: bool) -> NDArray[np.int64]:
        """Readings of a day; with a gap here and there and the power cut, unless `everywhere`."""
        rng, intervals = self.rng, self.plan.intervals
        readings = np.minimum(rng.gamma(0.6, rng.choice([300.0, 900.0]), intervals), 5_000).astype(np.int64)
        if not everywhere:
            readings[rng.random(intervals) < 0.01] = MISSING
            readings[self.cut] = MISSING
        return readings

    def _target(self, size: int) -> Target:
        group = f"north/k{size}"
        meters = self.home.enrolment.group_meters(group, self.roster)
        fold, sums, proofs = Accumulator(self.planes), np.zeros(self.plan.layout.used, np.int64), {}
        named: dict[int, Sealed] = {}
        envelopes: dict[str, bytes] = {}
        for at, meter in enumerate(meters[: size + 1]):
            batch = self.seal(self.devices[meter], self.household(everywhere=at == 0))
            if at in (0, 1, 2, size - 1, size):
                named[at] = batch
            if at < size:
                fold.fold(self.planes.views(self.planes.pack(batch.residues)))
                sums += batch.used
                proofs[meter] = batch.proof
                if size <= _KEPT:
                    envelopes[meter] = batch.envelope
        return Target(
            group=group,
            size=size,
            meters=meters,
            proofs=proofs,
            envelopes=envelopes,
            whole=fold.residues(),
            sums=sums,
            victim=named[0],
            other=named[1],
            third=named[2],
            rogue=named[size - 1],
            outsider=named[size],
            rogue_credential=self.devices[meters[size - 1]],
            victim_credential=self.devices[meters[0]],
        )

    # -- the aggregator --------------------------------------------------------------------------

    def total(
        self,
        target: Target,
        residues: Residues,
        proofs: dict[str, bytes] | None = None,
        *,
        part: int = 0,
        aggregator: str = "main",
    ) -> bytes:
        """The signed total of these residues that claims these members, by default those of the target."""
        listed: MemberList = member_list(target.meters, target.proofs if proofs is None else proofs)
        meters = len(target.proofs if proofs is None else proofs)
        header = TotalHeader(
            plan=self.plan.plan_id,
            key=self.plan.key_id,
            aggregator=aggregator,
            group=target.group,
            window=self.window,
            part=part,
            meters=meters,
            roster=self.roster,
            pieces=(Piece(target.group, part, meters, listed),),
        )
        signer = SigningKey.from_private_bytes(self.aggregators[aggregator].signing_key)
        return seal_total(header, self.planes.pack(residues), signer)
