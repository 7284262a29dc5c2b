"""A small authority with an aggregator, and totals of its meters' batches that are sealed by hand.

Totals can be made while another process uses the home: each reads the enrolment anew.
A total is encrypted once, from the sum of its members' slots, so it costs the same for 5 and for 100 meters.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from gridhe.config.settings import PlanSettings, QuantitySettings, Settings
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.home.enrolment import Enrolment
from gridhe.keyring.home.vault import Kdf
from gridhe.plan.guards import Guards, guard_key, home_key
from gridhe.plan.plan import Plan
from gridhe.wire.credential import load_aggregator
from gridhe.wire.planes import Planes
from gridhe.wire.signing import SigningKey
from gridhe.wire.tenseal_format import from_tenseal
from gridhe.wire.total import Piece, TotalHeader, TotalKey, seal_total
from gridhe_testing.totals import member_list

__all__ = ["PASSPHRASE", "SmallAuthority", "small_plan"]

PASSPHRASE = "correct horse battery"


def small_plan() -> Settings:
    """A plan that is quick to compute with: windows of an hour, four intervals."""
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


@dataclass
class SmallAuthority:
    """A home in a temporary folder; windows of an hour with four intervals."""

    authority: AuthorityHome
    settings: Settings
    passphrase: str
    aggregator: str
    signing_key: SigningKey
    sums: dict[tuple[str, int, int], NDArray[np.int64]] = field(default_factory=dict)
    pieces: dict[TotalKey | tuple[str, str, int, int], tuple[NDArray[np.int64], dict[str, bytes]]] = field(
        default_factory=dict
    )
    _context: ts.Context | None = None

    @classmethod
    def make(cls, home: Path, settings: Settings) -> "SmallAuthority":
        """A new home with the aggregator `agg1`, and scrypt as cheap as it may be."""
        authority = AuthorityHome.init(home, settings, PASSPHRASE.encode(), kdf=Kdf(n=2**14))
        credential = load_aggregator(authority.enrol_aggregator("agg1", settings))
        return cls(
            authority=authority,
            settings=settings,
            passphrase=PASSPHRASE,
            aggregator="agg1",
            signing_key=SigningKey.from_private_bytes(credential.signing_key),
        )

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

    def readings(self, meters: int, seed: int | Sequence[int] = 0) -> NDArray[np.int64]:
        """int64[meters, intervals], all present."""
        return np.random.default_rng(seed).integers(0, 1001, (meters, self.plan.intervals))

    def enrol(self, group: str, count: int) -> list[str]:
        """The names of the group's first meters; enrols those that are missing."""
        names = [f"{group.replace('/', '-')}-{number:03}" for number in range(count)]
        with closing(Enrolment(self.authority.paths.enrolment)) as enrolment:
            known = {meter.name for meter in enrolment.meters(revoked=True)}
            if missing := [(name, group) for name in names if name not in known]:
                enrolment.enrol_meters(missing)
        return names

    def batches(
        self,
        names: Sequence[str],
        rows: NDArray[np.int64],
        window: int,
        lie: Callable[[NDArray[np.int64]], None] | None = None,
    ) -> tuple[NDArray[np.int64], dict[str, bytes]]:
        """The sum int64[N/2] of the meters' slots, and their proofs; the first meter lies about its own."""
        secret = self.authority.vault.secrets.guard_secret
        guards = Guards(self.plan)
        total, proofs = np.zeros(guards.plan.parameters.slots, np.int64), {}
        for name, row in zip(names, rows, strict=True):
            used = guards.plan.layout.encode({"import_wh": row})
            if lie is not None and name == names[0]:
                lie(used)
            keys = {"guard_key": guard_key(secret, name), "home_key": home_key(secret)}
            slots, proofs[name] = guards.fill(window, used, **keys)
            total += slots
        return total, proofs

    def total(
        self,
        group: str,
        pieces: Mapping[str, int] | None = None,
        *,
        rows: NDArray[np.int64] | None = None,
        change: Callable[[NDArray[np.int64]], None] = lambda slots: None,
        lie: Callable[[NDArray[np.int64]], None] | None = None,
        window: int = 100,
        part: int = 0,
        key: SigningKey | None = None,
        aggregator: str | None = None,
        plan: str | None = None,
        ciphertext: bytes | None = None,
        listed: bool = False,
    ) -> bytes:
        """A sealed total of meters by leaf group; by default one piece of 6 meters and random readings.

        A roll-up names a piece without its list, and with its readings, if the piece's own total was made
        before; not if it is to be `listed`. `change` changes the total's slots, `lie` a meter's used slots
        before it adds its guards.
        """
        pieces = {group: 6} if pieces is None else pieces
        meters = sum(pieces.values())
        rows = self.readings(meters) if rows is None else rows
        total, named, at, version = np.zeros(self.plan.parameters.slots, np.int64), [], 0, 0
        for leaf, count in pieces.items():
            own = self.pieces.get((self.plan.plan_id, leaf, window, part))
            if own is None or leaf == group or len(own[1]) != count:
                names = self.enrol(leaf, count)
                own = self.batches(names, rows[at : at + count], window, lie)
                if leaf == group:
                    self.pieces[self.plan.plan_id, leaf, window, part] = own
                bring = True
            else:
                bring = listed
            at += count
            total += own[0]
            with closing(Enrolment(self.authority.paths.enrolment)) as enrolment:
                version = enrolment.version
                enrolled = enrolment.group_meters(leaf, version)
            named.append(Piece(leaf, part, count, member_list(enrolled, own[1]) if bring else None))
        change(total)
        self.sums[group, window, part] = total[: self.plan.layout.used]
        header = TotalHeader(
            plan=plan or self.plan.plan_id,
            key=self.plan.key_id,
            aggregator=aggregator or self.aggregator,
            group=group,
            window=window,
            part=part,
            meters=meters,
            roster=version,
            pieces=tuple(named),
        )
        return seal_total(header, ciphertext or self.encrypt(total), key or self.signing_key)
