"""Golden vectors: what version 2 wrote is always read, and written the same; version 1 is refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tenseal as ts
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gridhe.bench.authority import PlanKey
from gridhe.errors import BundleError, EnvelopeError, PlanError
from gridhe.plan.guards import Guards, guard_key, home_key
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.codec import pack
from gridhe.wire.envelope import Header, envelope_key, open_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.planes import Planes
from gridhe.wire.receipt import Receipt, TotalReceipt
from gridhe.wire.roster import FormerPlace, Roster, RosterEntry, RosterPlan
from gridhe.wire.signing import SigningKey
from gridhe.wire.status import Status
from gridhe.wire.tenseal_format import from_tenseal, to_tenseal
from gridhe.wire.total import Piece, open_total, positions_of, seal_total

VECTORS = Path(__file__).parent / "vectors"
KEYS = {name: bytes.fromhex(value) for name, value in json.loads((VECTORS / "keys.json").read_text()).items()}
AUTHORITY, AGGREGATOR = (SigningKey.from_private_bytes(KEYS[name]) for name in ("authority", "aggregator"))
M1 = derive_key(KEYS["ingest_secret"], "m1")
AT_THE_AGGREGATOR = derive_key(KEYS["ingest_secret"], "aggregator/main")
PLAN_ID, KEY_ID, WINDOW = "pf2a2e8cd014eee49", "k1bfaf354de82ab9a", 19_700
METERS = ("m1", "m2", "m3", "m4")

DIGESTS = {
    "bundle.bin": "f65f58fba9cc53ea",
    "ckks_vector.bin": "84b1ea2392aebf03",
    "envelope.bin": "a7c42ace94168b38",
    "guards.json": "3822ab77ffc49b70",
    "plan.bin": "f2a2e8cd014eee49",
    "receipt.bin": "eb0a37a0b1405534",
    "rollup.bin": "9af401dab1415d84",
    "roster.bin": "e83b0c4dfe5a162d",
    "secret_context.bin": "e89c883b3d084cc6",
    "status.bin": "e9d1afb272828ff1",
    "total.bin": "faed2406dcff2b26",
    "total_receipt.bin": "44e9ee6a46c02c3c",
}
VERSION_1_DIGESTS = {
    "bundle.bin": "1373a33d59c60d2d",
    "envelope.bin": "85f96ab958c62108",
    "plan.bin": "964881a7d49f16d2",
    "receipt.bin": "87fdb5920c740f61",
    "roster.bin": "365ef87fe9440d01",
    "total.bin": "d8b81b7d7c8b2aef",
    "total_receipt.bin": "f345ca0f6991ef23",
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
        present = (values >= 0).astype(np.int64)
        kept = np.where(present, values, 0)
        bins = [
            present * ((kept >= low) & (kept < high)) for low, high in ((0, 250), (250, 500), (500, 1_001))
        ]
        blocks.append(np.concatenate([kept, present, (kept // 32) ** 2, *bins]))
    total: np.ndarray = np.sum(blocks, axis=0)
    return total


def test_the_plan_is_read_and_written_the_same(plan: Plan) -> None:
    assert plan.plan_id == PLAN_ID
    assert plan.key_id == KEY_ID
    assert plan.parameters == CkksParameters(2048, (40, 14))
    assert (plan.window_s, plan.interval_s, plan.first_window, plan.scale_bits) == (86_400, 3_600, 19_000, 20)
    assert (plan.guard_bits, plan.guards, plan.proof_bytes) == (14, 1_024 - 144, 11)
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


def test_the_roster_is_read_and_written_the_same(plan: Plan) -> None:
    roster = Roster.decode(golden("roster.bin"), AUTHORITY.verify_key)
    plans = (RosterPlan("p" + "0" * 16, 0, retired=True), RosterPlan(PLAN_ID, plan.start_s))
    groups = ("north/f1", "north/f1", "north/f1", "north/f2")
    entries = tuple(RosterEntry(m, group, 86_400) for m, group in zip(METERS, groups, strict=True))
    assert roster == Roster(version=7, entries=entries, plans=plans, former=(FormerPlace("m0", "north/f1"),))
    assert roster.encode(AUTHORITY) == golden("roster.bin")


@pytest.fixture(scope="module")
def decrypted(plan: Plan) -> Callable[[bytes], np.ndarray]:
    """All slots of a ciphertext in planes."""
    bundle = Bundle.decode(golden("bundle.bin"), AUTHORITY.verify_key)
    key = PlanKey(bundle=bundle, context=ts.context_from(golden("secret_context.bin"), n_threads=1))
    assert key.plan == plan
    return key.all_slots


def members(plan: Plan, meters: range) -> tuple[np.ndarray, np.ndarray]:
    """The guards' sums over these meters, and all slots' sums, as `plan.guards` computes them."""
    guards, total, proofs = Guards(plan), np.zeros(plan.parameters.slots, np.int64), []
    for number in meters:
        key = guard_key(KEYS["guard_secret"], METERS[number])
        slots, proof = guards.fill(
            WINDOW,
            plan.layout.encode({"import_wh": readings(number)}),
            guard_key=key,
            home_key=home_key(KEYS["guard_secret"]),
        )
        total += slots
        proofs.append((key, proof))
    return guards.sums(WINDOW, proofs).guards, total


def proof_of(plan: Plan, number: int) -> bytes:
    return Guards(plan).fill(
        WINDOW,
        plan.layout.encode({"import_wh": readings(number)}),
        guard_key=guard_key(KEYS["guard_secret"], METERS[number]),
        home_key=home_key(KEYS["guard_secret"]),
    )[1]


def test_the_envelope_is_read_and_written_the_same(plan: Plan) -> None:
    payload = golden("envelope.bin")
    envelope = open_envelope(payload, len(payload))
    assert envelope.header == Header(
        plan=PLAN_ID, key=KEY_ID, meter="m1", group="north/f1", window=WINDOW, proof=proof_of(plan, 0)
    )
    ciphertext = envelope.open(envelope_key(M1))
    planes = Planes(plan.parameters)
    planes.check(planes.views(ciphertext))
    residues = planes.unpack(ciphertext)
    np.testing.assert_array_equal(
        residues, from_tenseal(golden("ckks_vector.bin"), plan.parameters, plan.scale)
    )
    header, nonce = envelope.header.encode(), bytes(envelope.sealed[:12])
    sealed = nonce + AESGCM(envelope_key(M1)).encrypt(nonce, planes.pack(residues), header)
    assert pack([header, sealed]) == payload


def test_the_batch_still_decrypts_to_its_readings_and_guards(
    plan: Plan, decrypted: Callable[[bytes], np.ndarray]
) -> None:
    context = ts.context_from(golden("secret_context.bin"), n_threads=1)
    residues = from_tenseal(golden("ckks_vector.bin"), plan.parameters, plan.scale)
    _, all_slots = members(plan, range(1))
    assert np.array_equal(all_slots[: plan.layout.used], slots_by_hand(range(1)))
    for data in (golden("ckks_vector.bin"), to_tenseal(residues, plan.parameters, plan.scale)):
        slots = np.rint(ts.ckks_vector_from(context, data).decrypt()).astype(np.int64)
        np.testing.assert_array_equal(slots, all_slots)


@pytest.mark.parametrize("name", ["total.bin", "rollup.bin"])
def test_a_total_is_read_and_written_the_same_and_decrypts_to_the_sums(
    plan: Plan, decrypted: Callable[[bytes], np.ndarray], name: str
) -> None:
    payload = golden(name)
    total = open_total(payload, len(payload))
    total.check_signature(AGGREGATOR.verify_key)
    header, whole = total.header, name == "rollup.bin"
    assert (header.plan, header.key, header.aggregator, header.roster) == (PLAN_ID, KEY_ID, "main", 7)
    assert (header.window, header.part, header.meters) == (WINDOW, 0, 4 if whole else 3)
    first, second = header.pieces if whole else (*header.pieces, None)
    if second is None:
        assert header.group == "north/f1"
        assert first.members is not None
        assert (first.group, first.part, first.meters) == ("north/f1", 0, 3)
        assert positions_of(first.members.bitmap) == [1, 2, 3]  # m0, formerly there, has position 0
        assert first.members.proofs == b"".join(proof_of(plan, number) for number in range(3))
    else:
        assert header.group == "north"
        assert first == Piece("north/f1", 0, 3)
        assert second.members is not None
        assert (second.group, second.part, second.meters) == ("north/f2", 0, 1)
        assert positions_of(second.members.bitmap) == [0]
        assert second.members.proofs == proof_of(plan, 3)
    assert seal_total(header, total.ciphertext, AGGREGATOR) == payload
    slots, (expected, all_slots) = decrypted(total.ciphertext), members(plan, range(header.meters))
    np.testing.assert_array_equal(slots[: plan.layout.used], slots_by_hand(range(header.meters)))
    np.testing.assert_array_equal(slots, all_slots)
    faults = Guards(plan).tag_faults(WINDOW, slots, expected, home_key(KEYS["guard_secret"]))
    assert not faults.any()


def test_receipts_are_read_and_written_the_same() -> None:
    receipt = Receipt.decode(golden("receipt.bin"), M1)
    assert receipt == Receipt(plan=PLAN_ID, meter="m1", committed=(WINDOW,), refused=((WINDOW + 1, "early"),))
    assert receipt.encode(M1) == golden("receipt.bin")
    totals = TotalReceipt.decode(golden("total_receipt.bin"), AT_THE_AGGREGATOR)
    assert totals == TotalReceipt(
        aggregator="main",
        stored=((PLAN_ID, "north", WINDOW, 0),),
        refused=((PLAN_ID, "grid", WINDOW, 0, "unsound"),),
    )
    assert totals.encode(AT_THE_AGGREGATOR) == golden("total_receipt.bin")


def test_the_status_is_read_and_written_the_same() -> None:
    status = Status.decode(golden("status.bin"))
    assert status == Status(online=True, version="0.1.0", incarnation="0123456789abcdef", backlog=5)
    assert status.encode() == golden("status.bin")


# -- version 1 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "decode"),
    [
        ("envelope.bin", lambda data: open_envelope(data, len(data))),
        ("total.bin", lambda data: open_total(data, len(data))),
        ("receipt.bin", lambda data: Receipt.decode(data, M1)),
        ("total_receipt.bin", lambda data: TotalReceipt.decode(data, AT_THE_AGGREGATOR)),
    ],
)
def test_a_record_of_version_1_is_refused_with_its_version(
    name: str, decode: Callable[[bytes], object]
) -> None:
    with pytest.raises(EnvelopeError, match=r"version 1, this is version 2") as caught:
        decode(golden(f"version1/{name}"))
    assert caught.value.reason == "version"


def test_signed_records_of_version_1_are_refused_and_the_version_named() -> None:
    with pytest.raises(PlanError, match="of another version of gridhe; upgrade"):
        Plan.decode(golden("version1/plan.bin"))
    with pytest.raises(BundleError, match="of another version of gridhe; upgrade"):
        Bundle.decode(golden("version1/bundle.bin"), AUTHORITY.verify_key)
    with pytest.raises(BundleError, match="of wire version 1, this is version 2"):
        Roster.decode(golden("version1/roster.bin"), AUTHORITY.verify_key)


def test_every_vector_is_the_one_that_was_committed() -> None:
    for folder, digests in ((VECTORS, DIGESTS), (VECTORS / "version1", VERSION_1_DIGESTS)):
        paths = [*folder.glob("*.bin"), *folder.glob("guards.json")]
        assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths} == digests
