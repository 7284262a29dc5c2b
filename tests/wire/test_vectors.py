"""Golden vectors: what version 1 wrote is read for ever, and written the same."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tenseal as ts

from gridhe.keyring.release.decrypt import Decryptor
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.envelope import Header, open_envelope, seal_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.planes import Planes
from gridhe.wire.receipt import Receipt, TotalReceipt
from gridhe.wire.roster import Roster, RosterEntry, RosterPlan
from gridhe.wire.signing import SigningKey
from gridhe.wire.status import Status
from gridhe.wire.tenseal_format import from_tenseal, to_tenseal
from gridhe.wire.total import Piece, open_total, seal_total

VECTORS = Path(__file__).parent / "vectors"
KEYS = {name: bytes.fromhex(value) for name, value in json.loads((VECTORS / "keys.json").read_text()).items()}
AUTHORITY, AGGREGATOR = (SigningKey.from_private_bytes(KEYS[name]) for name in ("authority", "aggregator"))
M1 = derive_key(KEYS["ingest_secret"], "m1")
PLAN_ID, KEY_ID, WINDOW = "p964881a7d49f16d2", "k57906b965ab6ac2f", 19_700

DIGESTS = {
    "bundle.bin": "1373a33d59c60d2d",
    "ckks_vector.bin": "a254214deb914dfb",
    "envelope.bin": "85f96ab958c62108",
    "plan.bin": "964881a7d49f16d2",
    "receipt.bin": "87fdb5920c740f61",
    "roster.bin": "365ef87fe9440d01",
    "roster_plans.bin": "4c6ded2ba82cbab3",
    "secret_context.bin": "8f8e6d84b7ca64d2",
    "status.bin": "e9d1afb272828ff1",
    "total.bin": "d8b81b7d7c8b2aef",
    "total_receipt.bin": "f345ca0f6991ef23",
    "total_receipt_refused.bin": "04addc09ac836629",
}


def golden(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.decode(golden("plan.bin"))


def readings(number: int) -> np.ndarray:
    values = (np.arange(24) * 37 + number * 101) % 999
    values[number] = -1
    values[number + 5] = 1_000
    return values


def slots_by_hand(numbers: range) -> np.ndarray:
    """The slots' sums over meters, written out block by block."""
    blocks = []
    for values in map(readings, numbers):
        present = values >= 0
        kept = np.where(present, values, 0)
        bins = [present & (kept >= low) & (kept < high) for low, high in ((0, 250), (250, 500), (500, 1_001))]
        blocks.append(np.concatenate([kept, present, (kept // 32) ** 2, *bins]))
    total: np.ndarray = np.sum(blocks, axis=0)
    return total


def test_the_plan_is_read_and_written_the_same(plan: Plan) -> None:
    assert plan.plan_id == PLAN_ID
    assert plan.key_id == KEY_ID
    assert plan.parameters == CkksParameters(2048, (40, 14))
    assert (plan.window_s, plan.interval_s, plan.first_window, plan.scale_bits) == (86_400, 3_600, 19_000, 20)
    (quantity,) = plan.quantities
    assert (quantity.name, quantity.bin_edges, quantity.square_shift) == (
        "import_wh",
        (0, 250, 500, 1_001),
        5,
    )
    assert plan.encode() == golden("plan.bin")


def test_the_bundle_is_read_and_written_the_same(plan: Plan) -> None:
    bundle = Bundle.decode(golden("bundle.bin"), AUTHORITY.verify_key)
    assert bundle.plan == plan
    assert key_id_of(bundle.public_key) == KEY_ID
    assert not ts.context_from(bundle.public_key, n_threads=1).is_private()
    assert bundle.encode(AUTHORITY) == golden("bundle.bin")


def test_the_roster_is_read_and_written_the_same() -> None:
    roster = Roster.decode(golden("roster.bin"), AUTHORITY.verify_key)
    entries = tuple(RosterEntry(f"m{i}", "north/f1", 86_400) for i in (1, 2, 3))
    assert roster == Roster(version=7, entries=entries)
    assert roster.encode(AUTHORITY) == golden("roster.bin")


def test_the_roster_with_plans_is_read_and_written_the_same(plan: Plan) -> None:
    roster = Roster.decode(golden("roster_plans.bin"), AUTHORITY.verify_key)
    plans = (RosterPlan("p" + "0" * 16, 0, retired=True), RosterPlan(PLAN_ID, plan.start_s))
    entries = tuple(RosterEntry(f"m{i}", "north/f1", 86_400) for i in (1, 2, 3))
    assert roster == Roster(version=8, entries=entries, plans=plans)
    assert roster.encode(AUTHORITY) == golden("roster_plans.bin")


def test_the_envelope_is_read_and_written_the_same(plan: Plan) -> None:
    payload = golden("envelope.bin")
    envelope = open_envelope(payload, len(payload))
    assert envelope.header == Header(plan=PLAN_ID, key=KEY_ID, meter="m1", group="north/f1", window=WINDOW)
    envelope.check_tag(M1)
    planes = Planes(plan.parameters)
    planes.check(planes.views(envelope.ciphertext))
    residues = planes.unpack(envelope.ciphertext)
    np.testing.assert_array_equal(
        residues, from_tenseal(golden("ckks_vector.bin"), plan.parameters, plan.scale)
    )
    assert seal_envelope(envelope.header, planes.pack(residues), M1) == payload


def test_the_batch_still_decrypts_to_its_readings(plan: Plan) -> None:
    context = ts.context_from(golden("secret_context.bin"), n_threads=1)
    residues = from_tenseal(golden("ckks_vector.bin"), plan.parameters, plan.scale)
    for data in (golden("ckks_vector.bin"), to_tenseal(residues, plan.parameters, plan.scale)):
        slots = np.rint(ts.ckks_vector_from(context, data).decrypt()).astype(np.int64)
        np.testing.assert_array_equal(slots[: plan.layout.used], slots_by_hand(range(1)))
        assert not slots[plan.layout.used :].any()


def test_the_total_is_read_and_written_the_same_and_decrypts_to_the_sums(plan: Plan) -> None:
    payload = golden("total.bin")
    total = open_total(payload, len(payload))
    total.check_signature(AGGREGATOR.verify_key)
    header = total.header
    assert (header.plan, header.key, header.aggregator, header.group) == (PLAN_ID, KEY_ID, "main", "north")
    assert (header.window, header.part, header.meters) == (WINDOW, 0, 3)
    assert header.pieces == (Piece("north/f1", 0, 3),)
    digests = [hashlib.sha256(name).digest() for name in (b"m1", b"m2", b"m3")]
    assert int.from_bytes(header.members, "big") == sum(int.from_bytes(d, "big") for d in digests) % 2**256
    assert seal_total(header, total.ciphertext, AGGREGATOR) == payload
    decryptor = Decryptor(plan, golden("secret_context.bin"), bytes(32))
    np.testing.assert_array_equal(decryptor.decrypt(total.ciphertext), slots_by_hand(range(3)))


def test_receipts_are_read_and_written_the_same() -> None:
    receipt = Receipt.decode(golden("receipt.bin"), M1)
    assert receipt == Receipt(plan=PLAN_ID, meter="m1", committed=(WINDOW,), refused=((WINDOW + 1, "early"),))
    assert receipt.encode(M1) == golden("receipt.bin")
    key = derive_key(KEYS["ingest_secret"], "aggregator/main")
    stored = TotalReceipt.decode(golden("total_receipt.bin"), key)
    assert stored == TotalReceipt(
        aggregator="main", stored=((PLAN_ID, "north", WINDOW, 0), (PLAN_ID, "grid", WINDOW, 0))
    )
    assert stored.encode(key) == golden("total_receipt.bin")
    refused = TotalReceipt.decode(golden("total_receipt_refused.bin"), key)
    assert refused == TotalReceipt(
        aggregator="main",
        stored=((PLAN_ID, "north", WINDOW, 0),),
        refused=((PLAN_ID, "grid", WINDOW, 0, "size"),),
    )
    assert refused.encode(key) == golden("total_receipt_refused.bin")


def test_the_status_is_read_and_written_the_same() -> None:
    status = Status.decode(golden("status.bin"))
    assert status == Status(online=True, version="0.1.0", incarnation="0123456789abcdef", backlog=5)
    assert status.encode() == golden("status.bin")


def test_every_vector_is_the_one_that_was_committed() -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in VECTORS.glob("*.bin")}
    assert found == DIGESTS
