"""For any bytes a decoder must return or raise its own error. For fuzzing and its quick form.

Signatures and tags would stop a fuzzer at the door. So the first byte of an input chooses how far inside
the rest begins: as it came, or sealed again with the real key, as only an authentic but hostile sender could.
"""

from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gridhe.errors import BundleError, CredentialError, EnvelopeError
from gridhe.wire.bundle import Bundle
from gridhe.wire.codec import pack, tag
from gridhe.wire.credential import (
    AggregatorCredential,
    DeviceCredential,
    FleetCredential,
    load_aggregator,
    load_device,
    load_fleet,
)
from gridhe.wire.envelope import Header, open_envelope, seal_envelope
from gridhe.wire.planes import Planes
from gridhe.wire.receipt import Receipt, TotalReceipt
from gridhe.wire.roster import FormerPlace, Roster, RosterEntry, RosterPlan
from gridhe.wire.signing import sign_record
from gridhe.wire.status import Status
from gridhe.wire.total import (
    MemberList,
    Piece,
    TotalHeader,
    TotalKey,
    bitmap_of,
    open_total,
    positions_of,
    seal_total,
)
from gridhe_testing.csv_decoder import csv
from gridhe_testing.decoder import KEY, MAX_BYTES, NONCE, PUBLIC_KEY, SIGNER, Decoder, seeds_of, small_plan
from gridhe_testing.device_decoders import DEVICE_DECODERS
from gridhe_testing.home_decoders import HOME_DECODERS
from gridhe_testing.modbus_decoder import modbus
from gridhe_testing.state_decoder import state


