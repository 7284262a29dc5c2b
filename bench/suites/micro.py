"""Each step of a batch alone, side by side with what it is compared with.

    sample, encode, fill guards, encrypt, seal     at the meter
    parse, open (decrypt), check range, fold       at the aggregator, per batch
    commit, receipt                                at the aggregator, per commit and per meter
    decode, checks, release                        at the authority, per total
    guards of a member, lists                      at the authority, per member and per list

In the same rounds: TenSEAL's encrypt + serialize and load + add of the same readings, and a bare numpy
addition over the same bytes, which is as fast as memory gets.
"""

import os
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from gridhe.aggregator.engine import Engine
from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.aggregator.state.database import Database
from gridhe.bench.grid import FIRST_WINDOW, POOL, RINGS, BenchGrid
from gridhe.bench.measure import side_by_side
from gridhe.bench.peers.protocol import PeerAbsent
from gridhe.bench.peers.seal_python import SealPeer
from gridhe.bench.peers.seal_python import make as make_seal
from gridhe.bench.recorder import Setup
from gridhe.config.settings import AggregatorSettings
from gridhe.keyring.release.decrypt import Decryptor
from gridhe.meter_agent.sources.synthetic import SyntheticSource
from gridhe.plan.guards import home_key
from gridhe.wire import topics
from gridhe.wire.envelope import OVERHEAD_BYTES, open_envelope
from gridhe.wire.receipt import Receipt
from gridhe.wire.total import MemberList, Piece, TotalHeader, bitmap_of, positions_of

__all__ = ["ABOUT", "NAME", "SLOW_FOLD", "measure_aggregator", "run"]

NAME = "micro"
ABOUT = "each step of a batch alone: sample ... seal, open ... fold, commit, receipt, release"

# A test of `compare` makes the fold this many times slower; only this suite reads the variable.
SLOW_FOLD = "GRIDHE_BENCH_SLOW_FOLD"
_SEAL_ENCRYPT, _SEAL_ADD = "seal-python encrypt+serialize", "seal-python load+add"
_COMMIT_GROUPS = (1, 10, 100)
_LISTED = 1_000  # members


def run(setup: Setup) -> None:
    """Measure all rings, the default one in full."""
    kilobytes = (96,) if setup.quick else (24, 64, 96, 288)
    setup.progress.suite(NAME, 2 * len(kilobytes) + 3)
    for size in kilobytes:
        grid = BenchGrid(RINGS[size], groups=4, meters=256, seed=setup.seed)
        budget_s = (4.0 if setup.quick else 12.0) if size == 96 else 6.0
        with setup.progress.case(f"meter, {grid.preset}"):
            _meter_steps(setup, grid, budget_s)
        with setup.progress.case(f"aggregator, {grid.preset}"):
            measure_aggregator(setup, grid, budget_s)
    with setup.progress.case("sample"):
        _sample(setup)
    with setup.progress.case("commit"):
        _commit(setup)
    with setup.progress.case("release"):
        _release(setup)


def _meter_steps(setup: Setup, grid: BenchGrid, budget_s: float) -> None:
    sealer, layout, scale = grid.sealer(0), grid.plan.layout, grid.plan.scale
    readings = {"import_wh": grid.readings(0)}
    numbers, _ = grid.filled(0)
    slots = numbers.astype(np.float64).tolist()
    seal = _seal_python()
    windows = count(FIRST_WINDOW)  # a meter computes the tags' coefficients anew in each window
    rival = {} if seal is None else {_SEAL_ENCRYPT: lambda: seal.serialize(seal.encrypt(numbers))}
    samples = side_by_side(
        {
            "encode": lambda: layout.encode(readings),
            "fill guards": lambda: grid.filled(0, next(windows)),
            "encrypt": lambda: grid.encryptor.encrypt(numbers),
            "seal": lambda: sealer.seal(FIRST_WINDOW, readings),
            "tenseal encrypt+serialize": lambda: ts.ckks_vector(grid.context, slots, scale).serialize(),
            **(rival if grid.plan.parameters == RINGS[96] else {}),
        },
        budget_s=budget_s,
        seed=setup.seed,
    )
    others = [name for name in ("tenseal encrypt+serialize", _SEAL_ENCRYPT) if name in samples]
    setup.recorder.add_times(
        NAME, "", samples, preset=grid.preset, ratios=[("seal", other) for other in others]
    )


