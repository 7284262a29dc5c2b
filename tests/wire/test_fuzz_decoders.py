"""200,000 random and mutated envelopes, and more of everything else that arrives: only the named errors.

The loops are seeded, so a failure repeats; hypothesis looks for what a loop would not think of. Whatever is
accepted must be what it says it is, so that "returns" cannot hide a decoder that accepts everything.
"""

import hmac
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
import tenseal as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe.errors import BundleError, EnvelopeError
from gridhe.plan.parameters import RINGS
from gridhe.wire import topics
from gridhe.wire.bundle import Bundle
from gridhe.wire.envelope import Header, open_envelope, seal_envelope
from gridhe.wire.planes import Planes
from gridhe.wire.receipt import Receipt, TotalReceipt
from gridhe.wire.roster import FormerPlace, Roster, RosterEntry
from gridhe.wire.signing import SigningKey, sign_record
from gridhe.wire.status import Status
from gridhe.wire.tenseal_format import from_tenseal, to_tenseal
from gridhe.wire.total import MemberList, Piece, TotalHeader, open_total, seal_total

KEY = bytes(range(32))
SIGNER = SigningKey.from_private_bytes(KEY)
PLAN, KEY_ID = "p" + "0" * 16, "k" + "f" * 16
HEADER = Header(plan=PLAN, key=KEY_ID, meter="m1", group="north/f1", window=19_000, proof=bytes(11))
MAX = 1 << 16

