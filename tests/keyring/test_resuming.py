"""Resuming what failed totals have stopped: asked for by one process, taken up by the one with the ledger."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gridhe.errors import ConfigError, StateError
from gridhe.keyring.cli.command import cli
from gridhe.keyring.home.inspection import inspect_home, lines_of
from gridhe.keyring.release.ledger import Ledger, LedgerRecord, verify_ledger
from gridhe.keyring.release.resuming import ask_resume, read_stops, take_up_exclusions, take_up_resumes
from gridhe.keyring.release.service import ReleaseService
from gridhe.keyring.release.stops import FAILURES_OF_KEY, Failure, Stops
from gridhe.keyring.release.suspects import Finding, Suspect
from gridhe.wire.roster import Roster
from gridhe.wire.total import TotalKey

FAULTY = Finding(suspects=(Suspect(meter="anna", group="north/f1", fault="without_guards"),), honest=True)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Home:
    """A home whose ledger has failed totals."""

    def __init__(self, small_authority: Any) -> None:
        self.authority, self.settings = small_authority.authority, small_authority.settings
        self.paths, self.plan = self.authority.paths, small_authority.plan
        self.authority.enrol_meters([(name, "north/f1") for name in ("anna", "bert")], self.settings)

    def fail(self, *groups: str, window: int = 100, finding: Finding = Finding()) -> None:  # noqa: B008
        stops = Stops()
        with Ledger(self.paths.ledger, now=now, on_record=stops.record) as ledger:
            for group in groups:
                failure = Failure(
                    total=TotalKey(self.plan.plan_id, group, window, 0),
                    key=self.plan.key_id,
                    aggregator="agg1",
                    check="guards",
                    of=0,
                    finding=finding,
                    members=("anna",) if group == "rogue" else (),
                )
                fields = stops.fields(failure, at=now(), enrolled={"north/f1": 2})
                stops.record(ledger.append("unsound", **fields))
                window += 1

    def records(self) -> list[LedgerRecord]:
        records: list[LedgerRecord] = []
        verify_ledger(self.paths.ledger, on_record=records.append)
        return records

    def roster(self) -> list[str]:
        entries = Roster.decode(self.authority.roster(), self.authority.verify_key).entries
        return [entry.meter for entry in entries]

    def service(self) -> ReleaseService:
        return ReleaseService(self.authority, self.settings, emit=lambda outcome: None)

    def resume(self, *names: str) -> Result:
        return CliRunner().invoke(cli, ["resume", "--home", str(self.paths.home), *names])


@pytest.fixture
def home(small_authority: Any) -> Home:
    made = Home(small_authority)
    with made.service():  # an inbox, as after a first run
        pass
    return made


def test_a_suspended_aggregator_is_resumed_by_the_next_run(home: Home) -> None:
    home.fail("a", "b", "c")
    assert read_stops(home.paths).aggregators == {"agg1"}
    result = home.resume("agg1")
    assert result.exit_code == 0, result.output
    assert "aggregator agg1: resumed when release runs next" in result.output
    assert read_stops(home.paths).aggregators == {"agg1"}  # asked for, not yet done
    with home.service():
        pass
    assert read_stops(home.paths).aggregators == set()
    assert [record.get("aggregator") for record in home.records() if record["kind"] == "resumed"] == ["agg1"]
    assert home.authority.enrolment.resumes() == []


def test_resume_works_while_another_process_has_the_ledger(home: Home) -> None:
    home.fail("a", "b", "c")
    with home.service() as service:
        with pytest.raises(StateError, match="in use"):
            Ledger(home.paths.ledger, now=now)
        assert home.resume("agg1").exit_code == 0
        assert service.offline() == []
    assert read_stops(home.paths).aggregators == set()


@pytest.mark.parametrize(
    ("name", "message"),
    [("agg2", "inspect lists them"), ("bert", "inspect lists them"), ("KEY", "is not stopped")],
)
def test_what_is_not_stopped_is_not_resumed(home: Home, name: str, message: str) -> None:
    home.fail("a", "b", "c")
    with pytest.raises(ConfigError, match=message):
        ask_resume(home.paths, ["agg1", home.plan.key_id if name == "KEY" else name])
    assert home.authority.enrolment.resumes() == []  # all or none


def test_a_stopped_key_is_not_resumed_and_the_message_says_rotate(home: Home) -> None:
    home.fail(*(f"g{number}" for number in range(FAILURES_OF_KEY)))
    with pytest.raises(ConfigError, match="gridhe-keyring rotate"):
        ask_resume(home.paths, [home.plan.key_id])
    assert "STOPPED     keys stopped, rotate" in "\n".join(lines_of(inspect_home(home.paths)))


def test_a_crash_after_the_ledgers_line_resumes_once(home: Home) -> None:
    home.fail("a", "b", "c")
    home.resume("agg1")
    stops = Stops()
    with Ledger(home.paths.ledger, now=now, on_record=stops.record) as ledger:

        def resume(name: str) -> None:
            for kind in stops.kinds(name):
                stops.record(ledger.append("resumed", **{kind: name}))

        def crash() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            take_up_resumes(home.authority.enrolment, resume=resume, retry=crash)
    assert home.authority.enrolment.resumes() == ["agg1"]
    home.fail("d", "e")  # fewer than suspend it again
    with home.service():
        pass
    assert home.authority.enrolment.resumes() == []
    assert [record["kind"] for record in home.records()].count("resumed") == 1
    home.fail("f")
    assert read_stops(home.paths).aggregators == {"agg1"}  # the count was not reset twice


def test_a_start_makes_the_roster_as_the_ledger_says(home: Home) -> None:
    home.fail("a", finding=FAULTY)
    assert home.roster() == ["anna", "bert"]  # killed before the roster was changed
    version = home.authority.enrolment.version
    with home.service():
        pass
    assert home.roster() == ["bert"]
    assert home.authority.enrolment.version == version + 1
    with home.service():
        pass
    assert home.authority.enrolment.version == version + 1


def test_a_resumed_meter_counts_in_windows_that_begin_later(home: Home) -> None:
    home.fail("a", finding=FAULTY)
    with home.service():
        pass
    before = int(datetime.now(UTC).timestamp())
    assert "meter anna: resumed" in home.resume("anna").output
    with home.service():
        pass
    assert home.roster() == ["anna", "bert"]
    entries = {meter.name: meter.from_s for meter in home.authority.enrolment.meters()}
    assert before <= entries["anna"] <= before + 60
    assert entries["bert"] == 0


def test_a_crash_between_ledger_and_roster_is_made_up_for(home: Home) -> None:
    home.fail("a", finding=FAULTY)
    with home.service():
        pass
    stops = Stops()
    with Ledger(home.paths.ledger, now=now, on_record=stops.record) as ledger:
        stops.record(ledger.append("resumed", meter="anna"))
    assert home.roster() == ["bert"]
    assert take_up_exclusions(home.authority.enrolment, stops)
    assert home.roster() == ["anna", "bert"]
    assert not take_up_exclusions(home.authority.enrolment, stops)


def test_inspect_shows_alarms_and_what_is_stopped(home: Home) -> None:
    home.fail("north/f1", "north/f2", finding=FAULTY)
    home.fail(*("north/f3" for _ in range(12)), window=200)
    found = inspect_home(home.paths)
    assert found["stopped"] == {
        "aggregators": ["agg1"],
        "groups": ["north/f3"],
        "keys": [],
        "meters": ["anna"],
    }
    assert [alarm["window"] for alarm in found["alarms"]] == list(range(202, 212))
    assert found["plans"][0]["failed_totals"] == 14
    assert found["in_all_failed"] == {}
    text = "\n".join(lines_of(found))
    assert "14 of 64 totals failed" in text
    assert "STOPPED     aggregators suspended: agg1" in text
    assert "STOPPED     meters excluded: anna" in text
    assert "of aggregator agg1 failed (guards); suspects: none named" in text
    assert json.loads(json.dumps(found)) == found


def test_inspect_shows_the_meters_that_are_in_all_failed_totals_of_a_group(home: Home) -> None:
    home.fail("rogue")
    assert inspect_home(home.paths)["in_all_failed"] == {}
    home.fail("rogue", window=101)
    found = inspect_home(home.paths)
    assert found["in_all_failed"] == {"rogue": {"totals": 2, "meters": ["anna"]}}
    assert "SUSPECT     in all 2 failed totals of rogue: anna" in lines_of(found)


def test_resume_needs_a_home_and_a_name(home: Home, tmp_path: Path) -> None:
    assert CliRunner().invoke(cli, ["resume", "--home", str(home.paths.home)]).exit_code == 2
    result = CliRunner().invoke(cli, ["resume", "--home", str(tmp_path / "none"), "agg1"])
    assert isinstance(result.exception, StateError)