def measure_aggregator(setup: Setup, grid: BenchGrid, budget_s: float) -> None:
    """The aggregator's steps for a batch, compared with TenSEAL and numpy."""
    payloads = [grid.envelope(i) for i in range(POOL)]
    limit = OVERHEAD_BYTES + grid.planes.size
    envelopes = [open_envelope(payload, limit) for payload in payloads]
    keys, receipt_keys = ([key(i) for i in range(POOL)] for key in (grid.envelope_key, grid.ingest_key))
    opened = [envelope.open(key) for envelope, key in zip(envelopes, keys, strict=True)]
    views = [grid.planes.views(ciphertext) for ciphertext in opened]
    words = [np.frombuffer(ciphertext, np.uint64) for ciphertext in opened]
    total, bare = Accumulator(grid.planes), np.zeros_like(words[0])
    sealed = [_tenseal_bytes(grid, i) for i in range(POOL)]
    summed: list[Any] = [ts.ckks_vector_from(grid.context, sealed[0])]

    def load_and_add(i: int) -> None:
        summed[0] += ts.ckks_vector_from(grid.context, sealed[i])

    seal = _seal_python() if grid.plan.parameters == RINGS[96] else None
    rival: dict[str, Callable[[], object]] = {}
    if seal is not None:
        data = [seal.serialize(seal.encrypt(grid.readings(i))) for i in range(POOL)]
        running = seal.add(None, data[0])
        rival[_SEAL_ADD] = _each(lambda i: seal.add(running, data[i]))

    def open_and_check(i: int) -> None:
        ciphertext = open_envelope(payloads[i], limit).open(keys[i])
        grid.planes.check(grid.planes.views(ciphertext))

    def open_check_fold(i: int) -> None:
        open_and_check(i)
        total.fold(views[i])

    samples = side_by_side(
        {
            "parse": _each(lambda i: open_envelope(payloads[i], limit)),
            "open": _each(lambda i: envelopes[i].open(keys[i])),
            "check range": _each(lambda i: grid.planes.check(views[i])),
            "open+check": _each(open_and_check),
            "fold": _each(_slowed(lambda i: total.fold(views[i]))),
            "open+check+fold": _each(open_check_fold),
            "tenseal load+add": _each(load_and_add),
            **rival,
            "numpy add": _each(lambda i: np.add(bare, words[i], out=bare)),
            "receipt": _each(
                lambda i: Receipt(
                    plan=grid.plan.plan_id, meter=grid.meter(i), committed=(FIRST_WINDOW,)
                ).encode(receipt_keys[i])
            ),
        },
        budget_s=budget_s,
        seed=setup.seed,
    )
    setup.recorder.add_times(
        NAME,
        "",
        samples,
        preset=grid.preset,
        ratios=[
            ("fold", "tenseal load+add"),
            ("fold", "numpy add"),
            *(("fold", name) for name in rival),
            ("open+check+fold", "tenseal load+add"),
        ],
    )
    setup.recorder.add(NAME, "envelope", "size", len(payloads[0]), "B", preset=grid.preset)
    setup.recorder.add(
        NAME,
        "tenseal ciphertext",
        "size",
        [len(one) for one in sealed],
        "B",
        preset=grid.preset,
        better="neither",
    )


def _seal_python() -> SealPeer | None:
    """SEAL without TenSEAL, on the ring of 96 KB, if it is installed."""
    try:
        return make_seal(1)
    except PeerAbsent:
        return None


def _tenseal_bytes(grid: BenchGrid, number: int) -> bytes:
    slots, _ = grid.filled(number)
    sealed: bytes = ts.ckks_vector(
        grid.context, slots.astype(np.float64).tolist(), grid.plan.scale
    ).serialize()
    return sealed


def _each(call: Callable[[int], object]) -> Callable[[], object]:
    """Calls with 0, 1, ... POOL - 1, 0 ...: the bytes of another batch each time, as from a network."""
    at = 0

    def one() -> None:
        nonlocal at
        at = (at + 1) % POOL
        call(at)

    return one


def _slowed(fold: Callable[[int], object]) -> Callable[[int], object]:
    factor = float(os.environ.get(SLOW_FOLD, "1"))
    if factor <= 1:
        return fold

    def slow(i: int) -> None:
        started = time.perf_counter()
        fold(i)
        until = started + factor * (time.perf_counter() - started)
        while time.perf_counter() < until:
            pass

    return slow


def _sample(setup: Setup) -> None:
    """A window's readings from the synthetic source."""
    plan = BenchGrid(RINGS[96], groups=1, meters=2, seed=setup.seed).plan
    source = SyntheticSource(plan, seed=setup.seed)
    samples = side_by_side(
        {"sample": lambda: source.window("m0", FIRST_WINDOW)}, budget_s=0.5, seed=setup.seed
    )
    setup.recorder.add_times(NAME, "", samples)


