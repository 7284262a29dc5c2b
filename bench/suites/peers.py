"""gridhe compared with alternatives: the same 1,024 numbers, the same steps, in the same rounds.

The numbers are a batch of 512 readings, each with a presence flag, as a mean needs. A peer that is too slow
is measured on a share of the numbers, and its records' notes state this. Every number of each sum is checked.

`encrypt+serialize` is a meter's work for a batch, `load+add` an aggregator's. gridhe's `encrypt+serialize`
also fills guards and encrypts the envelope. Its `load+add` opens the envelope and checks sizes and residue
ranges. No other peer does that.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from gridhe.bench.measure import side_by_side
from gridhe.bench.peers import (
    desilo,
    gridhe_peer,
    openfhe_peer,
    paillier,
    seal_python,
    tenseal_loop,
    unencrypted,
)
from gridhe.bench.peers.protocol import READINGS, SLOTS, Peer, PeerAbsent, make_numbers
from gridhe.bench.recorder import Setup

__all__ = ["ABOUT", "NAME", "run"]

NAME = "peers"
ABOUT = (
    "gridhe beside TenSEAL, SEAL, DESILO, OpenFHE, Paillier and no encryption: "
    "512 readings, each with a presence flag: 1,024 numbers"
)

_PEERS: tuple[tuple[str, Callable[[int], Peer]], ...] = (
    (gridhe_peer.NAME, gridhe_peer.make),
    (tenseal_loop.NAME, tenseal_loop.make),
    (seal_python.NAME, seal_python.make),
    (desilo.NAME, desilo.make),
    (openfhe_peer.NAME, openfhe_peer.make),
    (paillier.NAME, paillier.make),
    (paillier.PACKED_NAME, paillier.make_packed),
    (unencrypted.NAME, unencrypted.make),
)


def run(setup: Setup) -> None:
    """Measure every peer that runs here; record why the others do not."""
    setup.progress.suite(NAME, 3)
    peers: dict[str, Peer] = {}
    with setup.progress.case("keys"):
        for name, make in _PEERS:
            try:
                peers[name] = make(setup.seed)
            except PeerAbsent as error:
                setup.recorder.add(NAME, name, "absent", 1.0, "note", better="neither", note=str(error)[:300])
                setup.progress.say(str(error))
    numbers = make_numbers(setup.seed)
    budget_s = 12.0 if setup.quick else 25.0
    with setup.progress.case("encrypt+serialize, load+add"):
        _measure(setup, peers, numbers, budget_s)
    with setup.progress.case("decrypt"):
        _decrypt(setup, peers, numbers, budget_s / 3)


def _share(peer: Peer, numbers: np.ndarray) -> np.ndarray:
    return numbers[: SLOTS // peer.share]


def _measure(setup: Setup, peers: dict[str, Peer], numbers: np.ndarray, budget_s: float) -> None:
    sealed = {name: peer.serialize(peer.encrypt(_share(peer, numbers))) for name, peer in peers.items()}
    totals = {name: peer.add(None, sealed[name]) for name, peer in peers.items()}

    def seal(name: str) -> Callable[[], object]:
        peer, share = peers[name], _share(peers[name], numbers)
        return lambda: peer.serialize(peer.encrypt(share))

    def add(name: str) -> Callable[[], object]:
        def one() -> None:
            totals[name] = peers[name].add(totals[name], sealed[name])

        return one

    for what, make in (("encrypt+serialize", seal), ("load+add", add)):
        samples = side_by_side({name: make(name) for name in peers}, budget_s=budget_s, seed=setup.seed)
        for name, peer in peers.items():
            times = [seconds * 1e6 * peer.share for seconds in samples[name].seconds]
            setup.recorder.add(NAME, name, what, times, "us/batch", note=_scaled(peer))
        for name, peer in peers.items():
            if name == gridhe_peer.NAME:
                continue
            share = peer.share
            ratios = [ratio * share for ratio in samples[name].ratio(samples[gridhe_peer.NAME])]
            note = _scaled(peer)
            setup.recorder.add(NAME, name, f"{what} / gridhe", ratios, "x", better="neither", note=note)
    for name, peer in peers.items():
        size = len(sealed[name]) * peer.share
        setup.recorder.add(NAME, name, "size", size / SLOTS, "B/number", note=_scaled(peer))
        setup.recorder.add(NAME, name, "size per reading", size / READINGS, "B/reading", note=_scaled(peer))


def _decrypt(setup: Setup, peers: dict[str, Peer], numbers: np.ndarray, budget_s: float) -> None:
    totals = {}
    for name, peer in peers.items():
        share = _share(peer, numbers)
        data = peer.serialize(peer.encrypt(share))
        totals[name] = peer.add(peer.add(None, data), data)
        sums = peer.decrypt(totals[name])
        if not np.array_equal(sums, 2 * share):
            raise RuntimeError(f"{name} returned wrong sums for {len(share)} numbers")
    samples = side_by_side(
        {name: partial(peer.decrypt, totals[name]) for name, peer in peers.items()},
        budget_s=budget_s,
        seed=setup.seed,
    )
    for name, peer in peers.items():
        times = [seconds * 1e6 * peer.share for seconds in samples[name].seconds]
        setup.recorder.add(NAME, name, "decrypt", times, "us/batch", note=_scaled(peer))


def _scaled(peer: Peer) -> str:
    return "" if peer.share == 1 else f"measured on {SLOTS // peer.share} numbers, times {peer.share}"
