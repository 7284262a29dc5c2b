"""The work of `gridhe-keyring release` and `bundle --publish` on a home: once, or until stopped."""

import json
import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.mosquitto_config import AUTHORITY_USER
from gridhe.config.settings import Settings
from gridhe.errors import BrokerError
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.release.consistency import INBOX, ROSTER, check_released, check_roster, open_inbox
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.ledger import START
from gridhe.keyring.release.publisher import ReleasePublisher
from gridhe.keyring.release.queue import ReleaseOutcome, ReleaseQueue
from gridhe.keyring.release.receiver import Receiver
from gridhe.keyring.release.released_lines import ReleasedLines
from gridhe.keyring.release.releaser import Releaser
from gridhe.keyring.release.report import parse_window
from gridhe.keyring.release.resuming import take_up_exclusions, take_up_resumes
from gridhe.plan.names import ROOT_GROUP, ancestors
from gridhe.plan.plan import Plan
from gridhe.wire import topics
from gridhe.wire.ingest import derive_key
from gridhe.wire.total import TotalKey

__all__ = ["ReleaseService", "publish_bundles", "utc_now"]

_log = logging.getLogger(__name__)
_CHANGES_S = 2.0  # `release --follow` checks for a new enrolment or key in this interval
_FLUSH_S = 30.0
_PUBLISH_S = 5.0  # retry of releases that the connection's buffer had no room for
_REFUSED_S = 60.0  # retry of releases that the broker refused: its configuration must change first
_LONGEST_IDLES = 10
_DROPPED_S = 3600.0  # dropped totals add at most one ledger line per hour, because anybody can send junk


