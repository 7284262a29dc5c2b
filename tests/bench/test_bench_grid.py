"""The grid that is measured is a real one: what it sends is accepted, folded and decrypts to the sums."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gridhe.aggregator.accumulator import Accumulator
from gridhe.bench.grid import POOL, RINGS, BenchGrid
from gridhe.bench.peers import (
    desilo,
    gridhe_peer,
    openfhe_peer,
    paillier,
    seal_python,
    tenseal_loop,
    unencrypted,
)
from gridhe.bench.peers.protocol import SLOTS, Peer, PeerAbsent
from gridhe.bench.replay import replay
from gridhe.broker.envelope import open_envelope
from gridhe.keyring.decrypt import Decryptor


@pytest.mark.parametrize("kilobytes", RINGS)
def test_a_parcel_is_the_envelope_that_a_meter_would_seal(kilobytes: int) -> None:
    grid = BenchGrid(RINGS[kilobytes], groups=3, meters=40, seed=1)
    for number, parcel in zip(range(30, 34), grid.parcels(range(30, 34)), strict=True):
        assert parcel.payload == grid.envelope(number)
        open_envelope(parcel.payload, len(parcel.payload)).check_tag(grid.ingest_key(number))


def test_the_pools_ciphertexts_sum_to_the_readings_of_their_meters() -> None:
    grid = BenchGrid(RINGS[96], groups=1, meters=POOL, seed=3)
    total = Accumulator(grid.planes)
    for number in range(POOL):
        total.fold(grid.planes.views(grid.ciphertext(number)))
    secret = grid.context.serialize(save_secret_key=True)
    expected = sum(grid.plan.layout.encode({"import_wh": grid.readings(i)}) for i in range(POOL))
    assert np.array_equal(Decryptor(grid.plan, secret, bytes(32)).decrypt(total.pack()), expected)


def test_a_replay_folds_every_meter_once(tmp_path: Path) -> None:
    found = replay(tmp_path / "state", 24, 3_000, 10, 1)
    assert found["preset"] == "2048-24k"
    assert len(found["batch_us"]) == 2
    assert found["disk_mb"] > 0


@pytest.mark.parametrize(
    "make",
    [
        gridhe_peer.make,
        tenseal_loop.make,
        seal_python.make,
        desilo.make,
        openfhe_peer.make,
        paillier.make,
        paillier.make_packed,
        unencrypted.make,
    ],
)
def test_a_peer_gives_the_sums_of_what_it_encrypted(make: Callable[[int], Peer]) -> None:
    try:
        peer = make(1)
    except PeerAbsent as error:
        pytest.skip(str(error))
    numbers = np.random.default_rng(1).integers(0, 501, (3, SLOTS // peer.share))
    total = None
    for batch in numbers:
        total = peer.add(total, peer.serialize(peer.encrypt(batch)))
    sums = peer.decrypt(total)
    assert len(sums) >= 16
    assert np.array_equal(sums, numbers.sum(axis=0)[: len(sums)])
