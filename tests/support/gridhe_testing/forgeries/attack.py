"""What an attacker can make for one target: known numbers, probes of the key, batches of its rogue meter."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gridhe.plan.guards import Guards
from gridhe.plan.plan import TAGS
from gridhe_testing.forgeries.residues import ResidueRing, Residues
from gridhe_testing.forgeries.targets import NAME, Target, Targets

__all__ = ["PRIMES", "REDUCED", "Attack", "Forged"]

PRIMES = 65521 * 65519  # 0 modulo both primes of the tag slots

# An integer polynomial r = sum a (X^k - X^(N - k)), as k: a, with all slots real and below 2^-24 in the first
# 8 guard slots of the default plan; |r|^2 = 906. Found by lattice reduction (BKZ-30 in 120 random k): it
# passes 8 guards, so a total needs more of them.
# fmt: off
REDUCED = {
    10: 1, 61: 2, 64: -2, 77: -1, 86: 1, 166: 3, 181: -4, 183: 3, 207: 2, 298: -2, 303: -1, 311: -1,
    339: 1, 347: 1, 351: 2, 403: -2, 432: -2, 439: -1, 454: 2, 458: 1, 485: -3, 496: 1, 505: -1, 506: 1,
    515: 2, 558: 4, 576: 2, 587: -1, 589: -2, 597: -1, 621: 3, 628: 1, 644: 3, 658: 1, 745: 1, 763: -2,
    778: -2, 783: -1, 799: -2, 814: -5, 821: -2, 840: 3, 881: -3, 930: -2, 934: -1, 974: 4, 976: 2,
    1009: -3, 1034: -3, 1038: -2, 1127: 1, 1147: 1, 1148: -8, 1159: -1, 1202: -3, 1206: -5, 1216: -2,
    1260: 1, 1274: 2, 1278: -1, 1281: 2, 1303: -3, 1317: 4, 1323: 1, 1330: -2, 1375: 4, 1405: 2, 1429:
    -2, 1448: -1, 1486: -1, 1541: -3, 1549: 1, 1682: 1, 1709: 1, 1763: -1, 1776: -1, 1830: -1, 1848: -1,
    1853: -2, 1862: -2, 1907: -3, 1919: -2,
}
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class Forged:
    """A forged total: its residues, the members that it claims, and what comes out if nothing is checked.

    `opened` is int64[used]; None if the slots are no whole numbers, or depend on the secret key.
    """

    residues: Residues
    proofs: Mapping[str, bytes]
    opened: NDArray[np.int64] | None


class Attack:
    """The attacker's means against one target."""

    def __init__(self, targets: Targets, target: Target, *, seed: int = 1) -> None:
        self.targets, self.target = targets, target
        self.plan = plan = targets.plan
        self.ring = ResidueRing(plan.parameters, plan.scale)
        self.used, self.slots = plan.layout.used, plan.parameters.slots
        self.rng = np.random.default_rng(seed)
        self._guards = Guards(plan)
        self._home_key = target.rogue_credential.home_key

    def block(self, kind: str, intervals: slice = slice(None)) -> NDArray[np.int64]:
        """The slots of a block."""
        slots: NDArray[np.int64] = np.arange(self.used)[self.plan.layout.block(NAME, kind)][intervals]
        return slots

    def numbers(self, at: NDArray[np.int64] | int, value: int) -> NDArray[np.int64]:
        """int64[used] with this value in these slots."""
        numbers = np.zeros(self.used, np.int64)
        numbers[at] = value
        return numbers

    # -- polynomials -----------------------------------------------------------------------------

    @cached_property
    def reduced(self) -> Residues:
        """`REDUCED` as a polynomial."""
        coefficients = np.zeros(self.ring.n, np.int64)
        for degree, factor in REDUCED.items():
            coefficients[degree] += factor
            coefficients[self.ring.n - degree] -= factor
        return self.ring.polynomial(coefficients)

    @cached_property
    def mask(self) -> Residues:
        """4096 in all used slots, 0 in the others, as far as whole coefficients allow."""
        return self.ring.rounded(np.where(np.arange(self.slots) < self.used, 4096.0, 0.0))

    @cached_property
    def spike(self) -> Residues:
        """2^20 in one used slot, likewise."""
        return self.ring.rounded(np.where(np.arange(self.slots) == 3, 2.0**20, 0.0))

    # -- numbers ---------------------------------------------------------------------------------

    def adding(
        self, numbers: NDArray[np.int64], *, guards: NDArray[np.int64] | None = None, tags: bool = True
    ) -> Residues:
        """A ciphertext of known numbers int64[used]; with the rogue's home key the tags are mended too."""
        slots = np.zeros(self.slots, np.int64)
        slots[: self.used] = numbers
        if tags:
            none = np.zeros(self.plan.guards, np.int64)
            slots[-TAGS:] = -self._guards.tag_faults(self.targets.window, slots, none, self._home_key)
        if guards is not None:
            slots[self.used :] += guards
        return self.ring.first(self.ring.rounded(slots, self.ring.scale))

    def probe(self, at: NDArray[np.int64] | int, size: float) -> Residues:
        """(0, D), D a polynomial with this size in these slots: it adds D times the secret key."""
        slots = np.zeros(self.slots)
        slots[at] = size
        return self.ring.second(self.ring.rounded(slots, self.ring.scale))

    # -- totals ----------------------------------------------------------------------------------

    def instead(self, out: Residues, *into: Residues) -> Residues:
        """The target's sum without one ciphertext and with others."""
        return self.ring.sum(self.target.whole, self.ring.minus(out), *into)

    def lying(self, change: NDArray[np.int64]) -> Forged:
        """The total in which the rogue meter's own batch has other numbers; its guards and tags are right."""
        target = self.target
        slots, proof = self._guards.fill(
            self.targets.window,
            target.rogue.used + change,
            guard_key=target.rogue_credential.guard_key,
            home_key=self._home_key,
        )
        batch = self.targets.planes.unpack(self.targets.encryptor.encrypt(slots))
        return Forged(
            residues=self.instead(target.rogue.residues, batch),
            proofs={**target.proofs, target.rogue.meter: proof},
            opened=target.sums + change,
        )

    def claiming(self, residues: Residues, opened: NDArray[np.int64] | None = None) -> Forged:
        """A total that claims the target's members."""
        return Forged(residues=residues, proofs=self.target.proofs, opened=opened)