# Values that msgpack can hold and a decoder may stumble over.
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**48 - 1, 2**48, 2**63, 2**64 - 1, -(2**63), 0.0, 1.5),
    *(float("nan"), float("inf"), "", "a", "A", "grid", "north/f1", "m1", PLAN, KEY_ID, "\x00", "é"),
    *(
        "/" * 20,
        "a" * 65,
        b"",
        b"x",
        bytes(32),
        bytes(64),
        [],
        [[]],
        [1],
        [[1, "late"]],
        [[PLAN, "grid", 5, 0]],
    ),
    *([["north/f1", 0, 5]], [["north/f1", 0, 5, b"\x1f", b""]], {}, {"v": 1}, {"a": {"b": {}}}, [[[[[[]]]]]]),
]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """One to four changes: bits, bytes, cuts, repetitions, insertions; near the start more often."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        size = len(out)
        at = rng.randrange(min(size, 120) if rng.random() < 0.7 else size) if size else 0
        kind = rng.randrange(7)
        if kind == 0 and size:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and size:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0x90, 0xC0, 0xC1, 0xC4, 0xC6, 0xD9, 0xDC, 0xDF, 0xFF))
        elif kind == 2:
            del out[at : at + rng.randint(1, 40)]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == 4:
            out = out[:at]
        elif kind == 5:
            out[at:at] = out[at : at + rng.randint(1, 60)]
        else:
            out += rng.randbytes(rng.randint(1, 4))
    return bytes(out)


def odd_record(rng: random.Random, record: dict[str, Any]) -> Any:
    """A map like this one with some fields replaced, missing or more; or no map at all."""
    if rng.random() < 0.03:
        return rng.choice(ODD)
    changed = {**record}
    for name in rng.sample(sorted(record), rng.randint(0, 3)):
        changed[name] = rng.choice(ODD)
    if rng.random() < 0.1:
        changed.pop(rng.choice(sorted(changed)))
    if rng.random() < 0.1:
        changed[rng.choice(("x", "v2", "meter2"))] = rng.choice(ODD)
    return changed


def outcomes(
    decode: Callable[[bytes], object], inputs: Iterator[bytes], error: type[EnvelopeError | BundleError]
) -> Counter[str]:
    """How often each reason came, and how often the input was accepted."""
    seen: Counter[str] = Counter()
    for data in inputs:
        try:
            decode(data)
        except error as caught:
            seen[getattr(caught, "reason", "refused")] += 1
        except Exception as other:
            raise AssertionError(f"{type(other).__name__}: {other} for {data[:400].hex()}") from other
        else:
            seen["accepted"] += 1
    return seen


def open_and_check(payload: bytes) -> None:
    """Open an envelope; what is accepted must be legal and lose nothing when sealed again."""
    envelope = open_envelope(payload, MAX)
    header = envelope.header
    assert topics.parse_batch(topics.batch(header.group, header.meter)) == (header.group, header.meter)
    assert type(header.window) is int
    assert 0 <= header.window < 2**48
    assert len(envelope.sealed) >= 28
    again = open_envelope(seal_envelope(header, b"c", KEY), MAX + 1024)
    assert again.header == header
    assert again.open(KEY) == b"c"


def envelopes(rng: random.Random, count: int) -> Iterator[bytes]:
    good = [seal_envelope(HEADER, rng.randbytes(size), KEY) for size in (0, 1, 60, 255, 256, 300)]
    record = msgpack.unpackb(HEADER.encode())
    for i in range(count):
        kind = i % 4
        if kind < 2:
            yield mutated(rng, rng.choice(good))
        elif kind == 2:
            header = msgpack.packb(odd_record(rng, record))
            yield msgpack.packb([header, rng.randbytes(28)])
        elif i % 8 == 3:
            yield rng.randbytes(rng.randint(0, 200))
        else:
            parts = [rng.choice(ODD) for _ in range(rng.choice((0, 1, 2, 2, 2, 3)))]
            yield msgpack.packb(rng.choice([parts, [HEADER.encode(), *parts[1:]], [rng.choice(ODD)] * 2]))


def test_200_000_random_and_mutated_envelopes_raise_nothing_but_envelope_errors() -> None:
    seen = outcomes(open_and_check, envelopes(random.Random(1), 200_000), EnvelopeError)
    assert sum(seen.values()) == 200_000
    # All ways through the decoder were taken, many times.
    assert seen.keys() == {"malformed", "version", "accepted"}
    assert min(seen.values()) > 1_000, seen


def test_envelopes_of_real_size_around_mutated_ciphertexts_raise_nothing_but_envelope_errors() -> None:
    parameters = RINGS[0]
    planes = Planes(parameters)
    rng = random.Random(2)
    drawn = np.random.default_rng(2).integers(0, parameters.primes[0], planes.shape, dtype=np.uint64)
    good = planes.pack(drawn)
    prime = np.array(parameters.primes, np.uint64)[:, None]

    def inputs() -> Iterator[bytes]:
        for _ in range(3_000):
            ciphertext = bytearray(good)
            for _ in range(rng.randint(0, 3)):
                at, size = rng.randrange(len(good) - 16), rng.randint(1, 16)
                ciphertext[at : at + size] = rng.choice((b"\xff", b"\x00", b"\xa5")) * size
            if rng.random() < 0.2:
                del ciphertext[rng.randrange(len(good)) :]
            yield seal_envelope(HEADER, bytes(ciphertext), KEY)
        yield seal_envelope(HEADER, good[: len(good) // 3] + bytes(len(good)), KEY)
        yield seal_envelope(HEADER, bytes(len(good)), KEY)

    def decode(payload: bytes) -> None:
        ciphertext = open_envelope(payload, MAX).open(KEY)
        views = planes.views(ciphertext)
        planes.check(views)
        assert (planes.unpack(ciphertext) < prime).all()

    seen = outcomes(decode, inputs(), EnvelopeError)
    assert seen.keys() == {"accepted", "residue", "size", "transparent"}
    assert min(seen["accepted"], seen["residue"], seen["size"]) > 100, seen


def sealed_body(body: bytes, kind: str = "batches") -> bytes:
    domain = f"gridhe/v2/receipt/{kind}\0".encode()
    packed: bytes = msgpack.packb([body, hmac.digest(KEY, domain + body, "sha256")])
    return packed


RECEIPTS: list[Receipt | TotalReceipt] = [
    Receipt(plan=PLAN, meter="m1", committed=(1, 2, 3), refused=((4, "late"),)),
    TotalReceipt(aggregator="main", stored=((PLAN, "north/f1", 5, 0), (PLAN, "grid", 5, 1))),
]


@pytest.mark.parametrize("receipt", RECEIPTS, ids=["meter", "aggregator"])
def test_random_and_mutated_receipts_raise_nothing_but_envelope_errors(
    receipt: Receipt | TotalReceipt,
) -> None:
    rng = random.Random(3)
    kind = "batches" if isinstance(receipt, Receipt) else "totals"
    good = receipt.encode(KEY)
    body: bytes = msgpack.unpackb(good)[0]
    record = msgpack.unpackb(body)

    def inputs() -> Iterator[bytes]:
        for i in range(15_000):
            if i % 3 == 0:
                yield mutated(rng, good)
            elif i % 3 == 1:  # past the tag, as a hostile peer with the right key
                yield sealed_body(mutated(rng, body), kind)
            else:
                yield sealed_body(msgpack.packb(odd_record(rng, record)), kind)

    def decode(data: bytes) -> None:
        found = type(receipt).decode(data, KEY)
        assert type(receipt).decode(found.encode(KEY), KEY) == found

    seen = outcomes(decode, inputs(), EnvelopeError)
    assert seen.keys() >= {"tag", "malformed", "version", "accepted"}
    assert min(seen.values()) > 50, seen


def test_random_and_mutated_totals_raise_nothing_but_envelope_errors() -> None:
    rng = random.Random(4)
    header = TotalHeader(
        plan=PLAN,
        key=KEY_ID,
        aggregator="main",
        group="north",
        window=1,
        part=0,
        meters=9,
        roster=7,
        pieces=(Piece("north/f1", 0, 5, MemberList(b"\x1f", bytes(55))), Piece("north/f2", 1, 4)),
    )
    good = seal_total(header, b"c" * 40, SIGNER)
    record = msgpack.unpackb(header.encode())

    def inputs() -> Iterator[bytes]:
        for i in range(30_000):
            if i % 2:
                yield mutated(rng, good)
            else:
                yield msgpack.packb([msgpack.packb(odd_record(rng, record)), b"c", bytes(64)])

    def decode(data: bytes) -> None:
        total = open_total(data, MAX)
        assert sum(piece.meters for piece in total.header.pieces) == total.header.meters > 0
        assert TotalHeader.decode(total.header.encode()) == total.header
        if data == good:
            total.check_signature(SIGNER.verify_key)
        elif total.header_bytes != header.encode() or total.ciphertext != b"c" * 40:
            with pytest.raises(EnvelopeError):
                total.check_signature(SIGNER.verify_key)

    seen = outcomes(decode, inputs(), EnvelopeError)
    assert min(seen[name] for name in ("malformed", "version", "accepted")) > 100, seen


def test_random_and_mutated_status_raise_nothing_but_envelope_errors() -> None:
    rng = random.Random(5)
    status = Status(online=True, version="0.1", incarnation="ab" * 8, backlog=3)
    good = status.encode()
    record = msgpack.unpackb(good)

    def inputs() -> Iterator[bytes]:
        for i in range(20_000):
            yield mutated(rng, good) if i % 2 else msgpack.packb(odd_record(rng, record))

    def decode(data: bytes) -> None:
        found = Status.decode(data)
        assert Status.decode(found.encode()) == found

    seen = outcomes(decode, inputs(), EnvelopeError)
    assert min(seen[name] for name in ("malformed", "version", "accepted")) > 100, seen


def test_random_topics_raise_nothing_but_envelope_errors() -> None:
    rng = random.Random(6)
    good = [topics.batch("north/f1", "m1"), topics.total("north"), topics.total("grid"), topics.PLAN_CURRENT]

    def inputs() -> Iterator[bytes]:
        for _ in range(20_000):
            yield mutated(rng, rng.choice(good).encode())

    def decode(data: bytes) -> None:
        parse: Callable[[str], object] = topics.parse_total if len(data) % 2 else topics.parse_batch
        parse(data.decode("latin-1"))

    seen = outcomes(decode, inputs(), EnvelopeError)
    assert seen.keys() == {"topic", "accepted"}


@pytest.mark.parametrize("compressed", [True, False])
def test_random_and_mutated_tenseal_vectors_raise_nothing_but_envelope_errors(compressed: bool) -> None:
    rng = random.Random(7)
    parameters = RINGS[0]
    context = ts.context(ts.SCHEME_TYPE.CKKS, 2048, coeff_mod_bit_sizes=[40, 14], n_threads=1)
    good = ts.ckks_vector(context, [1.0] * 1024, 2.0**20).serialize()
    if not compressed:
        good = to_tenseal(from_tenseal(good, parameters), parameters, 2.0**20)

    def inputs() -> Iterator[bytes]:
        for _ in range(4_000):
            yield mutated(rng, good)

    def decode(data: bytes) -> None:
        assert from_tenseal(data, parameters, 2.0**20).shape == (2, 1, 2048)

    seen = outcomes(decode, inputs(), EnvelopeError)
    assert seen["tenseal"] > 1_000, seen


def test_random_and_mutated_bundles_and_rosters_raise_nothing_but_bundle_errors() -> None:
    rng = random.Random(8)
    roster = Roster(
        version=3,
        entries=(RosterEntry("m1", "north/f1"), RosterEntry("m2", "south", 99)),
        former=(FormerPlace("m1", "south"),),
    )
    good = roster.encode(SIGNER)
    body: bytes = msgpack.unpackb(good)[1]

    def inputs() -> Iterator[bytes]:
        for i in range(6_000):
            if i % 3 == 0:
                yield mutated(rng, good)
            elif i % 3 == 1:
                yield sign_record(SIGNER, rng.choice(("roster", "bundle")), mutated(rng, body))
            else:
                content = [rng.choice(ODD) for _ in range(rng.choice((2, 3, 5)))]
                yield sign_record(SIGNER, rng.choice(("roster", "bundle")), msgpack.packb(content))

    def decode_roster(data: bytes) -> None:
        found = Roster.decode(data, SIGNER.verify_key)
        assert Roster.decode(found.encode(SIGNER), SIGNER.verify_key) == found

    seen = outcomes(decode_roster, inputs(), BundleError)
    assert seen["accepted"] > 5, seen
    rng.seed(8)
    assert outcomes(lambda data: Bundle.decode(data, SIGNER.verify_key), inputs(), BundleError).keys() == {
        "refused"
    }


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=40),
)
msgpack_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=7),
    max_leaves=20,
)
some_bytes = st.one_of(
    st.binary(max_size=300),
    msgpack_values.map(msgpack.packb),
    st.tuples(
        msgpack_values.map(msgpack.packb), st.binary(max_size=20), st.binary(min_size=32, max_size=32)
    ).map(lambda parts: msgpack.packb(list(parts))),
    msgpack_values.map(msgpack.packb).map(sealed_body),
)


@given(some_bytes)
@settings(max_examples=400, deadline=None)
def test_whatever_hypothesis_thinks_of_raises_nothing_but_the_named_errors(data: bytes) -> None:
    decoders: list[Callable[[bytes], object]] = [
        open_and_check,
        lambda d: open_total(d, MAX),
        lambda d: Receipt.decode(d, KEY),
        lambda d: TotalReceipt.decode(d, KEY),
        Status.decode,
        lambda d: from_tenseal(d, RINGS[0]),
    ]
    for decode in decoders:
        outcomes(decode, iter([data]), EnvelopeError)
    for kind, decode_record in (("bundle", Bundle.decode), ("roster", Roster.decode)):
        signed = sign_record(SIGNER, kind, data)
        for one in (data, signed):
            outcomes(lambda d, decode=decode_record: decode(d, SIGNER.verify_key), iter([one]), BundleError)  # type: ignore[misc]
