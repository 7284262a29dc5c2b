"""Every decoder on its seeds and on mutations of them: the quick form of `make fuzz`, and repeatable.

What the fuzzer found stands here as `test_repro_...`.
"""

import random
from contextlib import closing
from pathlib import Path

import msgpack
import pytest

from gridhe.aggregator.state.database import Database
from gridhe.aggregator.state.members import Members
from gridhe.errors import StateError
from gridhe_testing.decoders import Decoder, decoders

NAMES = list(decoders(Path()))
MUTATIONS = {
    "state": 1_000,
    "credential": 1_000,
    "modbus": 3_000,
    "sml": 2_000,
    "d0": 2_000,
    "tic": 2_000,
    "p1": 1_000,
    "han": 2_000,
}
_VALUES = (
    b"\0",
    b"\xff",
    b"\x80",
    b"\x90",
    b"\xc0",
    b"\xc1",
    b"\xcf" + b"\xff" * 8,
    b"\xd6\xff\0\0\0\0",
    b"{",
    b"9" * 400,
)


def mutated(rng: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                data[at:at] = rng.choice(_VALUES)
            case 2:
                del data[at : at + rng.randint(1, 16)]
            case _:
                data[at : at + rng.randint(0, 8)] = rng.choice(_VALUES)
    return bytes(data)


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_returns_or_raises_its_own_error(name: str, tmp_path: Path) -> None:
    decoder: Decoder = decoders(tmp_path)[name]()
    rng = random.Random(20_261_123)
    assert {seed[0] for seed in decoder.seeds} == set(range(len(decoder.feeders)))
    with closing(decoder):
        for seed in decoder.seeds:
            if name == "state":  # rows that do not belong together: some are damage
                decoder.feed(seed)
            else:  # sound: not even its own error
                decoder.feeders[seed[0]](seed[1:])
        for _ in range(MUTATIONS.get(name, 10_000)):
            decoder.feed(mutated(rng, rng.choice(decoder.seeds)))


def test_repro_a_set_of_members_that_is_no_bytes_is_damage_and_not_a_crash(tmp_path: Path) -> None:
    database = Database(tmp_path / "state", authority="a", aggregator="main")
    with database.transaction():
        database.write("INSERT INTO members VALUES (1, 'p', 'north', 7, 0, ?, ?)", 2, msgpack.packb(2))
    with pytest.raises(StateError, match="fail their checksum"):
        Members(database).counted(("p", "north", 7))
    database.close()