def utc_now() -> str:
    """The current time in the ledger's format: ISO, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ReleaseService:
    """Receives totals and releases them; calls `emit` with each outcome at once."""

    def __init__(
        self,
        authority: AuthorityHome,
        settings: Settings,
        *,
        emit: Callable[[ReleaseOutcome], None],
        groups: Sequence[str] = (),
        windows: Sequence[str] = (),
        released_too: bool = False,
        out: Path | None = None,
        complete: bool = False,
        now: Callable[[], str] = utc_now,
    ) -> None:
        """Open inbox, ledger, answers and `out`. Raises StateError (in use, damaged), ConfigError (a window).

        With `groups` or `windows` only those are released, and given again if they already were;
        `released_too` gives everything again. `out` gets a JSON line for each outcome
        (gridhe.keyring.release.released_lines, also for `complete`).
        """
        self._authority, self._settings, self._emit, self._now = authority, settings, emit, now
        self._groups, self._windows = frozenset(groups), tuple(windows)
        self._plans: dict[str, Plan] = {}
        self._read_plans()
        for window in windows:
            for plan in self._plans.values():
                parse_window(window, plan.window_s)
        asked = bool(groups or windows)
        self._first_states = ("waiting", "refused", *(("released",) if asked or released_too else ()))
        self._worked_on = 0  # totals stored when the queue was last worked on
        self._resumed = False  # since the queue was last worked on
        self._publisher: ReleasePublisher | None = None
        self._receiver_online: Receiver | None = None
        self._lines: ReleasedLines | None = None
        self._dropped: Counter[str] = Counter()  # dropped totals that the ledger has
        with ExitStack() as stack:
            self._open_files(stack)
            self._queue = ReleaseQueue(
                self._inbox,
                self._releaser,
                settings.release,
                wanted=self._wanted,
                needed=self._needed,
                settled=self._settled,
            )
            if out is not None:
                self._lines = ReleasedLines(
                    out,
                    self._releaser,
                    complete=complete,
                    wanted=self._wanted,
                    record_of=self._record_of,
                )
                stack.callback(self._lines.close)
            self._take_up_stops()
            self._open = stack.pop_all()

    def _open_files(self, stack: ExitStack) -> None:
        """Open ledger, answers and inbox, and check them against each other. Raises StateError."""
        authority, paths = self._authority, self._authority.paths
        with ExitStack() as opened:
            known = Inbox(paths.inbox) if paths.inbox.exists() else None
            if known is not None:
                opened.callback(known.close)
            self._releaser = opened.enter_context(
                Releaser(
                    paths,
                    plans=self._plans,
                    secrets=lambda: authority.vault.secrets,
                    enrolment=authority.enrolment,
                    settings=self._settings.release,
                    now=self._now,
                    inbox_head=START if known is None else known.head(),
                    versions=lambda: {INBOX: self._inbox.commits, ROSTER: authority.enrolment.version},
                )
            )
            check_roster(paths.enrolment, authority.enrolment.version, self._releaser.answers)
            self._inbox = open_inbox(paths.inbox, known, self._releaser)
            if known is None:
                opened.callback(self._inbox.close)
            check_released(self._inbox, self._releaser)
            stack.push(opened.pop_all())

    def close(self) -> None:
        """Close inbox, ledger and answers."""
        self._open.close()

    def __enter__(self) -> "ReleaseService":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read_plans(self) -> None:
        bundles = self._authority.paths.read_bundles()
        self._plans.update({plan_id: bundle.plan for plan_id, (bundle, _) in bundles.items()})
        self._bundles = list(bundles.values())

    def _aggregators(self) -> dict[str, bytes]:
        return {each.name: each.verify_key for each in self._authority.enrolment.aggregators()}

    def _wanted(self, total: TotalKey) -> bool:
        return (not self._groups or total.group in self._groups) and self._in_windows(total)

    def _in_windows(self, total: TotalKey) -> bool:
        plan = self._plans.get(total.plan)
        if not self._windows:
            return True
        return plan is not None and total.window in {parse_window(w, plan.window_s) for w in self._windows}

    def _needed(self, total: TotalKey) -> bool:
        """Whether a wanted total may name this one as a piece, or is it: groups include those inside them."""
        if not self._groups or ROOT_GROUP in self._groups:
            return self._in_windows(total)
        return not self._groups.isdisjoint((total.group, *ancestors(total.group))) and self._in_windows(total)

    def _record_of(self, total: TotalKey) -> dict[str, Any]:
        return self._queue.again(total).to_json()

    def offline(self) -> list[ReleaseOutcome]:
        """Release totals of the inbox, without a broker."""
        outcomes = self._queue.work(states=self._first_states, give=self._give)
        self._take_up_stops()
        return outcomes

    def _take_up_stops(self) -> None:
        """Resume what `gridhe-keyring resume` asked for, and exclude the meters that the ledger excludes."""
        enrolment = self._authority.enrolment
        if take_up_resumes(
            enrolment, resume=self._releaser.resume, retry=lambda: self._inbox.retry("suspended")
        ):
            self._resumed = True
        take_up_exclusions(enrolment, self._releaser.stops)

    def _give(self, outcome: ReleaseOutcome) -> None:
        """Do steps 7 and 8 of a release and start step 10 (gridhe.keyring.release.releaser)."""
        if self._lines is not None:
            self._lines.give(outcome)
        self._emit(outcome)
        if self._publisher is not None and outcome.record is not None:
            self._publisher.note(outcome.stored.total)

    def _settled(self, outcome: ReleaseOutcome) -> None:
        """Send the receipt of a total that has its verdict."""
        if self._receiver_online is not None:
            self._receiver_online.verdict(outcome.aggregator, outcome.stored.total, outcome.rule)

    def online(self, *, idle_s: float, follow: bool) -> list[ReleaseOutcome]:
        """Receive totals until none has arrived for `idle_s`, then release and send receipts.

        Repeats that until no receipt was sent, because an aggregator makes wider totals of opened ones when
        it has their receipts; `follow`: until stopped.
        SIGTERM and SIGINT end `follow`; all totals that arrived are stored by then. Returns the outcomes;
        with `follow` none, to bound memory. Raises BrokerError if the broker is not reachable at the start,
        or (without `follow`) has not acknowledged all releases at the end.
        """
        outcomes: list[ReleaseOutcome] = []
        with EventLoop() as loop, self._stopped_by_signals(loop, follow) as stopping:
            receiver = self._receiver(loop)
            receiver.connect(self._settings.broker.connect_timeout_s)
            loop.every(_CHANGES_S, lambda: self._take_up_changes(receiver))
            loop.every(_DROPPED_S, lambda: self._note_dropped(receiver.counts))
            states: Sequence[str] = self._first_states
            receipts = receiver.receipts
            while not stopping:
                # With `follow`, release even if totals never pause; a single run waits for all of them.
                longest_s = _LONGEST_IDLES * idle_s if follow else None
                loop.run_until(lambda: bool(stopping) or receiver.idle_for_s() >= idle_s, longest_s)
                if stopping:
                    break
                self._worked_on, self._resumed = receiver.stored, False
                done = self._queue.work(states=states, give=self._give)
                self._take_up_changes(receiver)
                receiver.commit()
                states = ("waiting",)
                if not follow:
                    outcomes += done
                    if receiver.receipts == receipts:
                        break
                    receipts = receiver.receipts
                    receiver.wait_again()
                    continue
                # Wait for the next total, or for totals that may be tried again.
                loop.run_until(
                    lambda: bool(stopping) or self._resumed or receiver.stored > self._worked_on, None
                )
            receiver.flush(_FLUSH_S)
            self._finish_publishing(loop, receiver, follow=follow)
            receiver.close()
            self._note_dropped(receiver.counts)
        return outcomes

    def _finish_publishing(self, loop: EventLoop, receiver: Receiver, *, follow: bool) -> None:
        publisher = self._publisher
        if publisher is None:
            return
        # With `follow`, do not wait for a lost broker: the next start publishes again.
        loop.run_until(lambda: publisher.at_rest or (follow and not receiver.session.connected), _FLUSH_S)
        if publisher.unpublished:
            error = BrokerError(
                f"the broker did not accept release/{publisher.unpublished[0]} "
                f"({len(publisher.unpublished)} in all); "
                "is its ACL written by this version (run enrol or ca), is its max_packet_size large enough? "
                "The next start publishes again"
            )
            if not follow:
                raise error
            _log.warning("%s", error)

    def _note_dropped(self, counts: Counter[str]) -> None:
        """Write to the ledger how many totals were dropped since the last call, by reason."""
        reasons = counts - self._dropped
        if reasons:
            self._releaser.note_dropped(reasons)
            self._dropped = Counter(counts)
            _log.warning("totals dropped", extra={"reasons": dict(reasons)})

    def _receiver(self, loop: EventLoop) -> Receiver:
        authority = self._authority
        self._version, self._counts = authority.enrolment.version, self._releaser.stops.counts()
        receiver = Receiver(
            loop,
            settings=self._settings.broker,
            password=authority.broker_password,
            inbox=self._inbox,
            bundles=self._bundles,
            roster=authority.roster(),
            aggregators=self._aggregators(),
            ingest_key=lambda name: derive_key(authority.vault.secrets.ingest_secret, name),
            now=self._now,
            alarms=self._releaser.stops.counts,
            on_connect=self._on_connect,
        )
        self._receiver_online = receiver
        if self._settings.release.publish:
            totals = self._releaser.answered_totals()
            self._publisher = ReleasePublisher(
                receiver.session,
                [total for total in totals if total.plan in self._plans],
                start_of=lambda total: self._plans[total.plan].window_start_s(total.window),
                payload_of=self._payload_of,
            )
            loop.every(_PUBLISH_S, self._publisher.publish)
            loop.every(_REFUSED_S, self._publisher.retry)
        return receiver

    def _on_connect(self, session_present: bool) -> None:
        if self._publisher is not None:
            self._publisher.on_connect(session_present)

    def _payload_of(self, total: TotalKey) -> bytes:
        return json.dumps(self._record_of(total), separators=(",", ":")).encode()

    def _take_up_changes(self, receiver: Receiver) -> None:
        """Load and publish the changes of another gridhe-keyring, and the exclusions of this one.

        Such changes are enrolments, new keys, retired keys, and names to resume.
        """
        self._take_up_stops()
        if (counts := self._releaser.stops.counts()) != self._counts:
            self._counts = counts
            receiver.publish_status()
        authority = self._authority
        version, known = authority.enrolment.version, len(self._bundles)
        if len(list(authority.paths.plans.glob("*.bundle"))) == known and version == self._version:
            return
        self._read_plans()
        authority.vault.reload()  # after the plans, because a plan's key is saved before its bundle
        self._releaser.drop_retired_keys()
        self._version = version
        receiver.update(self._bundles, authority.roster(), self._aggregators())
        _log.info("enrolment changed: published again", extra={"roster_version": version})

    @contextmanager
    def _stopped_by_signals(self, loop: EventLoop, follow: bool) -> Iterator[list[bool]]:
        """Yield a list that is not empty after a signal to stop; signals are handled only with `follow`."""
        stopping: list[bool] = []

        def stop() -> None:
            stopping.append(True)
            loop.stop()

        with loop.on_signals((signal.SIGTERM, signal.SIGINT) if follow else (), stop):
            yield stopping


def publish_bundles(authority: AuthorityHome, settings: Settings) -> int:
    """Publish all plans and the roster, retained; return the number of plans. Raises BrokerError.

    It uses a separate client id, so that the broker does not disconnect a running authority. A broker that
    forces the user name as client id disconnects it for a moment; it then reconnects.
    """
    bundles = list(authority.paths.read_bundles().values())
    messages = [
        Message(topic=topics.plan(bundle.plan.plan_id), payload=data, retain=True) for bundle, data in bundles
    ]
    messages.append(Message(topic=topics.PLAN_CURRENT, payload=bundles[-1][1], retain=True))
    messages.append(Message(topic=topics.ROSTER_CURRENT, payload=authority.roster(), retain=True))
    with EventLoop() as loop:
        session = Session(
            settings=settings.broker,
            client_id=f"{AUTHORITY_USER}-publish",
            username=AUTHORITY_USER,
            password=authority.broker_password,
            on_message=lambda topic, payload: None,
        )
        loop.add(session)
        if not loop.run_until(lambda: session.connected, settings.broker.connect_timeout_s):
            raise BrokerError(f"{session.last_error or 'no answer'}; is the broker at {session.url} running?")
        for message in messages:
            session.publish(message)
        if not loop.run_until(lambda: session.in_flight == 0, _FLUSH_S) or session.refused:
            raise BrokerError(
                f"the broker at {session.url} did not accept the plans; are its ACL and conf up to date?"
            )
        session.close()
    return len(bundles)
