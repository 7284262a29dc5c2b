"""Opening a decided total: the sums of its members' guards, the decryption with its checks, the suspects.

The guards of a wider total are the sums of its pieces'. The sums of opened pieces are stored, so they cost
nothing again; those of a piece that brings its list are computed, 14 us a member.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgpack
import numpy as np
from numpy.typing import NDArray

from gridhe.errors import StateError
from gridhe.keyring.home.vault import Secrets
from gridhe.keyring.release.decrypt import Decryptor, Unsound
from gridhe.keyring.release.family import PieceKey
from gridhe.keyring.release.policy import Claim
from gridhe.keyring.release.register import Members
from gridhe.keyring.release.suspects import Candidate, Finding, find_suspects
from gridhe.plan.guards import Guards, GuardSums, guard_key, home_key
from gridhe.plan.plan import Plan

__all__ = ["Opener", "decode_sums", "encode_sums"]

_CANDIDATES_MAX = 20_000  # some seconds of work in the worst case


def encode_sums(sums: GuardSums) -> bytes:
    """Guard sums as msgpack, with integers of 4 bytes if all fit, else of 8."""
    kind = "<u4" if max(int(sums.guards.max(initial=0)), sums.meters) < 2**32 else "<u8"
    body: bytes = msgpack.packb(
        [sums.meters, sums.present.astype(kind).tobytes(), sums.guards.astype(kind).tobytes()]
    )
    return body


def decode_sums(data: bytes, plan: Plan) -> GuardSums:
    """The guard sums that `encode_sums` wrote. Raises StateError if they are damaged."""
    shape = len(plan.quantities), plan.intervals
    try:
        meters, present, guards = msgpack.unpackb(data)
        kind = f"<u{len(guards) // plan.guards}"
        return GuardSums(
            meters=meters,
            present=np.frombuffer(present, kind).astype(np.int64).reshape(shape),
            guards=np.frombuffer(guards, kind).astype(np.int64).reshape(plan.guards),
        )
    except (ValueError, TypeError):
        raise StateError("stored guard sums are damaged; restore answers.db from a backup") from None


class Opener:
    """Opens totals with the vault's secrets."""

    def __init__(self, secrets: Callable[[], Secrets]) -> None:
        self._secrets = secrets
        self._decryptors: dict[str, Decryptor] = {}
        self._guards: dict[str, Guards] = {}

    def forget(self, plans: Iterable[Plan]) -> None:
        """Delete from memory every secret key that is no longer in the vault; `plans` may have more."""
        held = self._secrets().contexts
        for plan in plans:
            if plan.key_id not in held:
                self._decryptors.pop(plan.plan_id, None)

    def sums(self, plan: Plan, window: int, members: Members) -> GuardSums:
        """The sums of the guards of a piece's members."""
        secret = self._secrets().guard_secret
        keyed = ((guard_key(secret, name), proof) for name, proof in members.items())
        return self._guards_of(plan).sums(window, keyed)

    def open(self, plan: Plan, window: int, ciphertext: bytes, sums: GuardSums) -> NDArray[np.int64]:
        """The used slots int64[used] of a total whose members have these sums. Raises Unsound."""
        decryptor = self._decryptors.get(plan.plan_id)
        if decryptor is None:
            secrets = self._secrets()
            decryptor = Decryptor(
                plan, secrets.contexts[plan.key_id], secrets.noise_key, home_key(secrets.guard_secret)
            )
            self._decryptors[plan.plan_id] = decryptor
        return decryptor.open(ciphertext, window=window, sums=sums)

    def suspects(
        self, plan: Plan, claim: Claim, lists: Mapping[PieceKey, Members], unsound: Unsound
    ) -> Finding:
        """The meters that spoilt a total; `lists` are all of its window."""
        named = {(group, part) for group, part, _ in claim.pieces}
        candidates: dict[str, Candidate] = {}
        for candidate in self._candidates(lists, named):
            candidates.setdefault(candidate.meter, candidate)
            if len(candidates) >= _CANDIDATES_MAX:
                break
        return find_suspects(
            self._guards_of(plan),
            claim.window,
            unsound.errors,
            unsound.present_errors,
            list(candidates.values()),
        )

    def _candidates(self, lists: Mapping[PieceKey, Members], named: set[PieceKey]) -> Iterator[Candidate]:
        """The members first, then the meters whose proof another total of the window brought."""
        secret = self._secrets().guard_secret
        for piece in sorted(lists, key=lambda piece: (piece not in named, piece)):
            for name, proof in lists[piece].items():
                yield Candidate(
                    meter=name,
                    group=piece[0],
                    guard_key=guard_key(secret, name),
                    proof=proof,
                    member=piece in named,
                )

    def _guards_of(self, plan: Plan) -> Guards:
        guards = self._guards.get(plan.plan_id)
        if guards is None:
            guards = self._guards[plan.plan_id] = Guards(plan)
        return guards
