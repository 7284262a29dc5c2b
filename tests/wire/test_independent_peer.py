"""The example in docs/wire.md, extracted from the page, seals batches that fold exactly."""

import ast
import json
import platform
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature

from gridhe.plan.parameters import CkksParameters
from gridhe.wire import topics
from gridhe.wire.envelope import envelope_key, open_envelope
from gridhe.wire.planes import Planes
from gridhe.wire.receipt import TRANSIENT_REASONS
from gridhe_testing.grid import FIRST_WINDOW, Grid

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wire.md"
# A library to encrypt with, zstd until Python has its own, Ed25519 for signatures, the standard library.
ALLOWED = {
    "tenseal",
    "seal",
    "numpy",
    "msgpack",
    "hmac",
    "os",
    "hashlib",
    "struct",
    "tempfile",
    "zstandard",
    "compression",
    "cryptography",
}


# The binding has wheels for this machine alone; nobody can test it elsewhere.
needs_seal = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="seal-python has wheels for x86-64 only"
)


def blocks() -> list[str]:
    """The page's Python."""
    found = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(found) == 4
    return found


def module_of(sources: list[str]) -> types.ModuleType:
    source = "\n".join(sources)
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert imported <= ALLOWED
    module = types.ModuleType("peer")
    exec(compile(source, str(PAGE), "exec"), module.__dict__)  # noqa: S102 - our own page
    return module


@pytest.fixture(scope="module")
def peer() -> types.ModuleType:
    """The page's Python with TenSEAL, run as a module of its own."""
    return module_of([block for block in blocks() if "import seal" not in block])


@pytest.fixture(scope="module", params=["tenseal", pytest.param("seal", marks=needs_seal)])
def meter(request: pytest.FixtureRequest) -> Callable[..., tuple[str, bytes]]:
    """The page's `batch`, with what one library needs of the page and nothing of the other."""
    other = {"tenseal": "import seal", "seal": "import tenseal"}[request.param]
    module = module_of([block for block in blocks() if other not in block])
    encrypt = getattr(module, f"encrypt_with_{request.param}")

    def batch(*arguments: object) -> tuple[str, bytes]:
        found = module.batch(*arguments, encrypt)
        assert isinstance(found, tuple)
        return found

    return batch


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Grid]:
    made = Grid(tmp_path / "state")
    yield made
    made.stop()


@pytest.fixture
def seal(
    meter: Callable[..., tuple[str, bytes]], grid: Grid, tmp_path: Path
) -> Callable[..., tuple[str, bytes]]:
    """Batches of the page, from nothing but the signed bundle's bytes and a credential file."""
    bundle = grid.bundle.encode(grid.authority)

    def made(name: str, window: int = FIRST_WINDOW) -> tuple[str, bytes]:
        path = tmp_path / f"{name}.json"
        grid.device(name).save(path)
        readings = [None if value < 0 else int(value) for value in grid.readings(name, window)]
        return meter(bundle, json.loads(path.read_text()), window, {"import_wh": readings})

    return made


def all_slots(grid: Grid, meters: list[str]) -> np.ndarray:
    """What every slot must be: the sums of readings and guards."""
    expected: np.ndarray = np.sum([grid.batch(meter).slots for meter in meters], axis=0)
    assert expected.shape == (grid.plan.parameters.slots,)
    np.testing.assert_array_equal(expected[: grid.plan.layout.used], grid.expected(meters))
    return expected


def test_batches_sealed_by_the_pages_example_are_accepted_and_fold_exactly(
    peer: types.ModuleType, grid: Grid, seal: Callable[..., tuple[str, bytes]]
) -> None:
    # Every second meter is the page's, the others are ours: they add up in one total.
    for number, meter in enumerate(grid.meters):
        if number % 2:
            grid.send(meter)
        else:
            topic, payload = seal(meter)
            grid.engine.receive(topic, payload, grid.now)
    assert grid.engine.counters.folded == len(grid.meters)
    assert not grid.engine.counters.rejected
    outgoing = grid.answered(grid.engine.commit(grid.now))

    receipts = {one.topic: one.payload for one in outgoing if "/receipt/" in one.topic}
    for meter in grid.meters:
        receipt = peer.open_receipt(receipts[f"gridhe/v1/receipt/{meter}"], grid.device(meter).ingest_key)
        assert (receipt["meter"], receipt["committed"], receipt["refused"]) == (meter, [FIRST_WINDOW], [])

    totals = grid.totals(outgoing)
    members = {group: list(meters) for group, meters in grid.groups.items()}
    members["north"] = members["north/f1"] + members["north/f2"]
    members["south"] = members["south/f1"]
    members["grid"] = grid.meters
    assert {group for group, _, _ in totals} == members.keys()
    for (group, window, part), total in totals.items():
        assert (window, part, total.header.meters) == (FIRST_WINDOW, 0, len(members[group]))
        np.testing.assert_array_equal(grid.key.all_slots(total.ciphertext), all_slots(grid, members[group]))


