"""The bundle: plan and public key, signed by the authority. A meter needs nothing else to encrypt."""

import hashlib
from dataclasses import dataclass

import msgpack

from gridhe.errors import BundleError, PlanError
from gridhe.plan.plan import Plan
from gridhe.wire.signing import SigningKey, authority_id, open_record, sign_record

__all__ = ["Bundle", "key_id_of"]

_KIND = "bundle"


def key_id_of(public_key: bytes) -> str:
    """`k` and the first 16 hex digits of the SHA-256 of a public key's bytes."""
    return "k" + hashlib.sha256(public_key).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A plan and its public key: a TenSEAL context without secret, Galois or relinearisation keys."""

    plan: Plan
    public_key: bytes

    def encode(self, key: SigningKey) -> bytes:
        """The signed bundle. Raises BundleError if the plan names another authority or public key."""
        self._check(key.verify_key)
        return sign_record(key, _KIND, msgpack.packb([self.plan.encode(), self.public_key]))

    @classmethod
    def decode(cls, data: bytes, verify_key: bytes) -> "Bundle":
        """The bundle in these bytes. Raises BundleError if not valid or not signed by this authority."""
        body = open_record(verify_key, _KIND, data)
        try:
            plan_record, public_key = msgpack.unpackb(body)
            if type(public_key) is not bytes:
                raise ValueError("the public key is not bytes")
            bundle = cls(plan=Plan.decode(plan_record), public_key=public_key)
        except (PlanError, ValueError, TypeError) as error:
            raise BundleError(f"the bundle's content is not valid: {error}") from None
        bundle._check(verify_key)
        return bundle

    def _check(self, verify_key: bytes) -> None:
        plan, signer, key_id = self.plan, authority_id(verify_key), key_id_of(self.public_key)
        if plan.authority != signer:
            raise BundleError(f"plan {plan.plan_id} is of authority {plan.authority}, not {signer}")
        if plan.key_id != key_id:
            raise BundleError(f"plan {plan.plan_id} is for key {plan.key_id}, the bundle has {key_id}")
