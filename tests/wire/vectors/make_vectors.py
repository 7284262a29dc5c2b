"""Writes the golden vectors of wire version 2. Run once; they are kept for ever (see README.md).

python make_vectors.py DIRECTORY   refuses to touch a file that is there

Needs tests/support on the path, for the second implementation of the guards.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tenseal as ts

from gridhe.bench.authority import new_context
from gridhe.plan.guards import Guards
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.envelope import Header, envelope_key, seal_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.planes import Planes
from gridhe.wire.receipt import Receipt, TotalReceipt
from gridhe.wire.roster import FormerPlace, Roster, RosterEntry, RosterPlan
from gridhe.wire.signing import SigningKey, authority_id
from gridhe.wire.status import Status
from gridhe.wire.tenseal_format import from_tenseal
from gridhe.wire.total import MemberList, Piece, TotalHeader, TotalKey, bitmap_of, seal_total
from gridhe_testing import second_guards

WINDOW = 19_700
METERS = {"m1": "north/f1", "m2": "north/f1", "m3": "north/f1", "m4": "north/f2"}
FORMER = "m0"  # was in north/f1, so it has that group's position 0
RING = CkksParameters(2048, (40, 14))
GUARD_SECRET = bytes([4]) * 32


def readings(number: int) -> np.ndarray:
    """Meter `number`'s readings: one missing, one at the largest, the rest in between."""
    values = (np.arange(24) * 37 + number * 101) % 999
    values[number] = -1
    values[number + 5] = 1_000
    return values


def plan_of(authority: SigningKey, key_id: str) -> Plan:
    """The plan of all vectors."""
    return Plan(
        authority=authority_id(authority.verify_key),
        key_id=key_id,
        first_window=19_000,
        window_s=86_400,
        interval_s=3_600,
        quantities=(
            Quantity(
                name="import_wh",
                unit="Wh",
                largest=1_000,
                statistics=("sum", "mean", "variance", "min", "max"),
                bin_edges=(0, 250, 500, 1_001),
                square_shift=5,
            ),
        ),
        largest_group=10,
        largest_rollup=20,
        minimum_meters=2,
        grace_s=300.0,
        late_s=3_600.0,
        early_s=60.0,
        horizon_s=34_560_000.0,
        parameters=RING,
        scale_bits=20,
        flooding_bits=0,
        decryptions=1_000,
        guard_bits=14,
    )


def lines_of(
    meter: str, plan_id: str, window: int, used: list[int], present: list[int], *, slots: int, guard_bits: int
) -> dict[str, Any]:
    """Every line of the guards' computation for one batch, byte strings in hex."""
    k, h = second_guards.guard_key(GUARD_SECRET, meter), second_guards.home_key(GUARD_SECRET)
    ctx = second_guards.context(plan_id, window)
    siv, packed = second_guards.siv(k, ctx, used), second_guards.presence(present)
    filled, proof = second_guards.fill(used, present, k=k, h=h, ctx=ctx, slots=slots, guard_bits=guard_bits)
    return {
        "meter": meter,
        "plan": plan_id,
        "window": window,
        "slots": slots,
        "guard_bits": guard_bits,
        "used": used,
        "present": present,
        "guard_secret": GUARD_SECRET.hex(),
        "k": k.hex(),
        "h": h.hex(),
        "ctx": ctx.hex(),
        "siv": siv.hex(),
        "presence": packed.hex(),
        "sealed": second_guards.sealed(k, ctx, siv, packed).hex(),
        "proof": proof.hex(),
        "g": second_guards.words(k, ctx, siv, packed, slots - len(used), guard_bits),
        "alpha": second_guards.alpha(h, ctx, len(used), guard_bits),
        "tags": filled[-8:],
    }


def guard_vectors(plan: Plan) -> list[dict[str, Any]]:
    """The batches of m1 to m4, and one of a plan with 16 bits whose presence does not fill its bytes."""
    lines = []
    for number, meter in enumerate(METERS):
        values = readings(number)
        lines.append(
            lines_of(
                meter,
                plan.plan_id,
                WINDOW,
                plan.layout.encode({"import_wh": values}).tolist(),
                [int(value >= 0) for value in values],
                slots=RING.slots,
                guard_bits=plan.guard_bits,
            )
        )
    # Two quantities of three intervals: readings, present, readings, present.
    used = [70_000, 0, 1, 1, 0, 1, 0, 65_536, 131_071, 0, 1, 1]
    lines.append(
        lines_of(
            "meter-of-two",
            "p0123456789abcdef",
            2**48 - 1,
            used,
            [1, 0, 1, 0, 1, 1],
            slots=64,
            guard_bits=16,
        )
    )
    return lines


