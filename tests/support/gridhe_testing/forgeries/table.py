"""The forgeries: who does what, and which of the authority's checks notice it every time.

`CHECKS` are the checks of decrypted slots in the authority's order. A forgery without checks is one that is
accepted and not promised against (docs/proven-totals.md).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gridhe.meter_agent.sealing import Encryptor
from gridhe_testing.forgeries.attack import PRIMES, Attack, Forged
from gridhe_testing.forgeries.targets import Sealed

__all__ = ["CHECKS", "FORGERIES", "Forgery"]

CHECKS = ("off_grid", "guards", "tags", "presence", "range")
_Make = Callable[[Attack], Forged]
_ALL = "off_grid guards tags presence range"


@dataclass(frozen=True, slots=True)
class Forgery:
    """A way to forge a total."""

    name: str
    checks: tuple[str, ...]
    make: _Make


FORGERIES: list[Forgery] = []


def _forgery(name: str, checks: str = "") -> Callable[[_Make], _Make]:
    def add(make: _Make) -> _Make:
        FORGERIES.append(Forgery(name, tuple(checks.split()), make))
        return make

    return add


def _offline(a: Attack, count: int) -> NDArray[np.int64]:
    """`count` more meters with reading 0 during the power cut."""
    return a.numbers(a.block("present", a.targets.cut), count) + a.numbers(
        a.block("bin:0", a.targets.cut), count
    )


# -- batches counted too often, or not at all ----------------------------------------------------


def _multiple(a: Attack, factor: int) -> Forged:
    t = a.target
    fewer = a.numbers(a.block("present"), -factor)
    total = a.ring.sum(t.whole, a.ring.scaled(t.victim.residues, factor), a.adding(fewer))
    return a.claiming(total, t.sums + factor * t.victim.used + fewer)


@_forgery("rogue adds K x the victim, mends present", "guards tags")
def _(a: Attack) -> Forged:
    return _multiple(a, a.target.size)


@_forgery("rogue adds the victim once more", "guards tags")
def _(a: Attack) -> Forged:
    return _multiple(a, 1)


def _alone(a: Attack, guards: NDArray[np.int64] | None = None) -> Forged:
    t = a.target
    more = a.numbers(a.block("present"), t.size - 1) + a.numbers(a.block("bin:0"), t.size - 1)
    total = a.ring.sum(t.victim.residues, a.adding(more, guards=guards))
    return a.claiming(total, t.victim.used + more)


@_forgery("victim alone, present += K - 1", "guards tags")
def _(a: Attack) -> Forged:
    return _alone(a)


@_forgery("victim alone, present += K - 1, with guessed guards", "guards tags")
def _(a: Attack) -> Forged:
    others, half = a.target.size - 1, 2.0 ** (a.plan.guard_bits - 1)
    guessed = a.rng.normal(others * half, half * np.sqrt(others / 3), a.plan.guards)
    return _alone(a, np.rint(guessed).astype(np.int64))


@_forgery("one member swapped for another", "guards tags")
def _(a: Attack) -> Forged:
    t = a.target
    total = a.instead(t.other.residues, t.outsider.residues)
    return a.claiming(total, t.sums - t.other.used + t.outsider.used)


@_forgery("an outsider added", "guards tags")
def _(a: Attack) -> Forged:
    t = a.target
    return a.claiming(a.ring.sum(t.whole, t.outsider.residues), t.sums + t.outsider.used)


@_forgery("a claimed member left out", "guards tags presence")
def _(a: Attack) -> Forged:
    t = a.target
    return a.claiming(a.instead(t.other.residues), t.sums - t.other.used)


@_forgery("one counted twice, another left out", "guards tags")
def _(a: Attack) -> Forged:
    t = a.target
    total = a.instead(t.other.residues, t.third.residues)
    return a.claiming(total, t.sums - t.other.used + t.third.used)


# -- other batches of a member -------------------------------------------------------------------


def _sealed(a: Attack, *, window: int | None = None, encryptor: Encryptor | None = None) -> Sealed:
    """The victim's batch of other readings, of this window or another one, of this plan or another one."""
    readings = a.targets.household(everywhere=True)
    return a.targets.seal(a.target.victim_credential, readings, window=window, encryptor=encryptor)


