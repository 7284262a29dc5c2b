"""Batches of honest meters, and signed totals with member lists, without an aggregator process."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.meter_agent.sealing import Encryptor
from gridhe.plan.plan import Plan
from gridhe.wire.credential import DeviceCredential
from gridhe.wire.planes import Planes
from gridhe.wire.signing import SigningKey
from gridhe.wire.total import MemberList, Piece, TotalHeader, bitmap_of, seal_total

__all__ = ["Batch", "folded", "make_batch", "member_list", "signed_total"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A meter's batch before it is sealed. `slots` is int64[N/2], guards included."""

    meter: str
    group: str
    window: int
    slots: NDArray[np.int64]
    ciphertext: bytes
    proof: bytes


def make_batch(
    encryptor: Encryptor,
    credential: DeviceCredential,
    window: int,
    readings: Mapping[str, NDArray[np.int64]],
) -> Batch:
    """The batch that the meter with this credential makes of these readings, newly encrypted."""
    slots, proof = encryptor.guards.fill(
        window,
        encryptor.plan.layout.encode(readings),
        guard_key=credential.guard_key,
        home_key=credential.home_key,
    )
    return Batch(
        meter=credential.meter,
        group=credential.group,
        window=window,
        slots=slots,
        ciphertext=encryptor.encrypt(slots),
        proof=proof,
    )


def folded(plan: Plan, ciphertexts: Iterable[bytes]) -> bytes:
    """The sum of ciphertexts, as planes."""
    planes = Planes(plan.parameters)
    total = Accumulator(planes)
    for ciphertext in ciphertexts:
        total.fold(planes.views(ciphertext))
    return total.pack()


def member_list(meters: Sequence[str], proofs: Mapping[str, bytes]) -> MemberList:
    """The member list of the meters in `proofs`; `meters`: all of the group, present and former, by name."""
    positions = [at for at, meter in enumerate(meters) if meter in proofs]
    if len(positions) != len(proofs):
        raise ValueError(f"{sorted(set(proofs) - set(meters))} are not among the group's meters")
    return MemberList(bitmap_of(positions), b"".join(proofs[meters[at]] for at in positions))


def signed_total(
    plan: Plan,
    signer: SigningKey,
    pieces: Sequence[Piece],
    ciphertext: bytes,
    *,
    group: str,
    window: int,
    part: int = 0,
    roster: int,
    aggregator: str = "main",
) -> bytes:
    """A total of these pieces as an aggregator publishes it."""
    header = TotalHeader(
        plan=plan.plan_id,
        key=plan.key_id,
        aggregator=aggregator,
        group=group,
        window=window,
        part=part,
        meters=sum(piece.meters for piece in pieces),
        roster=roster,
        pieces=tuple(pieces),
    )
    return seal_total(header, ciphertext, signer)
