"""A meter that seals without guards, in a running grid: it costs its group one window."""

import json
import time
from pathlib import Path
from typing import Any

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.mosquitto_config import FLEET_USER
from gridhe.config.settings import BrokerSettings
from gridhe.wire import topics
from gridhe.wire.credential import load_fleet
from gridhe.wire.envelope import Header, envelope_key, seal_envelope
from gridhe.wire.receipt import Receipt
from gridhe.wire.status import Status
from gridhe_testing.commands import Shell, free_port, wait_for
from gridhe_testing.spoilt import PASSPHRASE, SpoiltGrid, small_plan

PATIENCE_S = 60.0
GROUP, FAULTY = "north/f1", "north-f1-003"


class Fleet:
    """Every meter of the grid on one connection, with the receipts and releases that it hears."""

    def __init__(self, grid: SpoiltGrid, folder: Path, loop: EventLoop) -> None:
        self.grid, self.loop, self._released = grid, loop, folder / "released.jsonl"
        self.aggregates = False
        self.refused: set[tuple[str, int, str]] = set()
        self.committed: set[tuple[str, int]] = set()
        self.session = Session(
            settings=grid.settings.broker,
            client_id=FLEET_USER,
            username=FLEET_USER,
            password=load_fleet(folder / "fleet.json").password or "",
            on_message=self._on_message,
            subscriptions=(
                topics.status_aggregator("agg1"),
                *(topics.receipt(meter) for meter in grid.devices),
            ),
        )
        loop.add(self.session)
        # A broker keeps nothing for an aggregator that has not subscribed yet.
        self.wait(lambda: self.aggregates)

    def _on_message(self, topic: str, payload: bytes) -> None:
        if topic == topics.status_aggregator("agg1"):
            self.aggregates = Status.decode(payload).online
            return
        meter = topic.rpartition("/")[2]
        receipt = Receipt.decode(payload, self.grid.devices[meter].ingest_key)
        self.committed |= {(meter, window) for window in receipt.committed}
        self.refused |= {(meter, window, reason) for window, reason in receipt.refused}

    def send(self, window: int) -> None:
        """The batches of all meters; the faulty one's is without guards."""
        for meter, device in self.grid.devices.items():
            batch = self.grid.batch(meter, window, fault="without_guards" if meter == FAULTY else "")
            header = Header(
                plan=self.grid.plan.plan_id,
                key=self.grid.plan.key_id,
                meter=meter,
                group=GROUP,
                window=window,
                proof=batch.proof,
            )
            payload = seal_envelope(header, batch.ciphertext, envelope_key(device.ingest_key))
            self.session.publish(Message(topic=topics.batch(GROUP, meter), payload=payload))

    def outcomes(self) -> dict[tuple[str, int], tuple[str, int]]:
        """The rule that refused each total, empty if it is released, and its meters."""
        lines = self._released.read_text().splitlines() if self._released.exists() else []
        found: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return {(each["group"], each["window"]): (each.get("refused", ""), each["meters"]) for each in found}

    def wait(self, condition: Any) -> None:
        assert self.loop.run_until(condition, PATIENCE_S), (self.outcomes(), self.refused)


def test_repro_a_faulty_meter_costs_its_group_one_window(tmp_path: Path, mosquitto: Path) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    grid = SpoiltGrid(
        tmp_path,
        {GROUP: 20},
        settings=small_plan().model_copy(update={"broker": BrokerSettings(url=url)}),
    )
    window = int(time.time()) // 3_600 - 3
    home = tmp_path / "authority"
    shell = Shell(tmp_path, {"GRIDHE_PASSPHRASE": PASSPHRASE, "GRIDHE_BROKER__URL": url})
    conf, credential = home / "broker/mosquitto.conf", home / "credentials/aggregator-agg1.json"
    release = ("gridhe-keyring", "release", "--home", "authority", "--follow", "--idle-s", "0.1")
    aggregate = ("gridhe-aggregate", "--credential", str(credential), "--state-dir", "state")
    with shell.running(str(mosquitto), "-c", str(conf), log="broker.log") as broker:
        wait_for(int(url.rpartition(":")[2]), broker)
        with (
            shell.running(*release, "--out", "released.jsonl", log="release.log"),
            shell.running(*aggregate, log="aggregate.log"),
            EventLoop() as loop,
        ):
            fleet = Fleet(grid, tmp_path, loop)
            fleet.send(window)
            fleet.wait(lambda: (GROUP, window) in fleet.outcomes())
            assert fleet.outcomes()[GROUP, window] == ("unsound", 20)
            # The roster without it reaches the aggregator by itself: the second one that it takes.
            fleet.wait(lambda: (tmp_path / "aggregate.log").read_text().count("roster updated") == 2)
            assert FAULTY not in {entry.meter for entry in grid.authority.enrolment.entries()}
            fleet.send(window + 1)
            fleet.wait(lambda: fleet.outcomes().get((GROUP, window + 1)) == ("", 19))
            fleet.wait(lambda: (FAULTY, window + 1, "not_enrolled") in fleet.refused)
            assert (FAULTY, window) in fleet.committed
            fleet.session.close()
    grid.authority.close()
    assert "ALARM: a total failed its checks" in (tmp_path / "release.log").read_text()
