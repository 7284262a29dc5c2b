"""Golden vectors of every line of the guards' computation, held to by two implementations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridhe.plan.guards import Guards, guard_key, home_key
from gridhe.plan.plan import TAGS, Plan
from gridhe_testing import second_guards as second

VECTORS = Path(__file__).parent / "vectors"
LINES: list[dict[str, Any]] = json.loads((VECTORS / "guards.json").read_text())
BATCHES = pytest.mark.parametrize("line", LINES, ids=lambda line: str(line["meter"]))


@BATCHES
def test_the_second_implementation_gives_every_line(line: dict[str, Any]) -> None:
    secret = bytes.fromhex(line["guard_secret"])
    k, h = second.guard_key(secret, line["meter"]), second.home_key(secret)
    ctx = second.context(line["plan"], line["window"])
    siv, presence = second.siv(k, ctx, line["used"]), second.presence(line["present"])
    sealed = second.sealed(k, ctx, siv, presence)
    found = {"k": k, "h": h, "ctx": ctx, "siv": siv, "presence": presence, "sealed": sealed}
    assert {name: value.hex() for name, value in found.items()} == {name: line[name] for name in found}
    assert (siv + sealed).hex() == line["proof"]
    guards = line["slots"] - len(line["used"])
    assert second.words(k, ctx, siv, presence, guards, line["guard_bits"]) == line["g"]
    assert second.alpha(h, ctx, len(line["used"]), line["guard_bits"]) == line["alpha"]
    slots, proof = second.fill(
        line["used"],
        line["present"],
        k=k,
        h=h,
        ctx=ctx,
        slots=line["slots"],
        guard_bits=line["guard_bits"],
    )
    assert slots == [*line["used"], *line["g"][:-TAGS], *line["tags"]]
    assert proof.hex() == line["proof"]


@BATCHES
def test_the_keys_are_those_of_every_credential(line: dict[str, Any]) -> None:
    secret = bytes.fromhex(line["guard_secret"])
    assert guard_key(secret, line["meter"]).hex() == line["k"]
    assert home_key(secret).hex() == line["h"]


@pytest.mark.parametrize("line", LINES[:-1], ids=lambda line: str(line["meter"]))
def test_the_meters_guards_and_the_authoritys_are_those_lines(line: dict[str, Any]) -> None:
    plan = Plan.decode((VECTORS / "plan.bin").read_bytes())
    assert plan.plan_id == line["plan"]
    guards, k, h = Guards(plan), bytes.fromhex(line["k"]), bytes.fromhex(line["h"])
    slots, proof = guards.fill(line["window"], np.array(line["used"]), guard_key=k, home_key=h)
    assert proof.hex() == line["proof"]
    assert slots.tolist() == [*line["used"], *line["g"][:-TAGS], *line["tags"]]
    proven = guards.prove(line["window"], proof, k)
    assert proven.present.ravel().tolist() == line["present"]
    assert proven.guards.tolist() == line["g"]
