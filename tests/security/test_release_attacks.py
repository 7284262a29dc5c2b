"""Totals that must not be opened: refused by rule, written down, not decrypted. And figures of release."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridhe.config.settings import CkksSettings, PlanSettings, QuantitySettings, ReleaseSettings, Settings
from gridhe.errors import ReleaseRefused, StateError
from gridhe.keyring.release.decrypt import Decryptor
from gridhe.keyring.release.ledger import verify_ledger
from gridhe.keyring.release.releaser import Releaser
from gridhe.wire.signing import SigningKey
from gridhe.wire.total import open_total
from gridhe_testing.release_figures import noise, rounding
from gridhe_testing.small_authority import SmallAuthority

BUDGET = 3
MINIMUM = 5
SUPPORT = Path(__file__).parents[1] / "support"


class Desk:
    """A home, its aggregator, and a releaser that counts what it decrypts."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(
            ckks=CkksSettings(decryptions=BUDGET),
            plan=PlanSettings(
                window_s=3_600,
                interval_s=900,
                largest_group=50,
                largest_rollup=50,
                minimum_meters=MINIMUM,
                small_groups="accepted",
                quantities=(QuantitySettings(largest=1_000, bins=4),),
            ),
        )
        self.made = SmallAuthority.make(folder / "home", settings)
        self.home, self.total = self.made.authority, self.made.total
        self.releaser = Releaser(
            self.home.paths,
            plans=self.home.paths.read_plans(),
            secrets=lambda: self.home.vault.secrets,
            enrolment=self.home.enrolment,
            settings=ReleaseSettings(),
            now=lambda: "2026-01-01T00:00:00Z",
        )

    def release(self, payload: bytes) -> Any:
        return self.releaser.release(open_total(payload, 1 << 24))[2]

    def refusals(self) -> list[str]:
        found: list[dict[str, Any]] = []
        verify_ledger(self.home.paths.ledger, on_record=found.append)
        return [record["rule"] for record in found if record["kind"] == "refused"]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.releaser.close()
    made.home.close()