def test_totals_are_read_decrypted_and_checked_by_the_pages_example(
    peer: types.ModuleType, grid: Grid, seal: Callable[..., tuple[str, bytes]]
) -> None:
    for meter in grid.meters:
        grid.engine.receive(*seal(meter), grid.now)
    bundle, plan = grid.bundle.encode(grid.authority), msgpack.unpackb(grid.plan.encode())
    roster = grid.roster
    home_key = grid.device("a0").home_key
    lists: dict[str, dict[str, bytes]] = {}
    for one in grid.answered(grid.engine.commit(grid.now)):
        if "/total/" not in one.topic:
            continue
        peer.check_total(one.payload, grid.aggregator_key.verify_key)
        header, slots = peer.decrypt_total(one.payload, bundle, grid.context)
        members: dict[str, bytes] = {}
        for piece in header["pieces"]:
            members |= lists[piece[0]] if len(piece) == 3 else peer.members_of(piece, roster, plan)
        lists[header["group"]] = members
        inside = [
            m
            for m in grid.meters
            if header["group"] in ("grid", grid.group_of(m), grid.group_of(m).split("/")[0])
        ]
        assert sorted(members) == sorted(inside)
        assert header["meters"] == len(inside) == sum(piece[2] for piece in header["pieces"])
        assert members == {meter: grid.batch(meter).proof for meter in inside}
        np.testing.assert_array_equal(slots, all_slots(grid, inside))

        def check(slots: np.ndarray, members: dict[str, bytes], window: int = header["window"]) -> np.ndarray:
            found: np.ndarray = peer.check_guards(
                plan,
                grid.plan.plan_id,
                window,
                slots,
                members,
                lambda name: grid.device(name).guard_key,
                home_key,
            )
            return found

        present = grid.expected(inside)[grid.plan.layout.block("import_wh", "present")]
        np.testing.assert_array_equal(check(slots, members), present)
        for at in (0, grid.plan.intervals, grid.plan.layout.used, len(slots) - 1):
            changed = slots.copy()
            changed[at] += 1
            with pytest.raises(AssertionError):
                check(changed, members)
        with pytest.raises(AssertionError):
            check(slots, members, header["window"] + 1)
        with pytest.raises(AssertionError):
            check(slots, dict(list(members.items())[1:]))
    assert lists.keys() == {"grid", "north", "south", *grid.groups}


def test_the_pages_envelope_has_the_bytes_ours_would_have(
    peer: types.ModuleType, grid: Grid, seal: Callable[..., tuple[str, bytes]]
) -> None:
    topic, payload = seal("a1")
    ours = grid.envelope("a1")
    assert topic == topics.batch("north/f1", "a1")
    assert len(payload) == len(ours)
    envelope = open_envelope(payload, len(payload))
    key = grid.device("a1").ingest_key
    ciphertext = envelope.open(envelope_key(key))
    assert envelope.header_bytes == open_envelope(ours, len(ours)).header_bytes
    np.testing.assert_array_equal(grid.key.all_slots(ciphertext), grid.batch("a1").slots)
    header, opened = peer.open_envelope(ours, key)
    assert header["proof"] == grid.batch("a1").proof
    np.testing.assert_array_equal(grid.key.all_slots(opened), grid.batch("a1").slots)