def main(directory: Path) -> None:
    """Make every vector anew, with new CKKS keys and noise."""
    authority, aggregator = (SigningKey.from_private_bytes(bytes([byte]) * 32) for byte in (1, 2))
    ingest_secret = bytes([3]) * 32
    context, public_key = new_context(RING)
    plan = plan_of(authority, key_id_of(public_key))
    bundle = Bundle(plan=plan, public_key=public_key)
    guards, planes = Guards(plan), Planes(RING)
    vectors, ciphertexts, proofs, envelopes = {}, {}, {}, {}
    for number, (meter, group) in enumerate(METERS.items()):
        slots, proofs[meter] = guards.fill(
            WINDOW,
            plan.layout.encode({"import_wh": readings(number)}),
            guard_key=second_guards.guard_key(GUARD_SECRET, meter),
            home_key=second_guards.home_key(GUARD_SECRET),
        )
        vectors[meter] = ts.ckks_vector(context, slots.astype(float).tolist(), plan.scale).serialize()
        ciphertexts[meter] = planes.pack(from_tenseal(vectors[meter], RING, plan.scale))
        header = Header(
            plan=plan.plan_id,
            key=plan.key_id,
            meter=meter,
            group=group,
            window=WINDOW,
            proof=proofs[meter],
        )
        key = envelope_key(derive_key(ingest_secret, meter))
        envelopes[meter] = seal_envelope(header, ciphertexts[meter], key)

    def total(group: str, pieces: tuple[Piece, ...], meters: list[str]) -> bytes:
        modulus = np.array(RING.primes, np.uint64)[:, None]
        residues = sum(planes.unpack(ciphertexts[meter]) for meter in meters) % modulus
        header = TotalHeader(
            plan=plan.plan_id,
            key=plan.key_id,
            aggregator="main",
            group=group,
            window=WINDOW,
            part=0,
            meters=len(meters),
            roster=7,
            pieces=pieces,
        )
        return seal_total(header, planes.pack(residues), aggregator)

    first = [meter for meter, group in METERS.items() if group == "north/f1"]
    listed = MemberList(bitmap_of((1, 2, 3)), b"".join(proofs[meter] for meter in first))
    alone = Piece("north/f2", 0, 1, MemberList(bitmap_of((0,)), proofs["m4"]))
    aggregator_key = derive_key(ingest_secret, "aggregator/main")
    north, grid = (TotalKey(plan.plan_id, group, WINDOW, 0) for group in ("north", "grid"))
    keys = {
        "authority": authority.private_bytes().hex(),
        "aggregator": aggregator.private_bytes().hex(),
        "ingest_secret": ingest_secret.hex(),
        "guard_secret": GUARD_SECRET.hex(),
    }
    files = {
        "keys.json": json.dumps(keys, indent=1).encode() + b"\n",
        "guards.json": json.dumps(guard_vectors(plan)).encode() + b"\n",
        "secret_context.bin": context.serialize(
            save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
        ),
        "plan.bin": plan.encode(),
        "bundle.bin": bundle.encode(authority),
        "roster.bin": Roster.of(
            7,
            [RosterEntry(meter, group, 86_400) for meter, group in METERS.items()],
            [RosterPlan("p" + "0" * 16, 0, retired=True), RosterPlan(plan.plan_id, plan.start_s)],
            [FormerPlace(FORMER, "north/f1")],
        ).encode(authority),
        "ckks_vector.bin": vectors["m1"],
        "envelope.bin": envelopes["m1"],
        "receipt.bin": Receipt(
            plan=plan.plan_id, meter="m1", committed=(WINDOW,), refused=((WINDOW + 1, "early"),)
        ).encode(derive_key(ingest_secret, "m1")),
        "total.bin": total("north/f1", (Piece("north/f1", 0, 3, listed),), first),
        "rollup.bin": total("north", (Piece("north/f1", 0, 3), alone), list(METERS)),
        "total_receipt.bin": TotalReceipt(
            aggregator="main", stored=(north,), refused=((*grid, "unsound"),)
        ).encode(aggregator_key),
        "status.bin": Status(
            online=True, version="0.1.0", incarnation="0123456789abcdef", backlog=5
        ).encode(),
    }
    for name, data in files.items():
        with (directory / name).open("xb") as file:
            file.write(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