@pytest.fixture
def decrypted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each ciphertext that met the secret key."""
    met: list[int] = []
    real = Decryptor.decode

    def spy(self: Decryptor, ciphertext: bytes) -> Any:
        met.append(len(ciphertext))
        return real(self, ciphertext)

    monkeypatch.setattr(Decryptor, "decode", spy)
    return met


def below_the_minimum(desk: Desk) -> bytes:
    return desk.total("north/f1", {"north/f1": MINIMUM - 1})


def same_total_other_content(desk: Desk) -> bytes:
    desk.release(desk.total("north/f1", {"north/f1": 6}))
    return desk.total("north/f1", {"north/f1": 6})  # encrypted anew: another ciphertext


def a_region_that_less_its_feeders_is_four(desk: Desk) -> bytes:
    desk.release(desk.total("north/f1", {"north/f1": 6}))
    return desk.total("north", {"north/f1": 6, "north/f2": MINIMUM - 1})


def two_regions_that_share_a_feeder(desk: Desk) -> bytes:
    desk.release(desk.total("north", {"north/f1": 6, "north/f2": 7}))
    return desk.total("grid", {"north/f1": 6, "south/f1": 7})


def one_more_than_the_budget(desk: Desk) -> bytes:
    for window in range(BUDGET):
        desk.release(desk.total("north/f1", {"north/f1": 6}, window=window))
    return desk.total("north/f1", {"north/f1": 6}, window=BUDGET)


def more_than_is_exact(desk: Desk) -> bytes:
    return desk.total("north/f1", {"north/f1": 51})


def a_piece_of_elsewhere(desk: Desk) -> bytes:
    return desk.total("north", {"north/f1": 6, "south/f1": 6})


@pytest.mark.parametrize(
    ("rule", "attack", "released"),
    [
        ("minimum", below_the_minimum, 0),
        ("changed_content", same_total_other_content, 1),
        ("isolates", a_region_that_less_its_feeders_is_four, 1),
        ("overlap", two_regions_that_share_a_feeder, 1),
        ("budget", one_more_than_the_budget, BUDGET),
        ("capacity", more_than_is_exact, 0),
        ("pieces", a_piece_of_elsewhere, 0),
    ],
)
def test_a_total_that_must_stay_closed_is_refused_by_rule_before_any_decryption(
    desk: Desk,
    decrypted: list[int],
    rule: str,
    attack: Callable[[Desk], bytes],
    released: int,
) -> None:
    payload = attack(desk)
    for _ in range(3):  # insisting changes nothing
        with pytest.raises(ReleaseRefused) as refused:
            desk.release(payload)
        assert refused.value.rule == rule
    assert len(decrypted) == released
    assert desk.refusals() == [rule]


def test_an_unsigned_and_a_foreign_total_are_refused_by_name_and_noted_once(
    desk: Desk, decrypted: list[int]
) -> None:
    stranger = SigningKey.generate()
    for window in range(100):
        for payload in (
            desk.total("north/f1", {"north/f1": 6}, window=window, key=stranger, ciphertext=b"x"),
            desk.total("north/f1", {"north/f1": 6}, window=window, ciphertext=b"x")[:-64] + bytes(64),
        ):
            with pytest.raises(ReleaseRefused) as refused:
                desk.release(payload)
            assert refused.value.rule == "signature"
    assert decrypted == []
    # Once a total, however often it comes. (Online, the receiver drops these before they get here, and only
    # their number goes into the ledger.)
    assert desk.refusals() == ["signature"] * 100


def test_more_batches_than_the_total_names_are_not_given_out(desk: Desk, decrypted: list[int]) -> None:
    ten = open_total(desk.total("north/f1", {"north/f1": 10}), 1 << 24).ciphertext
    payload = desk.total("north/f1", {"north/f1": 6}, ciphertext=ten)
    for _ in range(3):
        with pytest.raises(ReleaseRefused) as refused:
            desk.release(payload)
        assert refused.value.rule == "unsound"
    assert len(decrypted) == 1
    kinds: list[str] = []
    verify_ledger(desk.home.paths.ledger, on_record=lambda record: kinds.append(record["kind"]))
    assert kinds == ["decided", "unsound"]


def test_every_changed_byte_of_the_ledger_is_noticed(desk: Desk) -> None:
    for window in range(2):
        desk.release(desk.total("north/f1", {"north/f1": 6}, window=window))
    with pytest.raises(ReleaseRefused):
        desk.release(below_the_minimum(desk))
    head, path = desk.releaser.answers.head(), desk.home.paths.ledger
    whole = path.read_bytes()
    kinds = [json.loads(line)["kind"] for line in whole.splitlines()]
    assert kinds == ["decided", "answered", "decided", "answered", "refused"]
    # Each line is held by the next, decisions also by the head that the answers keep. (A changed `answered`
    # is noticed by its digest. Only refusals after the last answer could be cut off unseen.)
    guarded = len(b"\n".join(whole.splitlines()[:4]))
    for at in range(guarded):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StateError):
            verify_ledger(path, on_record=lambda record: None, heads={"answers.db": head})
    path.write_bytes(whole)
    verify_ledger(path, on_record=lambda record: None, heads={"answers.db": head})


def test_fifty_kills_in_the_middle_of_a_release_give_one_answer_and_one_noise_each() -> None:
    # In a process of its own: it forks, and this one may have threads.
    command = [sys.executable, "-m", "gridhe_testing.release_figures", "--kills", "50"]
    done = subprocess.run(
        [*command, "--draws", "0", "--slots", "0", "--seed", "20261123"],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout)["kills"]
    assert found["same_answer_afterwards"] == 50, found
    assert found["wrong_answers"] == 0
    assert found["decided"] == found["answered"] == found["totals"]
    assert found["most_different_draws_of_a_total"] == 1
    assert 0 < found["died_before_answering"] <= 50, found  # kills came before answers, too


def test_the_flooding_noise_has_the_planned_deviation() -> None:
    found = noise(4_000)
    # Five standard errors of a standard deviation from n draws: 5 / sqrt(2 n).
    assert abs(found["coefficient_by_planned"] - 1) < 5 / np.sqrt(2 * found["draws"])
    assert abs(found["slot_by_planned"] - 1) < 5 / np.sqrt(2 * found["draws"])
    assert abs(found["coefficient_mean"]) < 5 / np.sqrt(found["draws"])
    # So the whole of it fits 9.3 times into what rounding forgives.
    assert found["slot_sigma_by_half_a_unit"] * 9.3 < 1


def test_rounding_changes_no_answer_of_the_largest_totals() -> None:
    found = rounding(20_000, 20_261_123)
    assert found["wrong"] == found["unsound"] == 0
    assert found["slots"] >= 20_000
