"""The values in docs/wire.md are those of our code, and its example's functions give them too."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gridhe.config.settings import ReleaseSettings
from gridhe.keyring.release.answers import Answer
from gridhe.keyring.release.policy import Claim
from gridhe.keyring.release.report import record_of
from gridhe.plan.plan import Plan
from gridhe.wire.envelope import Header, envelope_key, open_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.receipt import Receipt
from gridhe.wire.roster import Roster, RosterEntry, RosterPlan
from gridhe.wire.signing import SigningKey

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wire.md"
VECTORS = Path(__file__).parent / "vectors"


def example() -> dict[str, Any]:
    """The page's Python without CKKS."""
    block = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert block is not None
    names: dict[str, Any] = {}
    exec(compile(block[1], str(PAGE), "exec"), names)  # noqa: S102 - our own page
    return names


def values_on_the_page() -> dict[str, bytes]:
    """The values for tests, by name; the residues as JSON."""
    page = PAGE.read_text(encoding="utf-8")
    section = page[page.index("## Values for tests") :]
    block = re.search(r"^```text\n(.*?)^```$", section, re.M | re.S)
    assert block is not None
    joined = re.sub(r"\n {10,}", " ", block[1])
    rows = dict(re.split(r" {2,}", line, maxsplit=1) for line in joined.splitlines())
    return {
        name: value.encode() if name == "residues" else bytes.fromhex(value) for name, value in rows.items()
    }


def test_the_pages_values_for_tests_are_those_of_our_code() -> None:
    page, peer = values_on_the_page(), example()
    line = json.loads((VECTORS / "guards.json").read_text())[-1]
    assert line["meter"] == "meter-of-two"
    key = derive_key(page["ingest secret"], line["meter"])
    assert (key, envelope_key(key)) == (page["ingest key"], page["envelope key"])

    residues = np.array(json.loads(page["residues"]), np.uint64)
    plan = {"ring_degree": 2, "prime_bits": [48, 41, 60, 20]}
    assert peer["planes_of"](bytes(97) + residues.astype("<u8").tobytes(), plan) == page["planes"]
    np.testing.assert_array_equal(peer["residues_of"](page["planes"], plan), residues)

    envelope = open_envelope(page["envelope"], len(page["envelope"]))
    proof = bytes.fromhex(line["proof"])
    assert envelope.header == Header(
        plan=line["plan"],
        key="k0123456789abcdef",
        meter=line["meter"],
        group="north/f1",
        window=line["window"],
        proof=proof,
    )
    assert envelope.header.encode() == envelope.header_bytes == page["header"]
    assert bytes(envelope.sealed[:12]) == page["nonce"]
    assert envelope.open(page["envelope key"]) == page["planes"]
    assert peer["open_envelope"](page["envelope"], page["ingest key"])[1] == page["planes"]

    receipt = Receipt(plan=line["plan"], meter=line["meter"], committed=(line["window"],))
    assert receipt.encode(key) == page["receipt"]
    assert peer["open_receipt"](page["receipt"], key)["committed"] == [line["window"]]

    authority = SigningKey.from_private_bytes(page["authority's key"])
    entries, plans = [RosterEntry(line["meter"], "north/f1", 0)], [RosterPlan(line["plan"], 0)]
    assert authority.verify_key == page["verify key"]
    assert Roster.of(1, entries, plans, []).encode(authority) == page["roster"]
    peer["check_record"](page["roster"], page["verify key"])


def test_the_pages_released_total_is_what_release_writes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(r"^```json\n(.*)\n```$", page, re.M)
    shown = json.loads(found)
    golden = Plan.decode((VECTORS / "plan.bin").read_bytes())
    quantity = replace(golden.quantities[0], largest=1_000, bin_edges=(0, 500, 1_001), square_shift=0)
    quantity = replace(quantity, statistics=("sum", "mean", "variance", "min", "max", "quantiles"))
    plan = replace(golden, window_s=3_600, interval_s=1_800, quantities=(quantity,))
    values = [interval["import_wh"] for interval in shown["intervals"]]
    answer = Answer(
        blocks={
            "import_wh": {
                "reading": tuple(each["sum"] for each in values),
                "present": tuple(each["present"] for each in values),
                "square": tuple(each["squares"] for each in values),
                **{f"bin:{i}": tuple(each["bins"][i] for each in values) for i in range(2)},
            }
        },
        withheld={"import_wh": ("", "")},
        expected=shown["expected"],
    )
    claim = Claim(
        **{name: shown[name] for name in ("plan", "group", "window", "part", "meters")},
        key="",
        aggregator="",
        members=(),
        pieces=tuple(tuple(piece) for piece in shown["pieces"]),
        content=b"",
    )
    record = record_of(plan, claim, answer, ReleaseSettings().quantile_probabilities)
    assert json.dumps(record, separators=(",", ":")) == found
