"""A small authority with an enrolled aggregator, and totals made with real TenSEAL."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tenseal as ts
from numpy.typing import NDArray

from gridhe.config.settings import PlanSettings, QuantitySettings, Settings
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.home.vault import Kdf
from gridhe.plan.plan import Plan
from gridhe.wire.credential import load_aggregator
from gridhe.wire.planes import Planes
from gridhe.wire.signing import SigningKey
from gridhe.wire.tenseal_format import from_tenseal
from gridhe.wire.total import Piece, TotalHeader, seal_total

PASSPHRASE = "correct horse battery"


@dataclass
class SmallAuthority:
    """A home in a temporary folder; windows of an hour with four intervals."""

    authority: AuthorityHome
    settings: Settings
    passphrase: str
    aggregator: str
    signing_key: SigningKey
    sums: dict[tuple[str, int, int], NDArray[np.int64]] = field(default_factory=dict)
    _context: ts.Context | None = None

    @property
    def home(self) -> Path:
        return self.authority.paths.home

    @property
    def plan(self) -> Plan:
        return self.authority.bundle().plan

    def encrypt(self, slots: NDArray[np.int64], plan: Plan | None = None) -> bytes:
        """One ciphertext of these slots."""
        bundle = self.authority.bundle()
        plan = plan or bundle.plan
        if self._context is None:
            self._context = ts.context_from(bundle.public_key, n_threads=1)
        padded = np.zeros(plan.parameters.slots)
        padded[: len(slots)] = slots
        vector = ts.ckks_vector(self._context, padded, plan.scale).serialize()
        return Planes(plan.parameters).pack(from_tenseal(vector, plan.parameters))

    def readings(self, meters: int, seed: int = 0) -> NDArray[np.int64]:
        """int64[meters, intervals], all present."""
        return np.random.default_rng(seed).integers(0, 1001, (meters, self.plan.intervals))

    def slots_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.sum([self.plan.layout.encode({"import_wh": row}) for row in rows], axis=0)

    def total(
        self,
        group: str,
        pieces: Mapping[str, int] | None = None,
        *,
        rows: NDArray[np.int64] | None = None,
        slots: NDArray[np.int64] | None = None,
        window: int = 100,
        part: int = 0,
        key: SigningKey | None = None,
        aggregator: str | None = None,
        plan: str | None = None,
        ciphertext: bytes | None = None,
    ) -> bytes:
        """A sealed total of meters by leaf group; by default one piece of 6 meters and random readings."""
        pieces = {group: 6} if pieces is None else pieces
        meters = sum(pieces.values())
        if slots is None:
            slots = self.slots_of(self.readings(meters) if rows is None else rows)
        self.sums[group, window, part] = slots
        header = TotalHeader(
            plan=plan or self.plan.plan_id,
            key=self.plan.key_id,
            aggregator=aggregator or self.aggregator,
            group=group,
            window=window,
            part=part,
            meters=meters,
            members=bytes(32),
            pieces=tuple(Piece(name, part, count) for name, count in pieces.items()),
        )
        return seal_total(header, ciphertext or self.encrypt(slots), key or self.signing_key)


@pytest.fixture
def small_settings() -> Settings:
    """A plan that is quick to compute with."""
    return Settings(
        plan=PlanSettings(
            window_s=3600,
            interval_s=900,
            largest_group=100,
            largest_rollup=100,
            quantities=(QuantitySettings(largest=1000, bins=4),),
            minimum_meters=5,
            small_groups="accepted",
        )
    )


@pytest.fixture
def small_authority(tmp_path: Path, small_settings: Settings) -> Iterator[SmallAuthority]:
    """A home with one aggregator, and scrypt as cheap as it may be."""
    authority = AuthorityHome.init(
        tmp_path / "authority", small_settings, PASSPHRASE.encode(), kdf=Kdf(n=2**14)
    )
    credential = load_aggregator(authority.enrol_aggregator("agg1", small_settings))
    yield SmallAuthority(
        authority=authority,
        settings=small_settings,
        passphrase=PASSPHRASE,
        aggregator="agg1",
        signing_key=SigningKey.from_private_bytes(credential.signing_key),
    )
    authority.close()
