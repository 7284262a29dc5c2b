"""Turns a window's readings into the published envelope. Encrypts; cannot decrypt.

    readings -> used slots (SlotLayout) -> all slots with guards (Guards), and the proof
    -> CKKS under the bundle's public key (TenSEAL, one thread) -> residues -> planes
    -> envelope, encrypted to the aggregator under the meter's envelope key

An `Encryptor` holds a bundle's TenSEAL context, which takes time and memory: a process creates one per
bundle and shares it among all its meters.
"""

from collections.abc import Mapping

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from gridhe.errors import BundleError
from gridhe.plan.guards import Guards
from gridhe.wire.bundle import Bundle
from gridhe.wire.credential import DeviceCredential
from gridhe.wire.envelope import Header, envelope_key, seal_envelope
from gridhe.wire.planes import Planes
from gridhe.wire.tenseal_format import from_tenseal

__all__ = ["Encryptor", "Sealer"]


class Encryptor:
    """Public-key encryption under one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError if the public key is not of the plan's ring, or if it contains a secret key."""
        self.plan = bundle.plan
        try:
            self._context = ts.context_from(bundle.public_key, n_threads=1)
        # TenSEAL raises RuntimeError or ValueError for any fault.
        except Exception as error:
            raise BundleError(f"the public key of plan {self.plan.plan_id} does not load: {error}") from None
        if self._context.is_private():
            raise BundleError(f"the bundle of plan {self.plan.plan_id} holds a secret key: do not use it")
        self._planes = Planes(self.plan.parameters)
        self.guards = Guards(self.plan)
        self._plan_id = self.plan.plan_id
        try:
            self.encrypt(np.zeros(self.plan.parameters.slots, np.int64))
        except Exception as error:
            raise BundleError(f"the public key is not one of {self.plan.parameters}: {error}") from None

    @property
    def plan_id(self) -> str:
        """The plan's id, computed once."""
        return self._plan_id

    def encrypt(self, slots: NDArray[np.int64]) -> bytes:
        """All slots of a batch, int64[N/2], to the ciphertext's planes."""
        vector = ts.ckks_vector(self._context, slots.astype(np.float64).tolist(), self.plan.scale)
        parameters = self.plan.parameters
        return self._planes.pack(from_tenseal(vector.serialize(), parameters, self.plan.scale))


class Sealer:
    """One meter's batches under one bundle."""

    def __init__(self, encryptor: Encryptor, credential: DeviceCredential) -> None:
        """Raises BundleError if bundle and credential are of different authorities."""
        if encryptor.plan.authority != credential.authority:
            raise BundleError(
                f"plan {encryptor.plan_id} is of authority {encryptor.plan.authority}, "
                f"this meter's is {credential.authority}"
            )
        self._encryptor = encryptor
        self._credential = credential
        self._key = envelope_key(credential.ingest_key)

    def seal(self, window: int, readings: Mapping[str, NDArray[np.int64]]) -> bytes:
        """The envelope of one window: readings int64[intervals] by quantity, MISSING for gaps.

        Each call gives a new ciphertext; the outbox keeps only the first. Raises ValueError for readings
        that the plan does not allow.
        """
        plan, credential = self._encryptor.plan, self._credential
        slots, proof = self._encryptor.guards.fill(
            window,
            plan.layout.encode(readings),
            guard_key=credential.guard_key,
            home_key=credential.home_key,
        )
        header = Header(
            plan=self._encryptor.plan_id,
            key=plan.key_id,
            meter=credential.meter,
            group=credential.group,
            window=window,
            proof=proof,
        )
        return seal_envelope(header, self._encryptor.encrypt(slots), self._key)