def test_the_pages_guards_are_those_of_the_golden_vectors(peer: types.ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page[page.index("A batch with few slots") : page.index("### What the authority checks")]
    for line in json.loads((PAGE.parents[1] / "tests/wire/vectors/guards.json").read_text()):
        plan = {"guard_bits": line["guard_bits"]}
        secret, used = bytes.fromhex(line["guard_secret"]), line["used"]
        k, h = peer.derive(secret, b"gridhe/v2/guard/" + line["meter"].encode()), bytes.fromhex(line["h"])
        ctx, siv = peer.context_of(line["plan"], line["window"]), bytes.fromhex(line["siv"])
        presence = bytes.fromhex(line["presence"])
        assert (k.hex(), ctx.hex()) == (line["k"], line["ctx"])
        assert peer.derive(secret, b"gridhe/v2/home") == h
        assert peer.guards_of(plan, k, ctx, siv, presence, line["slots"] - len(used)) == line["g"]
        assert (siv + peer.masked(k, ctx, siv, presence)).hex() == line["proof"]
        sums = peer.checksums(plan, h, ctx, used)
        primes = peer.primes_of(plan)
        assert [(g + c) % p for g, c, p in zip(line["g"][-8:], sums, primes, strict=True)] == line["tags"]
    for name in ("k", "h", "ctx", "presence", "siv", "proof", "plan"):  # the last one stands on the page
        assert f"`{line[name]}`" in table
    for name, numbers in (("x", used), ("g_0 to g_3", line["g"][:4]), ("tag slots", line["tags"])):
        assert f"| {name} | {', '.join(map(str, numbers))} |" in table
    assert f"| g_44 to g_51 | {', '.join(map(str, line['g'][44:]))} |" in table
    assert len(line["g"]) == 52
    for j in (0, 11):
        name = "alpha_00 to alpha_07" if j == 0 else "alpha_(11)0 to alpha_(11)7"
        assert f"| {name} | {', '.join(map(str, line['alpha'][j]))} |" in table
    assert len(line["alpha"]) == 12
    assert f"`{line['plan']}`, {line['window']} |" in table


def test_a_batch_of_the_page_sent_twice_counts_once_and_one_damaged_not_at_all(
    grid: Grid, seal: Callable[..., tuple[str, bytes]]
) -> None:
    topic, payload = seal("a0")
    grid.engine.receive(topic, payload, grid.now)
    grid.engine.receive(topic, payload, grid.now)
    assert (grid.engine.counters.folded, grid.engine.counters.duplicates) == (1, 1)
    topic, payload = seal("a1")
    grid.engine.receive(topic, payload[:5_000] + b"\x00" + payload[5_001:], grid.now)
    assert grid.engine.counters.rejected["tag"] == 1


def test_the_pages_signature_checks_refuse_other_makers(peer: types.ModuleType, grid: Grid) -> None:
    bundle = grid.bundle.encode(grid.authority)
    peer.check_record(bundle, grid.authority.verify_key)
    for wrong in (grid.aggregator_key.verify_key, bytes(32)):
        with pytest.raises(InvalidSignature):
            peer.check_record(bundle, wrong)


@pytest.mark.parametrize(
    "prime_bits", [(32, 32, 20), (33, 32, 20), (48, 41, 20), (60, 33, 16), (49, 40, 20)], ids=str
)
def test_the_pages_planes_are_ours_for_primes_of_every_width(
    peer: types.ModuleType, prime_bits: tuple[int, ...]
) -> None:
    parameters = CkksParameters(4096, prime_bits)
    rng = np.random.default_rng(1)
    residues = np.array(
        [[rng.integers(0, q, 4096, dtype=np.uint64) for q in parameters.primes] for _ in range(2)]
    )
    plan = {"ring_degree": 4096, "prime_bits": list(prime_bits)}
    body = bytes(97) + residues.astype("<u8").tobytes()
    assert peer.planes_of(body, plan) == Planes(parameters).pack(residues)
    np.testing.assert_array_equal(peer.residues_of(peer.planes_of(body, plan), plan), residues)


def test_the_page_lists_the_temporary_refusals() -> None:
    page = PAGE.read_text(encoding="utf-8")
    listed = re.search(r"array of `\[window, reason\]`; (.*?) are temporary", page)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[1])) == TRANSIENT_REASONS


def test_the_page_names_every_reason_and_every_field() -> None:
    page = PAGE.read_text(encoding="utf-8")
    source = "".join(
        (PAGE.parents[1] / name).read_text(encoding="utf-8")
        for name in (
            "wire/envelope.py",
            "wire/codec.py",
            "wire/planes.py",
            "aggregator/admission.py",
            "aggregator/engine.py",
        )
    )
    reasons = set(re.findall(r'EnvelopeError\(\s*"(\w+)"', source)) - {"receipt"}
    assert len(reasons) > 10
    assert {reason for reason in reasons if f"`{reason}`" not in page} == set()


def test_the_pages_plan_table_has_the_plans_fields_in_their_order(grid: Grid) -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page[page.index("The plan record is") : page.index("### Roster")]
    named = [
        name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)
    ]
    assert named == list(msgpack.unpackb(grid.plan.encode()))