def _four_times(a: Attack, batch: Sealed) -> Forged:
    """Plus 4 x (the victim's batch - this one): their difference."""
    t = a.target
    difference = a.ring.sum(t.victim.residues, a.ring.minus(batch.residues))
    total = a.ring.sum(t.whole, a.ring.scaled(difference, 4))
    return a.claiming(total, t.sums + 4 * (t.victim.used - batch.used))


def _replaced(a: Attack, batch: Sealed) -> Forged:
    t = a.target
    total = a.instead(t.victim.residues, batch.residues)
    return a.claiming(total, t.sums - t.victim.used + batch.used)


@_forgery("victim's batch of another window", "guards tags")
def _(a: Attack) -> Forged:
    return _replaced(a, _sealed(a, window=a.targets.window - 1))


@_forgery("victim's batch of another window, with its proof", "guards tags")
def _(a: Attack) -> Forged:
    batch = _sealed(a, window=a.targets.window - 1)
    return replace(_replaced(a, batch), proofs={**a.target.proofs, batch.meter: batch.proof})


@_forgery("4 x (this window - another)", "guards tags")
def _(a: Attack) -> Forged:
    return _four_times(a, _sealed(a, window=a.targets.window - 1))


@_forgery("victim's batch of another plan", "guards tags")
def _(a: Attack) -> Forged:
    return _replaced(a, _sealed(a, encryptor=a.targets.other_plan()))


@_forgery("4 x (first sealing - second)", "guards tags")
def _(a: Attack) -> Forged:
    return _four_times(a, _sealed(a))


# -- multipliers ---------------------------------------------------------------------------------


@_forgery("a member times X^5", "off_grid guards tags presence")
def _(a: Attack) -> Forged:
    other = a.target.other.residues
    return a.claiming(a.instead(other, a.ring.times(other, a.ring.monomial(5))))


@_forgery("a member under X -> 1/X", _ALL)
def _(a: Attack) -> Forged:
    other = a.target.other.residues
    return a.claiming(a.instead(other, a.ring.conjugated(other)))


@_forgery("plus the victim times 1/2 modulo Q", _ALL)
def _(a: Attack) -> Forged:
    t = a.target
    return a.claiming(a.ring.sum(t.whole, a.ring.halved(t.victim.residues)))


@_forgery("plus the victim x a rounded mask, 4096 in all data slots", _ALL)
def _(a: Attack) -> Forged:
    t = a.target
    return a.claiming(a.ring.sum(t.whole, a.ring.times(t.victim.residues, a.mask)))


@_forgery("plus the victim x a rounded mask, 2^20 in one slot", _ALL)
def _(a: Attack) -> Forged:
    t = a.target
    return a.claiming(a.ring.sum(t.whole, a.ring.times(t.victim.residues, a.spike)))


@_forgery("plus the others x a rounded mask", _ALL)
def _(a: Attack) -> Forged:
    others = a.instead(a.target.victim.residues)
    return a.claiming(a.ring.sum(a.target.whole, a.ring.times(others, a.mask)))


@_forgery("plus the victim x a lattice-reduced r", _ALL)
def _(a: Attack) -> Forged:
    t = a.target
    return a.claiming(a.ring.sum(t.whole, a.ring.times(t.victim.residues, a.reduced)))


@_forgery("plus the victim x 16 r", _ALL)
def _(a: Attack) -> Forged:
    t = a.target
    product = a.ring.scaled(a.ring.times(t.victim.residues, a.reduced), 16)
    return a.claiming(a.ring.sum(t.whole, product))


@_forgery("plus (victim - another) x r", "off_grid guards tags")
def _(a: Attack) -> Forged:
    t = a.target
    difference = a.ring.sum(t.victim.residues, a.ring.minus(t.other.residues))
    return a.claiming(a.ring.sum(t.whole, a.ring.times(difference, a.reduced)))


# -- no encryption -------------------------------------------------------------------------------


@_forgery("(0, D): D = 1000 in 24 data slots", "off_grid tags")
def _(a: Attack) -> Forged:
    return a.claiming(a.ring.sum(a.target.whole, a.probe(a.block("reading"), 1000)))


@_forgery("(0, D): D = 1/16 in one data slot", "off_grid")
def _(a: Attack) -> Forged:
    # The tags notice too, unless the secret key's value there, over 16, rounds to 0: then nothing comes out.
    return a.claiming(a.ring.sum(a.target.whole, a.probe(3, 1 / 16)))


