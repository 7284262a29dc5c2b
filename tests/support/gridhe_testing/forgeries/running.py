"""A running grid under attack: mosquitto, `gridhe-aggregate` and `gridhe-keyring release --follow`.

Group north/k5 has the victim and the rogue meter, group north/k6 is honest. The meters' own programs do not
run: this process publishes their sealed batches, each as its own broker user.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.mosquitto_config import FLEET_USER, aggregator_user
from gridhe.config.settings import AggregatorSettings, BrokerSettings, Settings
from gridhe.wire import topics
from gridhe.wire.credential import load_fleet
from gridhe.wire.envelope import Header, envelope_key, seal_envelope
from gridhe_testing.commands import Shell, free_port, wait_for
from gridhe_testing.forgeries.attack import Attack, Forged
from gridhe_testing.forgeries.residues import Residues
from gridhe_testing.forgeries.targets import Target, Targets, small_plan

__all__ = ["RunningGrid", "running_grid"]

_WINDOW_S = 3_600
_WAIT_S = 40.0
_SUPPORT = Path(__file__).parents[2]
_STATUS = (topics.PLAN_CURRENT, topics.status_aggregator("+"))
_PASSPHRASE = "correct horse battery"


class RunningGrid:
    """The processes' files, and sessions of broker users."""

    def __init__(self, folder: Path, targets: Targets, loop: EventLoop) -> None:
        self.folder, self.targets, self._loop = folder, targets, loop
        self.released = folder / "released.jsonl"
        self.target, self.honest = targets.targets[5], targets.targets[6]
        self.attack = Attack(targets, self.target)
        self._sessions: dict[str, Session] = {}
        self._seen: set[str] = set()  # retained topics that show who is online

    # -- publishing ------------------------------------------------------------------------------

    def _session(self, user: str, password: str | None) -> Session:
        if user not in self._sessions:
            session = Session(
                settings=self.targets.settings.broker,
                client_id=user,
                username=user,
                password=password,
                on_message=self._on_message,
                subscriptions=_STATUS if user == FLEET_USER else (),
            )
            self._loop.add(session)
            self._sessions[user] = session
            self.until(lambda: session.connected)
        return self._sessions[user]

    def _on_message(self, topic: str, payload: bytes) -> None:
        self._seen.add(topic)

    def _publish(self, session: Session, topic: str, payload: bytes) -> None:
        assert session.publish(Message(topic=topic, payload=payload))
        self.until(lambda: session.in_flight == 0)
        assert not session.refused

    def wait_for(self, *retained: str) -> None:
        """Return when these retained messages are there: their senders are online."""
        self._session(FLEET_USER, load_fleet(self.targets.fleet_file).password)
        self.until(lambda: set(retained) <= self._seen)

    def send_batches(self, target: Target, *, without: str = "") -> None:
        """Publish the honest batches of a group as user `fleet`."""
        session = self._sessions[FLEET_USER]
        for meter, envelope in target.envelopes.items():
            if meter != without:
                self._publish(session, topics.batch(target.group, meter), envelope)

    def send_as_rogue(self, residues: Residues, proof: bytes) -> None:
        """Publish these residues as the rogue meter's batch, in its own valid envelope, as its own user."""
        credential, plan = self.target.rogue_credential, self.targets.plan
        header = Header(
            plan=plan.plan_id,
            key=plan.key_id,
            meter=credential.meter,
            group=credential.group,
            window=self.targets.window,
            proof=proof,
        )
        planes = self.targets.planes.pack(residues)
        envelope = seal_envelope(header, planes, envelope_key(credential.ingest_key))
        session = self._session(credential.meter, credential.password)
        self._publish(session, topics.batch(credential.group, credential.meter), envelope)

    def send_forged_batch(self, forged: Forged) -> None:
        """Publish the rogue meter's batch that makes the sum of the group this forged total."""
        others = self.attack.instead(self.target.rogue.residues)
        batch = self.attack.ring.sum(forged.residues, self.attack.ring.minus(others))
        self.send_as_rogue(batch, forged.proofs[self.target.rogue.meter])

    def send_total(self, target: Target, payload: bytes, *, aggregator: str = "main") -> None:
        """Publish a signed total as the aggregator's user."""
        password = self.targets.aggregators[aggregator].password
        session = self._session(aggregator_user(aggregator), password)
        self._publish(session, topics.total(target.group), payload)

    # -- what came out ---------------------------------------------------------------------------

    def until(self, predicate: Callable[[], bool], wait_s: float = _WAIT_S) -> None:
        """Serve the sessions until it holds."""
        watch = self._loop.every(0.05, lambda: None)
        held = self._loop.run_until(predicate, wait_s)
        watch.cancel()
        logs = [path.read_text()[-1500:] for path in sorted(self.folder.glob("*.log"))]
        assert held, "\n".join(["what the test waits for did not happen", *logs])

    def lines(self) -> list[dict[str, Any]]:
        """The lines of released totals; those of refusals have no numbers."""
        return [line for line in _json_lines(self.released) if "refused" not in line]

    def groups(self) -> set[str]:
        """The groups of released totals."""
        return {line["group"] for line in self.lines()}

    def ledger(self, kind: str) -> list[dict[str, Any]]:
        """The ledger's lines of this kind."""
        return [line for line in _json_lines(self.targets.home.paths.ledger) if line["kind"] == kind]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines; the last one may be in the making."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


@contextmanager
def running_grid(
    folder: Path,
    mosquitto: Path,
    *,
    aggregate: bool,
    unchecked: str = "",
) -> Iterator[RunningGrid]:
    """Start everything; `aggregate`: an aggregator too. `unchecked`: checks that the authority leaves out."""
    url = f"mqtt://127.0.0.1:{free_port()}"
    settings = Settings(
        broker=BrokerSettings(url=url),
        aggregator=AggregatorSettings(commit_interval_s=0.1),
        plan=small_plan(window_s=_WINDOW_S, interval_s=900, grace_s=3.0),
    )
    window = int(time.time()) // _WINDOW_S - 2
    targets = Targets(folder, (5, 6), settings=settings, window=window)
    home = targets.home.paths.home
    (folder / "gridhe.yaml").write_text(settings.model_dump_json())
    shell = Shell(folder, {"GRIDHE_PASSPHRASE": _PASSPHRASE, "PYTHONPATH": str(_SUPPORT)})
    keyring = ["gridhe-keyring"]
    if unchecked:
        keyring = ["python", "-m", "gridhe_testing.forgeries.mutants", unchecked, "gridhe.keyring.cli"]
    with ExitStack() as stack:
        conf = str(home / "broker" / "mosquitto.conf")
        broker = stack.enter_context(shell.running(str(mosquitto), "-c", conf, log="mosquitto.log"))
        wait_for(int(url.rpartition(":")[2]), broker)
        follow = [*keyring, "release", "--home", str(home), "--follow", "--idle-s", "0.3"]
        follow += ["--config", "gridhe.yaml", "--out", "released.jsonl"]
        stack.enter_context(shell.running(*follow, log="keyring.log"))
        if aggregate:
            credential = home / "credentials" / f"{aggregator_user('main')}.json"
            command = ["gridhe-aggregate", "--credential", str(credential), "--state-dir", "aggregator"]
            stack.enter_context(
                shell.running(*command, "--config", "gridhe.yaml", "--no-live", log="aggregator.log")
            )
        loop = stack.enter_context(EventLoop())
        grid = RunningGrid(folder, targets, loop)
        grid.wait_for(topics.PLAN_CURRENT, *([topics.status_aggregator("main")] if aggregate else []))
        yield grid
    targets.close()
