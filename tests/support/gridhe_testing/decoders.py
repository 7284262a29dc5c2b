"""For any bytes a decoder must return or raise its own error. For fuzzing and its quick form.

Signatures and tags would stop a fuzzer at the door. So the first byte of an input chooses how far inside
the rest begins: as it came, or sealed again with the real key, as only an authentic but hostile sender could.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gridhe.aggregator.fold.rows import PieceRef, TotalRow
from gridhe.aggregator.state.database import Database
from gridhe.aggregator.state.enrolment import RosterTable
from gridhe.aggregator.state.members import Members
from gridhe.aggregator.state.strands import Strands
from gridhe.aggregator.state.totals import Totals
from gridhe.config.settings import CkksSettings, MeterSettings, PlanSettings, QuantitySettings, Settings
from gridhe.errors import BundleError, CredentialError, EnvelopeError, StateError
from gridhe.keyring.release.answers import Answer
from gridhe.keyring.release.claims import claim_of_record
from gridhe.keyring.release.ledger import Ledger, verify_ledger
from gridhe.meter_agent.outbox import Outbox
from gridhe.meter_agent.windows import WindowBuilder
from gridhe.plan.plan import Plan
from gridhe.plan.planner import choose, make_plan
from gridhe.wire.bundle import Bundle, key_id_of
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
from gridhe.wire.signing import SigningKey, authority_id, sign_record
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

MAX_BYTES = 1 << 20
KEY = bytes(range(32))
NONCE = bytes(12)
SIGNER = SigningKey.from_private_bytes(KEY)  # fixed, so that an input means the same in every run
PUBLIC_KEY = b"a public key is any bytes to a bundle's decoder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """`feed` any bytes; anything it raises but `errors` is a finding. `modes`: values of the first byte."""

    feeders: tuple[Callable[[bytes], object], ...]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    close: Callable[[], object] = field(default=lambda: None)  # called after the last input

    def feed(self, data: bytes) -> None:
        if data:
            with suppress(*self.errors):
                self.feeders[data[0] % len(self.feeders)](data[1:])


def small_plan() -> Plan:
    settings = Settings(
        ckks=CkksSettings(flooding_bits=0, ring_degree=2048, prime_bits=(40, 14)),
        plan=PlanSettings(
            window_s=3_600,
            interval_s=900,
            quantities=(QuantitySettings(largest=500, bins=4, statistics=("sum", "min")),),
            largest_group=20,
            largest_rollup=20,
            minimum_meters=5,
        ),
    )
    return make_plan(
        settings,
        choose(settings),
        authority=authority_id(SIGNER.verify_key),
        key_id=key_id_of(PUBLIC_KEY),
        first_window=0,
    )


def _seeds(*inside: bytes | tuple[bytes, ...]) -> tuple[bytes, ...]:
    """One seed for each mode and example: its number, then the bytes."""
    found = []
    for mode, examples in enumerate(inside):
        for example in examples if isinstance(examples, tuple) else (examples,):
            found.append(bytes([mode]) + example)
    return tuple(found)


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
        seeds=_seeds(
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
        seeds=_seeds(batches, totals, msgpack.unpackb(batches)[0], msgpack.unpackb(totals)[0], status),
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
        seeds=_seeds(seal_total(header, b"c" * 40, SIGNER), header.encode(), header.encode()),
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
        seeds=_seeds(whole, msgpack.unpackb(whole)[1], plan.encode()),
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
        seeds=_seeds(whole, msgpack.unpackb(whole)[1]),
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
        seeds=_seeds(*saved),
    )


def state(directory: Path) -> Decoder:
    """Rows as a damaged disk could return them, with and without a valid checksum."""
    database = Database(directory / "state", authority="a", aggregator="main")
    totals, key = Totals(database, Strands(database, bytes(32))), TotalKey("p" + "0" * 16, "north", 7, 0)
    row = TotalRow(
        key=key,
        closed=False,
        meters=2,
        first_at=1.5,
        pieces=(PieceRef("north/f1", 0, 2, True),),
        ciphertext=b"c" * 40,
    )
    ledger = directory / "ledger.jsonl"
    outbox = Outbox(directory / "outbox", authority="a" * 17, settings=MeterSettings())
    databases = ExitStack()
    databases.callback(database.close)
    databases.callback(outbox.close)

    def insert(sql: str, *values: object) -> None:
        # The database may refuse a value (an integer too large, text that is no UTF-8): nothing to read then.
        with suppress(OverflowError, UnicodeEncodeError, StateError), database.transaction():
            database.write(sql, *values)

    def columns(data: bytes, count: int) -> tuple[object, ...]:
        """`count` values as SQLite has them: integers, floats, text, bytes or nothing."""
        try:
            found = msgpack.unpackb(data, strict_map_key=False)
        except Exception:  # junk: this many byte strings
            found = [data] * count
        found = found if isinstance(found, list) else [found]
        plain = [value if isinstance(value, int | float | str | bytes) else None for value in found]
        return tuple((plain + [None] * count)[:count])

    def read_total(data: bytes) -> None:
        insert("DELETE FROM totals")
        insert(
            "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(key.plan, key.window, key.group, key.part),
            *columns(data, 7),
        )
        totals.total(key)

    def read_members(data: bytes) -> None:
        insert("DELETE FROM totals")
        insert("DELETE FROM members")
        insert("INSERT INTO members VALUES (1, ?, 'north', 7, 0, ?, ?)", key.plan, *columns(data, 2))
        Members(database).counted((key.plan, "north", 7))

    def read_meter(data: bytes) -> None:
        insert("DELETE FROM meters")
        insert("INSERT INTO meters VALUES ('m1', ?, ?, ?, ?, ?)", *columns(data, 5))
        RosterTable(database).meter("m1")

    def read_plans(data: bytes) -> None:
        insert("DELETE FROM plans")
        insert("INSERT INTO plans VALUES (?, ?)", "p" + "0" * 16, data)
        database.plans()

    def read_outbox(data: bytes) -> None:
        values = columns(data, 8)
        with suppress(OverflowError, UnicodeEncodeError, StateError):
            rows = outbox._db
            rows.write("DELETE FROM batches")
            rows.write("INSERT OR REPLACE INTO journal VALUES ('m1', ?, ?)", *values[:2])
            rows.write("INSERT OR REPLACE INTO sealed VALUES ('m1', ?, ?)", *values[2:4])
            rows.write("INSERT INTO batches VALUES (1, 'm1', ?, ?, 'waiting', NULL, ?, ?)", *values[4:])
        for read in (lambda: outbox.journal("m1"), lambda: outbox.payload(1), outbox.sealed_until_s):
            with suppress(StateError):
                read()
        outbox.waiting("m1")

    def read_ledger(data: bytes) -> None:
        ledger.write_bytes(data)
        verify_ledger(ledger, on_record=lambda record: None)

    def read_decision(data: bytes) -> None:
        with suppress(ValueError, RecursionError):
            record = json.loads(data)
            if isinstance(record, dict):
                claim_of_record(record)

    with database.transaction():
        totals.save(row)
    plain = list(database.query("SELECT * FROM totals")[0][4:])
    ledger.unlink(missing_ok=True)
    with Ledger(ledger, now=lambda: "2026-01-01T00:00:00Z") as book:
        book.append("decided", plan=key.plan)
        book.append("answered", plan=key.plan)
    window_builder = WindowBuilder(
        quantities=("import_wh",), kind="register", window_s=3_600, interval_s=900, patience_s=60.0
    )
    decision = (
        b'{"plan":"p","key":"k","aggregator":"a","group":"g","window":1,"part":0,"meters":5,'
        b'"members":"00","pieces":[["g",0,5]],"content":"00","n":1}'
    )
    return Decoder(
        feeders=(
            read_total,
            read_members,
            read_meter,
            read_plans,
            Answer.decode,
            read_ledger,
            read_decision,
            WindowBuilder.from_state,
            read_outbox,
        ),
        close=databases.close,
        errors=(StateError,),
        seeds=_seeds(
            pack(plain),
            pack([b"\3", bytes(16)]),
            pack(["north", 0, 0, 1, 12345]),
            small_plan().encode(),
            Answer(blocks={"q": {"present": (1, 2)}}, withheld={"q": ("", "")}, expected=2).encode(),
            ledger.read_bytes(),
            decision,
            window_builder.state(),
            pack([window_builder.state(), bytes(16), 7_200, bytes(16), "p", 7, b"payload", bytes(16)]),
        ),
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
    }