def envelope() -> Decoder:
    plan = small_plan()
    planes = Planes(plan.parameters)
    header = Header(
        plan=plan.plan_id,
        key=plan.key_id,
        meter="m1",
        group="north/f1",
        window=7,
        proof=bytes(range(plan.proof_bytes)),
    )
    ones = planes.pack(np.ones(planes.shape, np.uint64))

    def inside(data: bytes) -> None:
        """A header of the fuzzer's, and a ciphertext that repeats the fuzzer's bytes, validly sealed."""
        size = data[0] if data else 0
        head, rest = data[1 : 1 + size], data[1 + size :] or b"\0"
        ciphertext = (rest * (planes.size // len(rest) + 1))[: planes.size]
        sealed = NONCE + AESGCM(KEY).encrypt(NONCE, ciphertext, head)
        found = open_envelope(pack([head, sealed]), MAX_BYTES)
        planes.check(planes.views(found.open(KEY)))

    encoded = header.encode()
    return Decoder(
        feeders=(lambda data: open_envelope(data, MAX_BYTES).open(KEY), Header.decode, inside),
        errors=(EnvelopeError,),
        seeds=seeds_of(
            (seal_envelope(header, b"c" * 40, KEY), seal_envelope(header, ones, KEY)),
            encoded,
            bytes([len(encoded)]) + encoded + b"\1\0",
        ),
    )


def receipt() -> Decoder:
    batches = Receipt(plan="p" + "0" * 16, meter="m1", committed=(1, 2), refused=((3, "late"),)).encode(KEY)
    total = TotalKey("p" + "0" * 16, "grid", 7, 0)
    totals = TotalReceipt(aggregator="main", stored=(total,), refused=((*total, "size"),)).encode(KEY)
    status = Status(online=True, version="1", incarnation="abc", backlog=3).encode()

    def tagged(domain: bytes, body: bytes) -> bytes:
        return pack([body, tag(KEY, domain, body)])

    return Decoder(
        feeders=(
            lambda data: Receipt.decode(data, KEY),
            lambda data: TotalReceipt.decode(data, KEY),
            lambda body: Receipt.decode(tagged(b"gridhe/v2/receipt/batches\0", body), KEY),
            lambda body: TotalReceipt.decode(tagged(b"gridhe/v2/receipt/totals\0", body), KEY),
            Status.decode,
        ),
        errors=(EnvelopeError,),
        seeds=seeds_of(batches, totals, msgpack.unpackb(batches)[0], msgpack.unpackb(totals)[0], status),
    )


def total() -> Decoder:
    plan = small_plan()
    header = TotalHeader(
        plan=plan.plan_id,
        key=plan.key_id,
        aggregator="main",
        group="north",
        window=7,
        part=0,
        meters=9,
        roster=3,
        pieces=(
            Piece("north/f1", 0, 4),
            Piece("north/f2", 1, 5, MemberList(bitmap_of((0, 2, 3, 8, 11)), bytes(5 * plan.proof_bytes))),
        ),
    )

    def inside(data: bytes) -> None:
        signature = SIGNER.sign(b"gridhe/v2/total\0" + data + b"c")
        found = open_total(pack([data, b"c", signature]), MAX_BYTES)
        found.check_signature(SIGNER.verify_key)
        for piece in found.header.pieces:
            if piece.members is not None:
                positions_of(piece.members.bitmap)

    return Decoder(
        feeders=(
            lambda data: open_total(data, MAX_BYTES).check_signature(SIGNER.verify_key),
            TotalHeader.decode,
            inside,
        ),
        errors=(EnvelopeError,),
        seeds=seeds_of(seal_total(header, b"c" * 40, SIGNER), header.encode(), header.encode()),
    )


def bundle() -> Decoder:
    plan = small_plan()
    whole = Bundle(plan=plan, public_key=PUBLIC_KEY).encode(SIGNER)
    key = SIGNER.verify_key

    def record(data: bytes) -> None:
        Bundle.decode(sign_record(SIGNER, "bundle", msgpack.packb([data, PUBLIC_KEY])), key)

    return Decoder(
        feeders=(
            lambda data: Bundle.decode(data, key),
            lambda body: Bundle.decode(sign_record(SIGNER, "bundle", body), key),
            record,
        ),
        errors=(BundleError,),
        seeds=seeds_of(whole, msgpack.unpackb(whole)[1], plan.encode()),
    )


def roster() -> Decoder:
    key = SIGNER.verify_key
    entries = [RosterEntry("m1", "north/f1"), RosterEntry("m2", "south/f1", 60)]
    former = [FormerPlace("m1", "south/f1"), FormerPlace("m0", "east/f9")]
    whole = Roster.of(3, entries, [RosterPlan("p" + "0" * 16, 60, retired=True)], former).encode(SIGNER)
    return Decoder(
        feeders=(
            lambda data: Roster.decode(data, key),
            lambda body: Roster.decode(sign_record(SIGNER, "roster", body), key),
        ),
        errors=(BundleError,),
        seeds=seeds_of(whole, msgpack.unpackb(whole)[1]),
    )


def credential(directory: Path) -> Decoder:
    path = directory / "credential.json"
    path.touch(mode=0o600)

    def read(load: Callable[[Path], object]) -> Callable[[bytes], None]:
        def feed(data: bytes) -> None:
            path.write_bytes(data)
            load(path)

        return feed

    device = DeviceCredential(
        meter="m1",
        group="north/f1",
        password="p",
        ingest_key=KEY,
        guard_key=KEY,
        home_key=KEY,
        authority_key=SIGNER.verify_key,
    )
    fleet = FleetCredential(devices=(device,), password="p")
    aggregator = AggregatorCredential(
        aggregator="main",
        password="p",
        ingest_secret=KEY,
        signing_key=KEY,
        authority_key=SIGNER.verify_key,
    )
    saved = []
    for each in (device, fleet, aggregator):
        each.save(path)
        saved.append(path.read_bytes())
    return Decoder(
        feeders=(read(load_device), read(load_fleet), read(load_aggregator)),
        errors=(CredentialError,),
        seeds=seeds_of(*saved),
    )


def decoders(directory: Path) -> dict[str, Callable[[], Decoder]]:
    """All of them by name; made when called, `directory` for those that read files."""
    return {
        "envelope": envelope,
        "receipt": receipt,
        "total": total,
        "bundle": bundle,
        "roster": roster,
        "credential": lambda: credential(directory),
        "state": lambda: state(directory),
        "modbus": lambda: modbus(directory),
        "csv": lambda: csv(directory),
        **DEVICE_DECODERS,
        **HOME_DECODERS,
    }
