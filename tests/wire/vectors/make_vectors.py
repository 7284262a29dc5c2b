"""Writes the golden vectors of wire version 1. Run once; they are kept for ever (see README.md).

python make_vectors.py DIRECTORY   refuses to touch a file that is there
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import tenseal as ts

from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.envelope import Header, seal_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.planes import Planes
from gridhe.wire.receipt import Receipt, TotalReceipt
from gridhe.wire.roster import Roster, RosterEntry, RosterPlan
from gridhe.wire.signing import SigningKey, authority_id
from gridhe.wire.status import Status
from gridhe.wire.tenseal_format import from_tenseal
from gridhe.wire.total import Piece, TotalHeader, seal_total

WINDOW = 19_700
METERS = ("m1", "m2", "m3")
RING = CkksParameters(2048, (40, 14))


def readings(number: int) -> np.ndarray:
    """Meter `number`'s readings: one missing, one at the largest, the rest in between."""
    values = (np.arange(24) * 37 + number * 101) % 999
    values[number] = -1
    values[number + 5] = 1_000
    return values


def main(directory: Path) -> None:
    """Make every vector anew, with new CKKS keys and noise."""
    authority, aggregator = (SigningKey.from_private_bytes(bytes([byte]) * 32) for byte in (1, 2))
    ingest_secret = bytes([3]) * 32
    context = ts.context(
        ts.SCHEME_TYPE.CKKS, RING.ring_degree, coeff_mod_bit_sizes=list(RING.prime_bits), n_threads=1
    )
    only = {"save_galois_keys": False, "save_relin_keys": False}
    public_key = context.serialize(save_public_key=True, save_secret_key=False, **only)
    plan = Plan(
        authority=authority_id(authority.verify_key),
        key_id=key_id_of(public_key),
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
    )
    vectors, envelopes, total = [], [], np.zeros((2, 1, RING.ring_degree), np.uint64)
    planes = Planes(RING)
    for number, meter in enumerate(METERS):
        slots = np.zeros(RING.slots)
        slots[: plan.layout.used] = plan.layout.encode({"import_wh": readings(number)})
        vectors.append(ts.ckks_vector(context, slots.tolist(), plan.scale).serialize())
        residues = from_tenseal(vectors[-1], RING, plan.scale)
        total = (total + residues) % np.array(RING.primes, np.uint64)[:, None]
        header = Header(plan=plan.plan_id, key=plan.key_id, meter=meter, group="north/f1", window=WINDOW)
        envelopes.append(seal_envelope(header, planes.pack(residues), derive_key(ingest_secret, meter)))
    members = sum(int.from_bytes(hashlib.sha256(meter.encode()).digest(), "big") for meter in METERS)
    total_header = TotalHeader(
        plan=plan.plan_id,
        key=plan.key_id,
        aggregator="main",
        group="north",
        window=WINDOW,
        part=0,
        meters=3,
        members=(members % 2**256).to_bytes(32, "big"),
        pieces=(Piece("north/f1", 0, 3),),
    )
    files = {
        "keys.json": json.dumps(
            {
                "authority": authority.private_bytes().hex(),
                "aggregator": aggregator.private_bytes().hex(),
                "ingest_secret": ingest_secret.hex(),
            },
            indent=1,
        ).encode()
        + b"\n",
        "secret_context.bin": context.serialize(save_public_key=False, save_secret_key=True, **only),
        "plan.bin": plan.encode(),
        "bundle.bin": Bundle(plan=plan, public_key=public_key).encode(authority),
        "roster.bin": Roster.of(7, [RosterEntry(meter, "north/f1", 86_400) for meter in METERS]).encode(
            authority
        ),
        "roster_plans.bin": Roster.of(
            8,
            [RosterEntry(meter, "north/f1", 86_400) for meter in METERS],
            [RosterPlan("p" + "0" * 16, 0, retired=True), RosterPlan(plan.plan_id, plan.start_s)],
        ).encode(authority),
        "ckks_vector.bin": vectors[0],
        "envelope.bin": envelopes[0],
        "receipt.bin": Receipt(
            plan=plan.plan_id, meter="m1", committed=(WINDOW,), refused=((WINDOW + 1, "early"),)
        ).encode(derive_key(ingest_secret, "m1")),
        "total.bin": seal_total(total_header, planes.pack(total), aggregator),
        "total_receipt.bin": TotalReceipt(
            aggregator="main", stored=((plan.plan_id, "north", WINDOW, 0), (plan.plan_id, "grid", WINDOW, 0))
        ).encode(derive_key(ingest_secret, "aggregator/main")),
        "total_receipt_refused.bin": TotalReceipt(
            aggregator="main",
            stored=((plan.plan_id, "north", WINDOW, 0),),
            refused=((plan.plan_id, "grid", WINDOW, 0, "size"),),
        ).encode(derive_key(ingest_secret, "aggregator/main")),
        "status.bin": Status(
            online=True, version="0.1.0", incarnation="0123456789abcdef", backlog=5
        ).encode(),
    }
    for name, data in files.items():
        with (directory / name).open("xb") as file:
            file.write(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
