"""A real engine whose ciphertexts can be read, for tests of closing.

Every meter's ciphertext is a vector with one 1 at the meter's own place, in a real plan's planes. So a total
shows which meters it holds without a key. A meter's proof starts with its place, too.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gridhe.aggregator.engine import Engine, Outgoing
from gridhe.aggregator.state.database import Database
from gridhe.config.settings import AggregatorSettings
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity
from gridhe.wire import topics
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.credential import AggregatorCredential
from gridhe.wire.envelope import Header, envelope_key, seal_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.planes import Planes
from gridhe.wire.receipt import Receipt, TotalReceipt
from gridhe.wire.roster import FormerPlace, Roster, RosterEntry
from gridhe.wire.signing import SigningKey, authority_id
from gridhe.wire.total import Piece, Total, TotalKey, open_total, positions_of
from gridhe_testing.totals import member_list

WINDOW, LATER = 480_000, 480_100
PUBLIC_KEY = b"what the aggregator never looks into"
RING = CkksParameters(2048, (40, 14))
PLANES = Planes(RING)
AUTHORITY = SigningKey.from_private_bytes(bytes([1]) * 32)
SECRET = bytes([3]) * 32
Place = tuple[str, int, int]  # group, window, part


def plan_of(**changes: Any) -> Plan:
    """A plan of windows of an hour, with a horizon of a day."""
    fields: dict[str, Any] = {
        "authority": authority_id(AUTHORITY.verify_key),
        "key_id": key_id_of(PUBLIC_KEY),
        "first_window": WINDOW,
        "window_s": 3_600,
        "interval_s": 3_600,
        "quantities": (Quantity(name="import_wh", unit="Wh", largest=1_000, statistics=("sum",)),),
        "largest_group": 40,
        "largest_rollup": 50,
        "minimum_meters": 3,
        "grace_s": 60.0,
        "late_s": 600.0,
        "early_s": 0.0,
        "horizon_s": 86_400.0,
        "parameters": RING,
        "scale_bits": 20,
        "flooding_bits": 0,
        "decryptions": 1_000,
        "guard_bits": 14,
    }
    return Plan(**{**fields, **changes})


@dataclass
class World:
    """An engine on a real database, and meters `m0`, `m1`, ... by group."""

    directory: Path
    groups: dict[str, list[str]]
    plan: Plan = field(default_factory=plan_of)
    aggregator_key: SigningKey = field(default_factory=SigningKey.generate)
    settings: AggregatorSettings = field(default_factory=AggregatorSettings)
    database: Database | None = None
    version: int = 0
    expired_before: int = 0
    given_up_before: int = 0
    totals: dict[Place, Total] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.number = {meter: i for i, meter in enumerate(m for each in self.groups.values() for m in each)}
        self.engine = self.start()
        self.engine.take_bundle(Bundle(plan=self.plan, public_key=PUBLIC_KEY).encode(AUTHORITY))
        self.enrol()

    def start(self) -> Engine:
        """A new engine on the state directory, with the credential of now."""
        self.stop()
        credential = AggregatorCredential(
            aggregator="main",
            password="x" * 16,
            ingest_secret=SECRET,
            signing_key=self.aggregator_key.private_bytes(),
            authority_key=AUTHORITY.verify_key,
        )
        self.database = Database(self.directory, authority=credential.authority, aggregator="main")
        self.engine = Engine(database=self.database, credential=credential, settings=self.settings)
        return self.engine

    @property
    def expired(self) -> int:
        """Batches in parts that ended unpublished, in this engine and those before it."""
        return self.expired_before + self.engine.counters.expired_batches

    @property
    def given_up(self) -> int:
        """Batches in unsound parts, in this engine and those before it."""
        return self.given_up_before + self.engine.counters.unsound_batches

    def stop(self) -> None:
        if self.database is not None:
            self.expired_before, self.given_up_before = self.expired, self.given_up
            self.database.close()
            self.database = None

    def enrol(self, without: Iterable[str] = ()) -> None:
        """Publish the roster, without some meters."""
        self.version += 1
        gone = set(without)
        entries = [
            RosterEntry(m, group) for group, each in self.groups.items() for m in each if m not in gone
        ]
        former = [FormerPlace(m, group) for group, each in self.groups.items() for m in each if m in gone]
        self.engine.take_roster(Roster.of(self.version, entries, (), former).encode(AUTHORITY), self.now)

    @property
    def now(self) -> float:
        """Just after the first window."""
        return float(self.plan.window_start_s(WINDOW + 1) + 1)

    def group_of(self, meter: str) -> str:
        return next(group for group, meters in self.groups.items() if meter in meters)

    def send(self, meter: str, window: int = WINDOW, now: float | None = None) -> None:
        residues = np.zeros(PLANES.shape, np.uint64)
        residues[0, 0, self.number[meter]] = 1
        residues[1] = 1  # else it would be a plaintext
        header = Header(
            plan=self.plan.plan_id,
            key=self.plan.key_id,
            meter=meter,
            group=self.group_of(meter),
            window=window,
            proof=self.proof_of(meter, window),
        )
        payload = seal_envelope(header, PLANES.pack(residues), envelope_key(derive_key(SECRET, meter)))
        moment = self.now if now is None else now
        self.engine.receive(topics.batch(header.group, meter), payload, moment)

    def proof_of(self, meter: str, window: int = WINDOW) -> bytes:
        """The proof of a meter's only batch for a window."""
        return self.number[meter].to_bytes(4, "big") + window.to_bytes(4, "big") + b"p"

    def piece(self, group: str, part: int, meters: Sequence[str], window: int = WINDOW) -> Piece:
        """A piece with the list of its members."""
        proofs = {meter: self.proof_of(meter, window) for meter in meters}
        return Piece(group, part, len(meters), member_list(sorted(self.groups[group]), proofs))

    def listed(self, piece: Piece, window: int) -> set[str]:
        """The meters in a piece's list, whose proofs must be theirs."""
        assert piece.members is not None
        names = sorted(self.groups[piece.group])
        meters = [names[at] for at in positions_of(piece.members.bitmap)]
        assert piece.members.proofs == b"".join(self.proof_of(meter, window) for meter in meters)
        assert len(meters) == piece.meters
        return set(meters)

    def commit(self, now: float | None = None) -> dict[Place, Total]:
        """Commit, and check and keep what comes out."""
        return self.take(self.engine.commit(self.now if now is None else now))

    def settle(self, now: float | None = None) -> dict[Place, Total]:
        """Commit, and let the authority open each total, until no more come. Returns them all."""
        found: dict[Place, Total] = {}
        while totals := self.commit(now):
            found |= totals
            self.answer(stored=totals)
        return found

    def take(self, outgoing: Iterable[Outgoing]) -> dict[Place, Total]:
        """The totals among these messages."""
        found = {}
        for one in outgoing:
            if one.topic.startswith(f"{topics.PREFIX}/total/"):
                total = open_total(one.payload, len(one.payload))
                total.check_signature(self.aggregator_key.verify_key)
                found[total.header.group, total.header.window, total.header.part] = total
            else:
                meter = one.topic.rpartition("/")[2]
                self.receipts.append(Receipt.decode(one.payload, derive_key(SECRET, meter)))
        self.totals |= found
        return found

    def answer(
        self, stored: Iterable[Place] = (), refused: Iterable[Place] = (), reason: str = "size"
    ) -> None:
        """The authority's receipt."""
        self.judge([*((place, "") for place in stored), *((place, reason) for place in refused)])

    def judge(self, verdicts: Iterable[tuple[Place, str]]) -> None:
        """The authority's receipt; a reason of "" stands for `stored`."""
        plan = self.plan.plan_id
        verdicts = list(verdicts)
        receipt = TotalReceipt(
            aggregator="main",
            stored=tuple(TotalKey(plan, *place) for place, reason in verdicts if not reason),
            refused=tuple((plan, *place, reason) for place, reason in verdicts if reason),
        )
        self.engine.take_total_receipt(receipt.encode(derive_key(SECRET, "aggregator/main")))

    def members(self, total: Total) -> Counter[str]:
        """How often each meter is in a total."""
        counts = PLANES.unpack(total.ciphertext)[0, 0]
        return Counter({meter: int(counts[i]) for meter, i in self.number.items() if counts[i]})
