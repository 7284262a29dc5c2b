"""`release --follow` with a real broker: spoilt totals, exclusion, and resuming while it runs."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Session
from gridhe.broker.server.mosquitto_config import aggregator_user
from gridhe.config.settings import BrokerSettings
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.resuming import read_stops
from gridhe.wire import topics
from gridhe.wire.credential import load_aggregator
from gridhe.wire.ingest import derive_key
from gridhe.wire.receipt import TotalReceipt
from gridhe.wire.roster import Roster
from gridhe.wire.status import Status
from gridhe.wire.total import open_total
from gridhe_testing.commands import Shell, free_port, wait_for
from gridhe_testing.spoilt import PASSPHRASE, SpoiltGrid, small_plan

PATIENCE_S = 60.0
FAULTY = "north-f1-003"


class Listener:
    """What aggregator agg1 sees of the authority: roster, status and receipts."""

    def __init__(self, grid: SpoiltGrid, settings: BrokerSettings, loop: EventLoop) -> None:
        self.loop, self._authority_key = loop, grid.authority.verify_key
        self.roster: set[str] = set()
        self.status: Status | None = None
        self.receipts: list[tuple[str, str, int]] = []  # the rule, or "stored"; group and window
        credential = load_aggregator(grid.authority.paths.credentials / "aggregator-agg1.json")
        self._receipt_key = derive_key(credential.ingest_secret, "aggregator/agg1")
        self.session = Session(
            settings=settings,
            client_id=aggregator_user("agg1"),
            username=aggregator_user("agg1"),
            password=credential.password,
            on_message=self.on_message,
            subscriptions=(topics.ROSTER_CURRENT, topics.STATUS_AUTHORITY, topics.receipt("agg1")),
        )
        loop.add(self.session)

    def on_message(self, topic: str, payload: bytes) -> None:
        if topic == topics.STATUS_AUTHORITY:
            self.status = Status.decode(payload)
        elif topic == topics.receipt("agg1"):
            receipt = TotalReceipt.decode(payload, self._receipt_key)
            self.receipts += [("stored", total.group, total.window) for total in receipt.stored]
            self.receipts += [(rule, group, window) for _, group, window, _, rule in receipt.refused]
        else:
            decoded = Roster.decode(payload, self._authority_key)
            self.roster = {entry.meter for entry in decoded.entries}

    def counts(self) -> tuple[int, int] | None:
        return None if self.status is None else (self.status.failed, self.status.stopped)

    def wait(self, condition: Callable[[], bool]) -> None:
        assert self.loop.run_until(condition, PATIENCE_S), (self.status, len(self.roster))


@contextmanager
def following(grid: SpoiltGrid, folder: Path, mosquitto: Path) -> Iterator[tuple[Shell, Listener]]:
    shell = Shell(folder, {"GRIDHE_PASSPHRASE": PASSPHRASE, "GRIDHE_BROKER__URL": grid.settings.broker.url})
    conf = grid.authority.paths.broker / "mosquitto.conf"
    with shell.running(str(mosquitto), "-c", str(conf), log="broker.log") as broker:
        wait_for(int(grid.settings.broker.url.rpartition(":")[2]), broker)
        command = ("gridhe-keyring", "release", "--home", "authority", "--follow", "--idle-s", "0.1")
        with (
            shell.running(*command, "--out", "released.jsonl", log="release.log"),
            EventLoop() as loop,
        ):
            listener = Listener(grid, grid.settings.broker, loop)
            yield shell, listener
            listener.session.close()


def test_repro_what_was_stopped_goes_on_while_release_follows(tmp_path: Path, mosquitto: Path) -> None:
    broker = BrokerSettings(url=f"mqtt://127.0.0.1:{free_port()}")
    grid = SpoiltGrid(
        tmp_path,
        {"north/f1": 30, "north/f2": 6, "south/f1": 6},
        settings=small_plan().model_copy(update={"broker": broker}),
        aggregators=("agg1", "agg2"),
    )
    everybody = set(grid.devices)
    payloads = [
        grid.total("north/f1", 100, fault="without_guards", at=3, aggregator="agg2"),
        *(grid.total(group, 101, fault="left_out") for group in ("north/f1", "north/f2", "south/f1")),
        grid.total("north/f2", 102),
    ]
    inbox = Inbox(grid.authority.paths.inbox)
    inbox.store([(open_total(each, len(each)).header, each) for each in payloads], "now")
    inbox.close()

    def outcomes() -> list[tuple[str, int, str]]:
        path = tmp_path / "released.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [(each["group"], each["window"], each.get("refused", "")) for each in found]

    with following(grid, tmp_path, mosquitto) as (shell, listener):
        listener.wait(lambda: len(outcomes()) == len(payloads) and listener.counts() == (4, 2))
        assert [rule for *_, rule in outcomes()] == ["unsound"] * 4 + ["suspended"]
        listener.wait(lambda: listener.roster == everybody - {FAULTY})
        said = shell.run("gridhe-keyring", "resume", "--home", "authority", "agg1", FAULTY)
        assert said.count("resumed when release runs next") == 2
        listener.wait(lambda: outcomes()[-1] == ("north/f2", 102, ""))
        listener.wait(lambda: ("stored", "north/f2", 102) in listener.receipts)
        listener.wait(lambda: listener.roster == everybody and listener.counts() == (4, 0))
        assert "is no suspended aggregator" in shell.run(
            "gridhe-keyring", "resume", "--home", "authority", "agg1", code=2
        )
        shown = shell.run("gridhe-keyring", "inspect", "--home", "authority")
        assert shown.count("ALARM ") == 4
        assert "STOPPED" not in shown
    grid.authority.close()
    assert read_stops(grid.authority.paths).counts() == (4, 0)
    assert PASSPHRASE not in shell.said