@_forgery("(0, D): D = 1/16 in one data slot, blinded by 2^40", "off_grid range")
def _(a: Attack) -> Forged:
    blind = a.adding(a.numbers(3, 2**40))
    return a.claiming(a.ring.sum(a.target.whole, a.probe(3, 1 / 16), blind))


@_forgery("(0, D): D = 1 in all guard slots", "off_grid guards tags")
def _(a: Attack) -> Forged:
    total = a.ring.sum(a.target.whole, a.probe(np.arange(a.used, a.slots), 1))
    return a.claiming(total, a.target.sums)  # guard slots are not released


@_forgery("(0, D): D = 2^50 X^7", _ALL)
def _(a: Attack) -> Forged:
    return a.claiming(a.ring.sum(a.target.whole, a.ring.second(a.ring.monomial(7, 2**50))))


@_forgery("random residues", _ALL)
def _(a: Attack) -> Forged:
    return a.claiming(a.ring.random(a.rng))


@_forgery("(0, D) below the error: nothing comes out")
def _(a: Attack) -> Forged:
    probe = a.probe(a.block("reading"), 2.0**-42)
    return a.claiming(a.ring.sum(a.target.whole, probe), a.target.sums)


# -- presence ------------------------------------------------------------------------------------


@_forgery("victim and absent meters, present mended", "presence")
def _(a: Attack) -> Forged:
    more = _offline(a, a.target.size - 1)
    return a.claiming(a.ring.sum(a.target.whole, a.adding(more)), a.target.sums + more)


@_forgery("rogue meter says present = minimum - 1", "presence")
def _(a: Attack) -> Forged:
    return a.lying(_offline(a, a.plan.minimum_meters - 1))


@_forgery("members' sealed presence changed", "guards tags")
def _(a: Attack) -> Forged:
    t = a.target
    changed = list(t.proofs)[1 : a.plan.minimum_meters]
    flip = np.packbits(
        np.isin(np.arange(a.plan.intervals), np.arange(a.plan.intervals)[a.targets.cut])
    ).tobytes()
    proofs = dict(t.proofs)
    for meter in changed:
        proof = proofs[meter]
        sealed = bytes(x ^ y for x, y in zip(proof[-len(flip) :], flip, strict=True))
        proofs[meter] = proof[: -len(flip)] + sealed
    more = _offline(a, len(changed))
    total = a.ring.sum(t.whole, a.adding(more))
    return Forged(residues=total, proofs=proofs, opened=t.sums + more)


# -- batches without guards, under the same key --------------------------------------------------


def _unguarded(a: Attack, factor: int) -> Forged:
    t = a.target
    slots = np.zeros(a.slots, np.int64)
    slots[: a.used] = t.victim.used
    bare = a.targets.planes.unpack(a.targets.encryptor.encrypt(slots))
    fewer = a.numbers(a.block("present"), -factor)
    total = a.ring.sum(t.whole, a.ring.scaled(bare, factor), a.adding(fewer))
    return a.claiming(total, t.sums + factor * t.victim.used + fewer)


@_forgery("plus 2 x the victim's batch without guards", "tags")
def _(a: Attack) -> Forged:
    return _unguarded(a, 2)


@_forgery("plus p p' x the victim's batch without guards", "off_grid range")
def _(a: Attack) -> Forged:
    return replace(_unguarded(a, PRIMES), opened=None)  # it wraps around


# -- known numbers -------------------------------------------------------------------------------


@_forgery("aggregator adds 1 to one reading", "tags")
def _(a: Attack) -> Forged:
    more = a.numbers(3, 1)
    return a.claiming(a.ring.sum(a.target.whole, a.adding(more, tags=False)), a.target.sums + more)


@_forgery("aggregator adds 1000 to all readings", "tags")
def _(a: Attack) -> Forged:
    more = a.numbers(a.block("reading"), 1000)
    return a.claiming(a.ring.sum(a.target.whole, a.adding(more, tags=False)), a.target.sums + more)


@_forgery("rogue's reading K x the largest too high", "range")
def _(a: Attack) -> Forged:
    return a.lying(a.numbers(3, a.target.size * a.plan.quantities[0].largest))


@_forgery("rogue adds 1000 to all readings of the sum: a lie about the sum")
def _(a: Attack) -> Forged:
    more = a.numbers(a.block("reading"), 1000)
    return a.claiming(a.ring.sum(a.target.whole, a.adding(more)), a.target.sums + more)
