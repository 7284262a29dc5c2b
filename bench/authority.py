"""A test authority with an aggregator: real keys, plans, credentials and signatures, in memory only.

Benchmarks, tests and fault cases build their grids on it and add meters and readings.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from gridhe.config.settings import Settings
from gridhe.meter_agent.sealing import Encryptor
from gridhe.plan.guards import GUARD_KEY_BYTES, guard_key, home_key
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.planner import Choice, choose, make_plan
from gridhe.wire import topics
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.credential import AggregatorCredential, DeviceCredential
from gridhe.wire.ingest import derive_key, new_ingest_secret
from gridhe.wire.planes import Planes
from gridhe.wire.roster import FormerPlace, Roster, RosterEntry
from gridhe.wire.signing import SigningKey, authority_id
from gridhe.wire.tenseal_format import to_tenseal

__all__ = ["MadeUpAuthority", "PlanKey", "new_context"]

_PASSWORD = "x" * 32  # in every credential; no broker checks it


def new_context(parameters: CkksParameters) -> tuple[Any, bytes]:
    """A TenSEAL context with a new secret key, and its public key in a bundle's format."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        parameters.ring_degree,
        coeff_mod_bit_sizes=list(parameters.prime_bits),
        n_threads=1,
    )
    public_key = context.serialize(
        save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    return context, public_key


@dataclass(frozen=True, eq=False)
class PlanKey:
    """A plan with its key pair."""

    bundle: Bundle
    context: Any = field(repr=False)  # TenSEAL's, with the secret key

    @property
    def plan(self) -> Plan:
        """The bundle's plan."""
        return self.bundle.plan

    @property
    def secret_context(self) -> bytes:
        """The context with its secret key only, as the vault stores it."""
        secret: bytes = self.context.serialize(
            save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
        )
        return secret

    @cached_property
    def planes(self) -> Planes:
        """The format of its ciphertexts."""
        return Planes(self.plan.parameters)

    @cached_property
    def encryptor(self) -> Encryptor:
        """The encryptor that meters use."""
        return Encryptor(self.bundle)

    def all_slots(self, ciphertext: bytes) -> NDArray[np.int64]:
        """The decrypted slots, int64[N/2], guards included, by plain TenSEAL."""
        residues = self.planes.unpack(ciphertext)
        sealed = to_tenseal(residues, self.plan.parameters, self.plan.scale)
        slots = np.array(ts.ckks_vector_from(self.context, sealed).decrypt(), np.float64)
        whole: NDArray[np.int64] = np.rint(slots).astype(np.int64)
        return whole

    def decrypted(self, ciphertext: bytes) -> NDArray[np.int64]:
        """The decrypted used slots, int64[used]."""
        return self.all_slots(ciphertext)[: self.plan.layout.used]


class MadeUpAuthority:
    """An authority, an aggregator, and the authority's plans, the newest last."""

    def __init__(
        self, settings: Settings, first_window: int, *, choice: Choice | None = None, aggregator: str = "main"
    ) -> None:
        """`choice`: the planner's choice, if already known. Raises PlanError if no plan is exact."""
        self.settings, self.aggregator = settings, aggregator
        self.choice = choose(settings) if choice is None else choice
        self.authority = SigningKey.generate()
        self.secret = new_ingest_secret()
        self.guard_secret = os.urandom(GUARD_KEY_BYTES)
        self.aggregator_key = SigningKey.generate()
        self.keys: dict[str, PlanKey] = {}
        self.add_key(first_window)

    def add_key(self, first_window: int) -> PlanKey:
        """Make a key pair and a plan from `first_window` on; every call after the first is a rotation."""
        context, public_key = new_context(self.choice.parameters)
        plan = make_plan(
            self.settings,
            self.choice,
            authority=authority_id(self.authority.verify_key),
            key_id=key_id_of(public_key),
            first_window=first_window,
        )
        key = PlanKey(bundle=Bundle(plan=plan, public_key=public_key), context=context)
        self.keys[plan.plan_id] = key
        return key

    # -- the newest plan -------------------------------------------------------------------------

    @property
    def key(self) -> PlanKey:
        """The newest plan with its key pair."""
        return next(reversed(self.keys.values()))

    @property
    def plan(self) -> Plan:
        """The newest plan."""
        return self.key.plan

    @property
    def bundle(self) -> Bundle:
        """The newest plan's bundle."""
        return self.key.bundle

    @property
    def context(self) -> Any:
        """The newest plan's TenSEAL context, with the secret key."""
        return self.key.context

    @property
    def planes(self) -> Planes:
        """The format of the newest plan's ciphertexts."""
        return self.key.planes

    @property
    def encryptor(self) -> Encryptor:
        """The newest plan's encryptor."""
        return self.key.encryptor

    # -- credentials, roster and bundles ---------------------------------------------------------

    @cached_property
    def credential(self) -> AggregatorCredential:
        """The aggregator's credential."""
        return AggregatorCredential(
            aggregator=self.aggregator,
            password=_PASSWORD,
            ingest_secret=self.secret,
            signing_key=self.aggregator_key.private_bytes(),
            authority_key=self.authority.verify_key,
        )

    def ingest_key_of(self, name: str) -> bytes:
        """The key of a meter, or of `aggregator/<name>`."""
        return derive_key(self.secret, name)

    def credential_of(self, meter: str, group: str) -> DeviceCredential:
        """A meter's credential."""
        return DeviceCredential(
            meter=meter,
            group=group,
            password=_PASSWORD,
            ingest_key=self.ingest_key_of(meter),
            guard_key=guard_key(self.guard_secret, meter),
            home_key=home_key(self.guard_secret),
            authority_key=self.authority.verify_key,
        )

    def signed_roster(
        self, entries: Iterable[RosterEntry], version: int = 1, former: Iterable[FormerPlace] = ()
    ) -> bytes:
        """The signed roster of these meters and former meters."""
        return Roster.of(version, entries, former=former).encode(self.authority)

    def signed_bundle(self) -> bytes:
        """The newest bundle, signed."""
        return self.bundle.encode(self.authority)

    def bundles(self) -> dict[str, bytes]:
        """Every signed bundle by its topic, and the newest as the current one."""
        signed = {topics.plan(plan): key.bundle.encode(self.authority) for plan, key in self.keys.items()}
        return {**signed, topics.PLAN_CURRENT: self.signed_bundle()}
