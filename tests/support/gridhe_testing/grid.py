"""A small grid with real keys: an authority, a plan, enrolled meters and their real envelopes."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gridhe.aggregator.engine import Engine, Outgoing
from gridhe.aggregator.state.database import Database
from gridhe.bench.authority import MadeUpAuthority
from gridhe.config.settings import AggregatorSettings, CkksSettings, PlanSettings, QuantitySettings, Settings
from gridhe.meter_agent.sealing import Sealer
from gridhe.wire import topics
from gridhe.wire.credential import DeviceCredential
from gridhe.wire.envelope import Header, envelope_key, seal_envelope
from gridhe.wire.receipt import Receipt, TotalReceipt
from gridhe.wire.roster import FormerPlace, RosterEntry
from gridhe.wire.total import MemberList, Total, TotalKey, open_total
from gridhe_testing.totals import Batch, make_batch, member_list

WINDOW_S = 3_600
FIRST_WINDOW = 480_000


@dataclass
class Grid(MadeUpAuthority):
    """An authority and meters, for tests that play every role except the aggregator."""

    directory: Path
    minimum_meters: int = 3
    aggregator_settings: AggregatorSettings = field(default_factory=AggregatorSettings)
    groups: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {
            "north/f1": [f"a{i}" for i in range(5)],
            "north/f2": [f"b{i}" for i in range(4)],
            "south/f1": [f"c{i}" for i in range(3)],
        }
    )
    largest_rollup: int = 50
    largest_group: int = 40
    ring: tuple[int, tuple[int, ...]] = (4096, (48, 41, 20))
    largest: int = 4_000
    horizon_s: float = 50 * 365 * 86_400

    def __post_init__(self) -> None:
        settings = Settings(
            ckks=CkksSettings(flooding_bits=0, ring_degree=self.ring[0], prime_bits=self.ring[1]),
            plan=PlanSettings(
                window_s=WINDOW_S,
                interval_s=900,
                quantities=(QuantitySettings(largest=self.largest, bins=4),),
                largest_group=self.largest_group,
                largest_rollup=self.largest_rollup,
                minimum_meters=self.minimum_meters,
                small_groups="accepted",
                grace_s=60,
                late_s=600,
                horizon_s=self.horizon_s,
            ),
        )
        super().__init__(settings, FIRST_WINDOW)
        self.roster_version, self.roster = 0, b""
        self.places: set[tuple[str, str]] = set()  # all (meter, group) that a roster named
        self.database: Database | None = None
        self.engine = self.start()
        self.engine.take_bundle(self.signed_bundle())
        self.enrol()

    @property
    def now(self) -> float:
        """Just after the first window."""
        return float(self.plan.window_start_s(FIRST_WINDOW + 1) + 1)

    def start(self) -> Engine:
        """A new engine on the state directory; uncommitted batches of the last one are lost."""
        self.stop()
        self.database = Database(
            self.directory, authority=self.credential.authority, aggregator=self.credential.aggregator
        )
        self.engine = Engine(
            database=self.database, credential=self.credential, settings=self.aggregator_settings
        )
        return self.engine

    def stop(self) -> None:
        if self.database is not None:
            self.database.close()
            self.database = None

    def enrol(
        self,
        *extra: RosterEntry,
        groups: dict[str, Sequence[str]] | None = None,
        now: float | None = None,
    ) -> None:
        self.roster_version += 1
        entries = [
            RosterEntry(meter, group) for group, meters in (groups or self.groups).items() for meter in meters
        ]
        here = {(entry.meter, entry.group) for entry in (*entries, *extra)}
        former = [FormerPlace(*place) for place in sorted(self.places - here)]
        self.places |= here
        self.roster = self.signed_roster([*entries, *extra], self.roster_version, former)
        self.engine.take_roster(self.roster, self.now if now is None else now)

    def group_of(self, meter: str) -> str:
        return next(group for group, meters in self.groups.items() if meter in meters)

    def device(self, meter: str, group: str | None = None) -> DeviceCredential:
        return self.credential_of(meter, group or self.group_of(meter))

    def readings(self, meter: str, window: int = FIRST_WINDOW) -> np.ndarray:
        """Readings that differ for every meter and window, one of them missing for some."""
        seed = int.from_bytes(meter.encode(), "big") * 7 + window
        values = np.random.default_rng(seed).integers(0, self.largest + 1, self.plan.intervals)
        if seed % 3 == 0:
            values[seed % self.plan.intervals] = -1
        return values

    def envelope(self, meter: str, window: int = FIRST_WINDOW, group: str | None = None) -> bytes:
        return Sealer(self.encryptor, self.device(meter, group)).seal(
            window, {"import_wh": self.readings(meter, window)}
        )

    def batch(self, meter: str, window: int = FIRST_WINDOW, group: str | None = None) -> Batch:
        """The meter's batch, newly encrypted; the same slots at every call."""
        readings = {"import_wh": self.readings(meter, window)}
        return make_batch(self.encryptor, self.device(meter, group), window, readings)

    def ciphertext(self, meter: str) -> bytes:
        return self.batch(meter).ciphertext

    def forged(self, meter: str, *, ciphertext: bytes, **changes: Any) -> bytes:
        """An envelope of this meter around any ciphertext, with any header."""
        header = Header(
            **{
                "plan": self.plan.plan_id,
                "key": self.plan.key_id,
                "meter": meter,
                "group": self.group_of(meter),
                "window": FIRST_WINDOW,
                "proof": bytes(self.plan.proof_bytes),
                **changes,
            }
        )
        return seal_envelope(header, ciphertext, envelope_key(self.ingest_key_of(header.meter)))

    def member_list(self, group: str, meters: Sequence[str], window: int = FIRST_WINDOW) -> MemberList:
        """The list of a part with these members, by the present roster."""
        names = sorted(meter for meter, place in self.places if place == group)
        return member_list(names, {meter: self.batch(meter, window).proof for meter in meters})

    def send(self, meter: str, window: int = FIRST_WINDOW, now: float | None = None) -> bytes:
        payload = self.envelope(meter, window)
        self.deliver(meter, payload, now)
        return payload

    def deliver(self, meter: str, payload: bytes, now: float | None = None) -> None:
        topic = topics.batch(self.group_of(meter), meter)
        self.engine.receive(topic, payload, self.now if now is None else now)

    def expected(self, meters: Sequence[str], window: int = FIRST_WINDOW) -> np.ndarray:
        """The slots' integer sums over these meters, from their plaintext."""
        slots = np.zeros(self.plan.layout.used, np.int64)
        for meter in meters:
            slots += self.plan.layout.encode({"import_wh": self.readings(meter, window)})
        return slots

    def decrypted(self, total: Total) -> np.ndarray:
        """All used slots of a total, by plain TenSEAL."""
        return self.key.decrypted(total.ciphertext)

    def totals(self, outgoing: Sequence[Outgoing]) -> dict[tuple[str, int, int], Total]:
        """The totals among these messages, verified: {(group, window, part): total}."""
        found = {}
        for one in outgoing:
            if one.topic.startswith(f"{topics.PREFIX}/total/"):
                total = open_total(one.payload, len(one.payload))
                total.check_signature(self.aggregator_key.verify_key)
                assert topics.parse_total(one.topic) == total.header.group
                found[total.header.group, total.header.window, total.header.part] = total
        return found

    def receipts(self, outgoing: Sequence[Outgoing]) -> dict[str, Receipt]:
        """The receipts among these messages, opened by the meters they are for."""
        found = {}
        for one in outgoing:
            if one.topic.startswith(f"{topics.PREFIX}/receipt/"):
                meter = one.topic.rpartition("/")[2]
                found[meter] = Receipt.decode(one.payload, self.ingest_key_of(meter))
        return found

    def settle(self, now: float | None = None) -> dict[tuple[str, int, int], Total]:
        """Commit, and let the authority open each total, until no more come. Returns them all."""
        found: dict[tuple[str, int, int], Total] = {}
        while totals := self.totals(self.engine.commit(self.now if now is None else now)):
            found |= totals
            self.acknowledge(*totals)
        return found

    def stored(self, *keys: tuple[str, int, int]) -> bytes:
        """The authority's receipt for totals (group, window, part) that it has opened."""
        receipt = TotalReceipt(
            aggregator="main",
            stored=tuple(TotalKey(self.plan.plan_id, group, window, part) for group, window, part in keys),
        )
        return receipt.encode(self.ingest_key_of("aggregator/main"))

    def acknowledge(self, *keys: tuple[str, int, int]) -> None:
        """The engine takes that receipt."""
        self.engine.take_total_receipt(self.stored(*keys))

    def answered(self, outgoing: Sequence[Outgoing], now: float | None = None) -> list[Outgoing]:
        """These messages and all that follow from them: the authority opens every total."""
        everything, rest = list(outgoing), list(outgoing)
        while keys := list(self.totals(rest)):
            self.acknowledge(*keys)
            rest = self.engine.commit(self.now if now is None else now)
            everything += rest
        return everything

    @property
    def meters(self) -> list[str]:
        return list(itertools.chain.from_iterable(self.groups.values()))
