"""The grid that is measured is a real one: what it sends is accepted, folded and decrypts to the sums."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.bench.grid import FIRST_WINDOW, POOL, RINGS, BenchGrid
from gridhe.bench.peers import (
    desilo,
    gridhe_peer,
    openfhe_peer,
    paillier,
    seal_python,
    tenseal_loop,
    unencrypted,
)
from gridhe.bench.peers.protocol import LARGEST, READINGS, SLOTS, Peer, PeerAbsent, make_numbers
from gridhe.bench.replay import replay
from gridhe.keyring.release.decrypt import Decryptor
from gridhe.plan.guards import home_key
from gridhe.wire.envelope import envelope_key, open_envelope


@pytest.mark.parametrize("kilobytes", RINGS)
def test_a_parcel_is_the_envelope_that_a_meter_would_seal(kilobytes: int) -> None:
    grid = BenchGrid(RINGS[kilobytes], groups=3, meters=40, seed=1)
    for number, parcel in zip(range(30, 34), grid.parcels(range(30, 34)), strict=True):
        ours, theirs = (open_envelope(one, len(one)) for one in (grid.envelope(number), parcel.payload))
        assert len(ours.sealed) == len(theirs.sealed)
        assert ours.header_bytes == theirs.header_bytes
        assert ours.header.meter == grid.meter(number)
        key = envelope_key(grid.ingest_key(number))
        assert ours.open(key) == theirs.open(key) == grid.ciphertext(number)
        assert parcel.payload != parcel.payload


def test_parcels_share_the_pools_ciphertexts() -> None:
    grid = BenchGrid(RINGS[96], groups=3, meters=40, seed=1)
    assert len({id(parcel.ciphertext) for parcel in grid.parcels(range(40))}) == POOL


def test_a_total_of_the_pool_passes_the_authoritys_checks_and_is_the_sum_of_the_readings() -> None:
    grid = BenchGrid(RINGS[96], groups=1, meters=POOL, seed=3)
    total = Accumulator(grid.planes)
    for number in range(POOL):
        total.fold(grid.planes.views(grid.ciphertext(number)))
    expected = sum(grid.plan.layout.encode({"import_wh": grid.readings(i)}) for i in range(POOL))
    decryptor = Decryptor(grid.plan, grid.key.secret_context, bytes(32), home_key(grid.guard_secret))
    sums = grid.encryptor.guards.sums(FIRST_WINDOW, [grid.member(number) for number in range(POOL)])
    assert np.array_equal(decryptor.open(total.pack(), window=FIRST_WINDOW, sums=sums), expected)


def test_a_replay_folds_every_meter_once(tmp_path: Path) -> None:
    found = replay(tmp_path / "state", 24, 3_000, 30, 1)
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
    numbers = np.array([make_numbers(seed)[: SLOTS // peer.share] for seed in range(3)])
    total = None
    for batch in numbers:
        total = peer.add(total, peer.serialize(peer.encrypt(batch)))
    sums = peer.decrypt(total)
    assert sums.shape == (SLOTS // peer.share,)
    assert np.array_equal(sums, numbers.sum(axis=0))


def test_only_paillier_measures_a_share_of_the_numbers() -> None:
    shares = {}
    for module in (gridhe_peer, tenseal_loop, seal_python, desilo, openfhe_peer, paillier, unencrypted):
        with contextlib.suppress(PeerAbsent):
            shares[module.NAME] = module.make(1).share
    assert shares.pop("paillier", 64) == 64
    assert set(shares.values()) == {1}


def test_the_numbers_of_a_batch_are_readings_and_whether_each_is_present() -> None:
    numbers = make_numbers(1)
    readings, present = numbers[:READINGS], numbers[READINGS:]
    assert len(numbers) == SLOTS
    assert set(present) == {0, 1}
    assert 0.9 < present.mean() < 1
    assert not readings[present == 0].any()
    assert readings.max() == LARGEST


def test_gridhe_refuses_numbers_that_it_would_not_encrypt_as_they_are() -> None:
    peer = gridhe_peer.make(1)
    numbers = make_numbers(1)
    numbers[READINGS:] = 0  # readings that are there, said to be missing
    with pytest.raises(ValueError, match="not those of a batch"):
        peer.encrypt(numbers)
