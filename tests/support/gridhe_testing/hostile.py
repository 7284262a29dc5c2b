"""Hostile envelopes against the real engine: junk, mutations, and enrolled senders with false content.

    make hostile      # a million; HOSTILE="--count 1000 --seed 7" gives other flags

prints one JSON object with what was sent, what was counted under which reason, whether the neighbours' totals
are exact, and how memory grew. tests/security/test_hostile.py runs a part of it.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gridhe.wire import topics
from gridhe.wire.codec import pack
from gridhe.wire.envelope import envelope_key
from gridhe.wire.ingest import derive_key
from gridhe.wire.total import Total
from gridhe_testing.grid import FIRST_WINDOW, Grid

ROGUE = "rogue"


class Attacker:
    """Has a meter's credential (`rogue`) and a copy of every neighbour's envelope."""

    def __init__(self, grid: Grid, seed: int) -> None:
        self.grid, self.rng = grid, random.Random(seed)
        self.overheard = {meter: grid.envelope(meter) for meter in grid.meters if meter != ROGUE}
        self.key = envelope_key(derive_key(grid.secret, ROGUE))
        self.own = grid.envelope(ROGUE)
        self.sound = grid.ciphertext(ROGUE)
        self.largest = len(self.own)
        self.cut = 0
        self.kinds: list[Callable[[], tuple[str, bytes]]] = [
            self.flipped,
            self.truncated,
            self.random_bytes,
            self.oversized,
            self.bomb,
            self.spliced,
            self.wrong_ring,
            self.residue_too_large,
            self.transparent,
            self.resized_lengths,
            self.version_1,
            self.other_header,
            self.other_proof,
        ]

    def __call__(self) -> tuple[str, bytes]:
        return self.rng.choice(self.kinds)()

    def _topic(self, meter: str) -> str:
        return topics.batch(self.grid.group_of(meter), meter)

    def _victim(self) -> tuple[str, bytes]:
        meter = self.rng.choice(list(self.overheard))
        return self._topic(meter), self.overheard[meter]

    # without any key

    def flipped(self) -> tuple[str, bytes]:
        """A neighbour's envelope with one to four bytes changed."""
        topic, payload = self._victim()
        data = bytearray(payload)
        for _ in range(self.rng.randint(1, 4)):
            # Half of them in the header, where structure is.
            at = self.rng.randrange(200) if self.rng.random() < 0.5 else self.rng.randrange(len(data))
            data[at] ^= self.rng.randint(1, 255)
        return topic, bytes(data) if data != payload else payload[:-1]

    def truncated(self) -> tuple[str, bytes]:
        """Every length in turn."""
        topic, payload = self._victim()
        self.cut = (self.cut + 1) % len(payload)
        return topic, payload[: self.cut]

    def random_bytes(self) -> tuple[str, bytes]:
        topic, _ = self._victim()
        return topic, self.rng.choice(
            (b"", b"\x92", b"\x92\xc4", b"\x92\xc6\xff\xff\xff\xff", b"\x93\xc4")
        ) + (self.rng.randbytes(self.rng.choice((0, 1, 7, 300, 4_000))))

    def oversized(self) -> tuple[str, bytes]:
        """One byte too many for the plan; or right in size, with a byte too many inside."""
        topic, payload = self._victim()
        return topic, payload + b"\0" if self.rng.random() < 0.5 else bytes(self.grid_maximum() + 1)

    def grid_maximum(self) -> int:
        return self.grid.engine._admission._max_bytes

    def bomb(self) -> tuple[str, bytes]:
        """msgpack that would unpack into far more than it is: nested, or claiming 2^32 elements."""
        topic, _ = self._victim()
        inner = self.rng.choice(
            (
                b"\x91" * 700,  # arrays in arrays
                b"\xdf\xff\xff\xff\xff",  # a map of 2^32 - 1 pairs
                b"\xdd\xff\xff\xff\xff" + b"\xc0" * 600,  # an array of as many
                b"\xc9\xff\xff\xff\xff\x01",  # an extension of as many bytes
                b"\xdc\x02\x00" + b"\x90" * 512,  # many empty arrays
                b"\x86" + b"\x81" * 600,  # maps as keys
                msgpack.packb(dict.fromkeys(range(250))),
            )
        )
        if self.rng.random() < 0.5:
            return topic, inner
        return self._topic(ROGUE), pack([inner, bytes(12) + AESGCM(self.key).encrypt(bytes(12), b"", inner)])

    def spliced(self) -> tuple[str, bytes]:
        """One neighbour's header, another's ciphertext, and the nonce and tag of one of them."""
        (topic, first), (_, second) = self._victim(), self._victim()
        head, own = msgpack.unpackb(first)
        _, sealed = msgpack.unpackb(second)
        if first is second:
            sealed = sealed[:20] + sealed[21:] + sealed[20:21]
        nonce, mark = (self.rng.choice((own, sealed)) for _ in range(2))
        return topic, pack([head, nonce[:12] + sealed[12:-16] + mark[-16:]])

    def version_1(self) -> tuple[str, bytes]:
        """A header of version 1 in three parts, as old software sends it, or in two."""
        topic, payload = self._victim()
        head, sealed = msgpack.unpackb(payload)
        record = {name: value for name, value in msgpack.unpackb(head).items() if name != "proof"}
        old = pack({**record, "v": 1})
        return topic, pack([old, sealed[:-32], sealed[-32:]] if self.rng.random() < 0.5 else [old, sealed])

    def resized_lengths(self) -> tuple[str, bytes]:
        """Lengths inside that disagree with what follows."""
        topic, payload = self._victim()
        data = bytearray(payload)
        at = data.index(b"\xc5") if b"\xc5" in data[:300] else 2
        data[at + 1] ^= self.rng.randint(1, 255)
        return topic, bytes(data)

    # with the rogue's own key: authentic, with false content

    def _forged(self, ciphertext: bytes, **changes: object) -> tuple[str, bytes]:
        return self._topic(ROGUE), self.grid.forged(ROGUE, ciphertext=ciphertext, **changes)

    def wrong_ring(self) -> tuple[str, bytes]:
        size = self.rng.choice((0, 1, len(self.sound) - 1, len(self.sound) // 2, len(self.sound) - 2_048))
        return self._forged(self.sound[:size])

    def residue_too_large(self) -> tuple[str, bytes]:
        planes, prime = self.grid.planes, self.grid.plan.parameters.primes[0]
        residues = planes.unpack(self.sound)
        where = self.rng.randrange(2), 0, self.rng.randrange(planes.shape[2])
        residues[where] = self.rng.choice((prime, prime + 1, (1 << 40) - 1 if prime < 1 << 40 else 2**48 - 1))
        return self._forged(planes.pack(residues))

    def transparent(self) -> tuple[str, bytes]:
        """An all-zero second component: a plaintext in the format of a ciphertext."""
        residues = self.grid.planes.unpack(self.sound)
        residues[1] = 0
        if self.rng.random() < 0.3:
            residues[0] = 0
        return self._forged(self.grid.planes.pack(residues))

    def other_header(self) -> tuple[str, bytes]:
        kinds: tuple[dict[str, object], ...] = (
            {"plan": "p" + f"{self.rng.getrandbits(64):016x}"},
            {"key": "k" + f"{self.rng.getrandbits(64):016x}"},
            {"window": self.rng.choice((0, FIRST_WINDOW - 1, FIRST_WINDOW + 1, 2**48 - 1))},
        )
        changes = self.rng.choice(kinds)
        return self._forged(self.sound, **changes)

    def other_proof(self) -> tuple[str, bytes]:
        """A proof that is shorter or longer than the plan's."""
        size = self.grid.plan.proof_bytes
        sizes = [one for one in (9, size - 1, size + 1, 200, 1_032) if one != size and one >= 9]
        return self._forged(self.sound, proof=self.rng.randbytes(self.rng.choice(sizes)))


def small_grid(directory: Path) -> Grid:
    groups = {"north/f1": ["a0", "a1", "a2", ROGUE], "north/f2": ["b0", "b1", "b2"]}
    return Grid(
        directory,
        groups=groups,
        ring=(2048, (40, 14)),
        largest=20,
        largest_group=10,
        largest_rollup=10,
        minimum_meters=2,
    )


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def attack(
    grid: Grid, count: int, seed: int, *, tell: Callable[[int], None] = lambda sent: None
) -> dict[str, object]:
    """Send `count` hostile envelopes between the neighbours' own; return the result."""
    attacker = Attacker(grid, seed)
    neighbours = [meter for meter in grid.meters if meter != ROGUE]
    arrivals: dict[int, str] = {
        (place + 1) * count // (len(neighbours) + 1): meter for place, meter in enumerate(neighbours)
    }
    started = time.perf_counter()
    settled_mb = maximum_mb = 0.0
    receipts: Counter[str] = Counter()
    totals: dict[tuple[str, int, int], Total] = {}
    for sent in range(count):
        if sent in arrivals:
            grid.deliver(arrivals[sent], attacker.overheard[arrivals[sent]])
        topic, payload = attacker()
        grid.engine.receive(topic, payload, grid.now)
        if sent % 1_000 == 999:
            outgoing = grid.answered(grid.engine.commit(grid.now))
            totals |= grid.totals(outgoing)
            for meter, receipt in grid.receipts(outgoing).items():
                receipts[f"{meter}: {len(receipt.committed)} committed"] += bool(receipt.committed)
            now_mb = resident_mb()
            maximum_mb = max(maximum_mb, now_mb)
            if sent + 1 >= count // 10 and not settled_mb:
                settled_mb = now_mb
            tell(sent + 1)
    seconds = time.perf_counter() - started
    # The rogue never sent a valid one, so its group closes late; a wider group may then close in two parts.
    for late in range(10_000, 60_000, 10_000):
        totals |= grid.totals(grid.answered(grid.engine.commit(grid.now + late), grid.now + late))
    counters = grid.engine.counters
    sums: dict[str, np.ndarray] = {}
    for (group, _, _), total in totals.items():
        sums[group] = sums.get(group, 0) + grid.decrypted(total)
    exact = all(
        np.array_equal(
            found,
            grid.expected([m for m in neighbours if group == "grid" or grid.group_of(m).startswith(group)]),
        )
        for group, found in sums.items()
    )
    return {
        "sent": count,
        "folded": counters.folded,
        "duplicates": counters.duplicates,
        "rejected": dict(sorted(counters.rejected.items())),
        "rejected_total": sum(counters.rejected.values()),
        "totals": sorted(f"{group} {window} {part}" for group, window, part in totals),
        "exact": exact and len(sums) == 4,
        "seconds": round(seconds, 1),
        "per_second": round(count / seconds),
        "settled_mb": round(settled_mb, 1),
        "most_mb": round(maximum_mb, 1),
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    def tell(sent: int) -> None:
        if sent % 50_000 == 0:
            print(f"{sent} sent, {resident_mb():.0f} MB", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        grid = small_grid(Path(scratch) / "state")
        print(json.dumps(attack(grid, options.count, options.seed, tell=tell)))
        grid.stop()


if __name__ == "__main__":
    main()