def _commit(setup: Setup) -> None:
    """A durable commit of several changed totals (close, pack, write, fsync), with its receipts."""
    repeats = 4 if setup.quick else 12
    for groups in _COMMIT_GROUPS:
        grid = BenchGrid(RINGS[96], groups=groups, meters=groups * (repeats + 1), seed=setup.seed)
        database = Database(setup.subfolder("commit"), authority=grid.credential.authority, aggregator="main")
        try:
            engine = Engine(database=database, credential=grid.credential, settings=AggregatorSettings())
            engine.take_bundle(grid.signed_bundle())
            engine.take_roster(grid.roster(), grid.now)
            seconds = []
            for turn in range(repeats + 1):
                for parcel in grid.parcels(range(turn * groups, (turn + 1) * groups)):
                    engine.receive(parcel.topic, parcel.payload, grid.now)
                started = time.perf_counter()
                outgoing = engine.commit(grid.now)
                if turn:  # the first commit also allocates the database's pages
                    seconds.append(time.perf_counter() - started)
                if sum(one.topic.startswith(topics.receipt("")) for one in outgoing) != groups:
                    raise RuntimeError("a commit sent no receipt for a folded batch")
            setup.recorder.add(
                NAME, f"commit {groups} totals", "time", [s * 1e3 for s in seconds], "ms", preset=grid.preset
            )
        finally:
            database.close()


def _release(setup: Setup) -> None:
    """A total at the authority: reading its list, its members' guards, decoding, checks, flooding."""
    grid = BenchGrid(RINGS[96], groups=1, meters=100, seed=setup.seed, flooding_bits=40)
    guards = grid.encryptor.guards
    decryptor = Decryptor(grid.plan, grid.key.secret_context, os.urandom(32), home_key(grid.guard_secret))
    total = Accumulator(grid.planes)
    for i in range(POOL):
        total.fold(grid.planes.views(grid.ciphertext(i)))
    ciphertext, members = total.pack(), [grid.member(i) for i in range(POOL)]
    expected = sum(grid.plan.layout.encode({"import_wh": grid.readings(i)}) for i in range(POOL))
    sums, slots = guards.sums(FIRST_WINDOW, members), decryptor.decode(ciphertext)

    def release() -> NDArray[np.int64]:
        return decryptor.open(ciphertext, window=FIRST_WINDOW, sums=sums)

    if not np.array_equal(release(), expected):
        raise RuntimeError("the released total is not the sum of the readings")
    samples = side_by_side(
        {
            "decode": lambda: decryptor.decode(ciphertext),
            "checks": lambda: decryptor.check(slots, window=FIRST_WINDOW, sums=sums),
            "release": release,
        },
        budget_s=2.0,
        seed=setup.seed,
    )
    setup.recorder.add_times(NAME, "", samples, preset=grid.preset, unit="ms")
    header = _header(grid)
    encoded = header.encode()
    lists = side_by_side(
        {
            "guards of a member": _each(lambda i: guards.prove(FIRST_WINDOW, members[i][1], members[i][0])),
            f"write a list of {_LISTED} members": header.encode,
            f"read a list of {_LISTED} members": lambda: _listed(encoded),
        },
        budget_s=1.0,
        seed=setup.seed,
    )
    setup.recorder.add_times(NAME, "", lists, preset=grid.preset)
    setup.recorder.add(NAME, f"header with {_LISTED} members", "size", len(encoded), "B", preset=grid.preset)


def _header(grid: BenchGrid) -> TotalHeader:
    """The header of a leaf total with a member list."""
    proofs = b"".join(grid.member(i % POOL)[1] for i in range(_LISTED))
    members = MemberList(bitmap_of(range(_LISTED)), proofs)
    return TotalHeader(
        plan=grid.plan.plan_id,
        key=grid.plan.key_id,
        aggregator=grid.aggregator,
        group=grid.group(0),
        window=FIRST_WINDOW,
        part=0,
        meters=_LISTED,
        roster=1,
        pieces=(Piece(grid.group(0), 0, _LISTED, members),),
    )


def _listed(encoded: bytes) -> list[int]:
    """The positions in a header with one list."""
    (piece,) = TotalHeader.decode(encoded).pieces
    if piece.members is None:
        raise RuntimeError("the header brings no list")
    return positions_of(piece.members.bitmap)
