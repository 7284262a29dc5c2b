"""`gridhe-keyring` from the outside: output, files and exit codes."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridhe.base.commands import run_command
from gridhe.base.times import iso
from gridhe.keyring.cli.command import cli
from gridhe.keyring.release.inbox import Inbox
from gridhe.wire.bundle import Bundle
from gridhe.wire.credential import load_aggregator, load_device, load_fleet
from gridhe.wire.signing import SigningKey
from gridhe.wire.total import open_total

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--set", "plan.largest_rollup=100", "--set", "plan.largest_group=100")


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_authority: Any
) -> Run:
    """Runs the command; its exit code, stdout and stderr."""
    monkeypatch.setenv("GRIDHE_PASSPHRASE", small_authority.passphrase)
    monkeypatch.chdir(tmp_path)

    def called(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run_command(cli, [str(arg) for arg in args])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return called


def arrive(small: Any, *payloads: bytes) -> None:
    """Put totals into the inbox, as the receiver does."""
    inbox = Inbox(small.home / "inbox.db")
    inbox.store([(open_total(payload, len(payload)).header, payload) for payload in payloads], "now")
    inbox.close()


def test_plan_prints_the_choice_and_why_and_touches_no_disk(run: Run, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    code, out, _ = run("plan")
    assert code == 0
    for told in ("ring degree", "bytes per batch", "capacity", "limit", "failure probability", "rejected"):
        assert told in out
    code, out, _ = run("plan", "--json")
    assert json.loads(out)["ring_degree"] == 4096
    code, _, err = run("plan", "--set", "plan.window_s=2678400", "--set", "plan.interval_s=1")
    assert code == 3
    assert "Nearest exact plan" in err
    assert sorted(tmp_path.iterdir()) == before


def test_init_makes_a_home_once(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    code, out, _ = run("init", "--home", home, *SMALL)
    assert code == 0
    assert "plan p" in out
    code, _, err = run("init", "--home", home, *SMALL)
    assert code == 6
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_init_refuses_a_short_passphrase_and_a_window_that_is_none(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("init", "--home", tmp_path / "x", "--first-window", "2026-01-01T07:00Z")[0] == 2
    assert run("init", "--home", tmp_path / "x", "--first-window", "soon")[0] == 2
    monkeypatch.setenv("GRIDHE_PASSPHRASE", "short")
    code, _, err = run("init", "--home", tmp_path / "x")
    assert code == 5
    assert "too short" in err
    assert "short" not in err.replace("too short", "")
    assert not (tmp_path / "x").exists()


def test_enrol_by_name_by_count_by_csv_as_fleet_and_aggregator(
    run: Run, small_authority: Any, tmp_path: Path
) -> None:
    home = small_authority.home
    assert run("enrol", "--home", home, "--group", "north/f1", "anna", "bert")[0] == 0
    assert load_device(home / "credentials" / "anna.json").group == "north/f1"
    code, out, _ = run(
        "enrol", "--home", home, "--group", "north/f2", "--count", 12, "--prefix", "n", "--fleet", "f.json"
    )
    assert code == 0
    assert "12 meters: f.json" in out
    assert [d.meter for d in load_fleet(tmp_path / "f.json").devices] == [f"n{i:02d}" for i in range(1, 13)]
    (tmp_path / "meters.csv").write_text("meter,group\ncarl,south/f1\n")
    assert run("enrol", "--home", home, "--from-csv", "meters.csv", "--from", "2026-01-01")[0] == 0
    assert [m.from_s for m in small_authority.authority.enrolment.meters() if m.name == "carl"] == [
        1767225600
    ]
    assert run("enrol", "--home", home, "--aggregator", "agg2")[0] == 0
    assert load_aggregator(home / "credentials" / "aggregator-agg2.json").aggregator == "agg2"
    assert run("enrol", "--home", home, "--revoke", "anna", "agg2")[0] == 0
    assert "anna" not in {m.name for m in small_authority.authority.enrolment.meters()}


@pytest.mark.parametrize(
    "args",
    [
        ("anna",),
        ("--group", "north/f1"),
        ("--group", "north/f1", "anna", "--count", "3"),
        ("--group", "North", "anna"),
        ("--revoke",),
        ("--revoke", "nobody"),
        ("--aggregator", "agg2", "anna"),
        ("--from-csv", "absent.csv"),
        ("--from-csv", "absent.csv", "--group", "north"),
        ("--group", "north", "anna", "--from", "yesterday"),
    ],
)
def test_a_wrong_enrolment_is_one_line_and_exit_code_2(
    run: Run, small_authority: Any, args: tuple[str, ...]
) -> None:
    code, _, err = run("enrol", "--home", small_authority.home, *args)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_wrong_passphrase_is_one_quiet_line_and_exit_code_5(
    run: Run, small_authority: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRIDHE_PASSPHRASE", "not the right one")
    code, out, err = run("enrol", "--home", small_authority.home, "--group", "north", "anna")
    assert (code, out) == (5, "")
    assert err.count("\n") == 1
    assert "not the right one" not in err
    path = tmp_path / "phrase"
    path.touch(0o600)
    path.write_text(small_authority.passphrase + "\n")
    assert (
        run("enrol", "--home", small_authority.home, "--group", "north", "anna", "--passphrase-file", path)[0]
        == 0
    )


def test_a_new_passphrase_opens_the_vault_and_the_old_one_no_longer(
    run: Run, small_authority: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    new.touch(0o600)
    new.write_text("short\n")
    command = ("passphrase", "--home", small_authority.home, "--new-passphrase-file", new)
    assert run(*command)[0] == 5  # too short: nothing is changed
    new.write_text("another long phrase\n")
    enrol = ("enrol", "--home", small_authority.home, "--group", "north", "anna")
    assert run(*command)[0] == 0
    assert run(*enrol)[0] == 5
    monkeypatch.setenv("GRIDHE_PASSPHRASE", "another long phrase")
    assert run(*enrol)[0] == 0
    assert (small_authority.home / "vault").stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_no_home_is_reported_before_a_passphrase_is_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRIDHE_PASSPHRASE")
    for command in ("enrol", "release", "rotate", "inspect", "bundle"):
        more = ("--group", "north", "anna") if command == "enrol" else ()
        more = ("--first-window", "9") if command == "rotate" else more
        code, _, err = run(command, "--home", tmp_path / "nowhere", *more)
        assert code == 6, command
        assert "not an authority's home" in err


def test_bundle_writes_the_current_bundle(run: Run, small_authority: Any, tmp_path: Path) -> None:
    assert run("bundle", "--home", small_authority.home, "--out", "b")[0] == 0
    found = Bundle.decode((tmp_path / "b").read_bytes(), small_authority.authority.verify_key)
    assert found.plan == small_authority.plan


def test_release_prints_a_table_and_writes_json_lines(run: Run, small_authority: Any, tmp_path: Path) -> None:
    rows = small_authority.readings(6)
    small_authority.enrol("north/f1", 7)
    arrive(small_authority, small_authority.total("north/f1", rows=rows))
    code, out, _ = run("release", "--home", small_authority.home, "--offline", "--out", "r.jsonl")
    assert code == 0
    heading, row, summary = out.splitlines()
    assert heading.split() == ["group", "window", "part", "meters", "sum", "peak"]
    assert row.split()[:6] == ["north/f1", "1970-01-05T04:00:00Z", "0", "6/7", str(rows.sum()), "Wh"]
    assert summary == "1 total released, 0 refused"
    [line] = (tmp_path / "r.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert {key: value for key, value in record.items() if key != "intervals"} == {
        "plan": small_authority.plan.plan_id,
        "group": "north/f1",
        "window": 100,
        "window_start": "1970-01-05T04:00:00Z",
        "part": 0,
        "meters": 6,
        "expected": 7,
        "pieces": [["north/f1", 0, 6]],
    }
    edges = small_authority.plan.quantities[0].bin_edges
    for i, interval in enumerate(record["intervals"]):
        told, there = interval["import_wh"], rows[:, i]
        assert interval["start"] == f"1970-01-05T04:{15 * i:02d}:00Z"
        assert (told["sum"], told["present"], told["flags"]) == (there.sum(), 6, [])
        assert told["mean"] == pytest.approx(there.mean())
        assert told["variance"] == pytest.approx(there.var())
        for name, value in (("min", there.min()), ("max", there.max())):
            at = int(np.searchsorted(edges, value, side="right")) - 1
            assert told[name] == [edges[at], edges[at + 1] - 1]
        assert set(told["quantiles"]) == {"0.05", "0.25", "0.5", "0.75", "0.95"}


def test_release_tells_refusals_by_rule_and_exits_8_only_when_they_were_asked_for(
    run: Run, small_authority: Any
) -> None:
    home = small_authority.home
    arrive(
        small_authority,
        small_authority.total("north/f1"),
        small_authority.total("north/f2", {"north/f2": 3}),
        small_authority.total("south/f1", key=SigningKey.generate()),
    )
    code, out, err = run("release", "--home", home, "--offline", "--json")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["group"], line.get("refused"), "intervals" in line) for line in lines] == [
        ("north/f1", None, True),
        ("north/f2", "minimum", False),
        ("south/f1", "signature", False),
    ]
    assert "refused: minimum: north/f2 window 100 part 0 has 3 meters" in err
    assert run("release", "--home", home, "--offline", "--group", "north/f1")[0] == 0
    assert run("release", "--home", home, "--offline", "--group", "north/f1", "--window", "100")[0] == 0
    assert run("release", "--home", home, "--offline", "--window", "1970-01-05T04:00Z")[0] == 8
    assert run("release", "--home", home, "--offline", "--group", "north/f2")[0] == 8
    code, _, err = run("release", "--home", home, "--offline", "--group", "west")
    assert code == 6
    assert "has arrived" in err
    assert run("release", "--home", home, "--offline", "--window", "soon")[0] == 2
    assert run("release", "--home", home, "--offline", "--follow")[0] == 2


def test_what_was_released_is_given_again_when_asked_for(run: Run, small_authority: Any) -> None:
    home = small_authority.home
    arrive(small_authority, small_authority.total("north/f1"))
    first = run("release", "--home", home, "--offline", "--json")[1]
    assert first
    assert run("release", "--home", home, "--offline", "--json")[1] == ""
    assert run("release", "--home", home, "--offline", "--json", "--all")[1] == first
    assert run("release", "--home", home, "--offline", "--json", "--group", "north/f1")[1] == first


def test_stricter_settings_refuse_what_the_plan_would_allow(run: Run, small_authority: Any) -> None:
    arrive(small_authority, small_authority.total("north/f1"))
    args = ("release", "--home", small_authority.home, "--offline", "--group", "north/f1")
    assert run(*args, "--set", "release.minimum_meters=7")[0] == 8
    assert run(*args)[0] == 0


def test_a_table_names_what_was_withheld(run: Run, small_authority: Any) -> None:
    rows = small_authority.readings(6)
    rows[2:, 0] = -1
    arrive(small_authority, small_authority.total("north/f1", rows=rows))
    out = run("release", "--home", small_authority.home, "--offline")[1]
    assert "1 withheld" in out
    assert f"{rows[:, 1:].sum()} Wh" in out


def test_rotate_and_retire(run: Run, small_authority: Any) -> None:
    home, old = small_authority.home, small_authority.plan
    small = ("--set", "plan.window_s=3600", "--set", "plan.interval_s=900", *SMALL)
    assert run("rotate", "--home", home, "--give-up", *small)[0] == 2
    code, out, err = run("rotate", "--home", home, "--first-window", "2026-07-01", *small)
    assert code == 3
    assert "has begun, is over" in err
    newer = small_authority.authority.rotate(small_authority.settings, 1_000, now_s=0.0).plan
    code, out, _ = run("rotate", "--home", home, *small)
    assert code == 0
    assert small_authority.plan.first_window * 3_600 > time.time() + 600
    assert f"from {iso(small_authority.plan.start_s)}" in out
    code, out, _ = run("rotate", "--home", home, "--first-window", "2999-07-01", *small)
    assert code == 0
    assert "from 2999-07-01T00:00:00Z" in out
    assert run("rotate", "--home", home, "--first-window", "3", *small)[0] == 3
    code, _, err = run("rotate", "--home", home, "--retire", newer.key_id)
    assert code == 2
    assert "retire it then" in err
    assert run("rotate", "--home", home, "--retire", old.key_id)[0] == 0
    assert run("rotate", "--home", home, "--retire", old.key_id)[0] == 2
    arrive(small_authority, small_authority.total("north/f1", plan=old.plan_id))
    assert run("release", "--home", home, "--offline", "--group", "north/f1")[0] == 8


def test_inspect_needs_no_passphrase_and_finds_a_changed_ledger(
    run: Run, small_authority: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = small_authority.home
    run("enrol", "--home", home, "--group", "north/f1", "anna", "bert")
    run("enrol", "--home", home, "--revoke", "bert")
    arrive(
        small_authority, small_authority.total("north/f1"), small_authority.total("north/f2", {"north/f2": 3})
    )
    run("release", "--home", home, "--offline")
    monkeypatch.delenv("GRIDHE_PASSPHRASE")
    code, out, _ = run("inspect", "--home", home)
    assert code == 0
    assert "up to 100 meters, at least 5, guards of 16 bits" in out
    assert "1 of 262144 decryptions used" in out
    assert "ledger      whole: 3 records (1 answered, 1 decided, 1 refused)" in out
    assert "revoked     bert" in out
    found = json.loads(run("inspect", "--home", home, "--json")[1])
    assert found["ledger"]["refusals"] == {"minimum": 1}
    assert found["groups"] == {"north/f1": 1 + 6, "north/f2": 3}
    assert found["aggregators"] == ["agg1"]
    assert (found["plans"][0]["minimum_meters"], found["plans"][0]["guard_bits"]) == (5, 16)
    assert [each["rule"] for each in found["inbox"]["refused"]] == ["minimum"]
    ledger = home / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"meters":6', b'"meters":7'))
    code, _, err = run("inspect", "--home", home)
    assert code == 6
    assert "line 2 does not follow line 1" in err


def test_inspect_of_a_fresh_home_changes_nothing(run: Run, small_authority: Any) -> None:
    before = sorted(path.name for path in small_authority.home.iterdir())
    assert run("inspect", "--home", small_authority.home)[0] == 0
    assert sorted(path.name for path in small_authority.home.iterdir()) == before


def test_every_command_explains_itself_with_an_example(run: Run) -> None:
    for command in ("plan", "init", "enrol", "bundle", "release", "rotate", "passphrase"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"gridhe-keyring {command}" in out
    assert run("inspect", "--help")[0] == 0


def test_help_needs_no_tenseal() -> None:
    code = (
        "import sys\nfrom gridhe.keyring.cli import command\n"
        "assert not {'tenseal', 'gridhe.keyring.home.vault'} & set(sys.modules), 'imported too much'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
