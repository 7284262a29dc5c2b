"""The readers of state on disk, as a decoder to be fuzzed."""

import json
from contextlib import ExitStack, suppress
from pathlib import Path

import msgpack

from gridhe.aggregator.fold.rows import PieceRef, TotalRow
from gridhe.aggregator.state.database import Database
from gridhe.aggregator.state.enrolment import RosterTable
from gridhe.aggregator.state.members import Members
from gridhe.aggregator.state.strands import Strands
from gridhe.aggregator.state.totals import Totals
from gridhe.config.settings import MeterSettings
from gridhe.errors import StateError
from gridhe.keyring.release.answers import Answer
from gridhe.keyring.release.claims import claim_of_record
from gridhe.keyring.release.ledger import Ledger, verify_ledger
from gridhe.meter_agent.outbox import Outbox
from gridhe.meter_agent.windows import WindowBuilder
from gridhe.wire.codec import pack
from gridhe.wire.total import (
    TotalKey,
)
from gridhe_testing.decoder import Decoder, seeds_of, small_plan


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
        seeds=seeds_of(
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
