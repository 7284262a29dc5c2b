"""`release/<group>`: each group's newest released window, retained, until the broker has acknowledged it.

    newest      by the window's start, then by part; an older window never replaces a newer one
    unpublished groups whose newest window is not acknowledged: all groups at the start, and again when the
                broker has lost its session state
    sent        published and not acknowledged yet; cleared when the connection is lost
    refused     the broker refused it, or it is larger than the broker's packet limit: `retry` sends it again

None of this is on the disk: answers.db has the released totals, and publishing one again is harmless.
"""

import logging
from collections.abc import Callable, Iterable

from gridhe.broker.client.session import Message, Session
from gridhe.errors import BrokerError
from gridhe.wire import topics
from gridhe.wire.total import TotalKey

__all__ = ["ReleasePublisher"]

_log = logging.getLogger(__name__)


class ReleasePublisher:
    """Publishes on a session. The owner calls `on_connect`, `note` and `retry`."""

    def __init__(
        self,
        session: Session,
        released: Iterable[TotalKey],
        *,
        start_of: Callable[[TotalKey], int],
        payload_of: Callable[[TotalKey], bytes],
    ) -> None:
        """`released`: totals released so far. `start_of` returns the start of a total's window, UTC epoch s.

        `payload_of` returns the payload.
        """
        self._session, self._start_of, self._payload_of = session, start_of, payload_of
        self._released: dict[str, list[TotalKey]] = {}
        for total in sorted(released, key=self._order):
            self._released.setdefault(total.group, []).append(total)
        self._unpublished = set(self._released)
        self._sent: dict[str, TotalKey] = {}
        self._refused: set[str] = set()

    def _order(self, total: TotalKey) -> tuple[int, int]:
        return self._start_of(total), total.part

    @property
    def unpublished(self) -> list[str]:
        """The groups whose newest window the broker has not acknowledged."""
        return sorted(self._unpublished)

    @property
    def at_rest(self) -> bool:
        """Whether nothing is left to publish, apart from groups that the broker refused."""
        return self._unpublished <= self._refused

    def note(self, total: TotalKey) -> None:
        """Publish this newly released total if it is its group's newest."""
        known = self._released.setdefault(total.group, [])
        if known and self._order(total) < self._order(known[-1]):
            return
        self._released[total.group] = [total]
        self._unpublished.add(total.group)
        self._refused.discard(total.group)
        self.publish()

    def on_connect(self, session_present: bool) -> None:
        """Publish again, after a new connection, everything that is not acknowledged."""
        self._sent.clear()
        self._refused.clear()
        if not session_present:
            self._unpublished = set(self._released)
        self.publish()

    def retry(self) -> None:
        """Send the groups again that the broker refused."""
        self._refused.clear()
        self.publish()

    def publish(self) -> None:
        """Send unpublished groups, as far as the connection's buffer has room."""
        for group in sorted(self._unpublished - self._refused):
            if not self._session.writable:
                return
            if self._sent.get(group) == self._released[group][-1]:
                continue
            newest = self._released[group][-1]
            self._send(group, newest, self._payload_of(newest))

    def _send(self, group: str, total: TotalKey, payload: bytes) -> None:
        message = Message(topic=topics.release(group), payload=payload, retain=True)
        try:
            taken = self._session.publish(message, lambda accepted: self._on_puback(total, accepted))
        except BrokerError as error:  # larger than the broker's packet limit
            _log.warning("release of %s is not published: %s", group, error)
            self._refused.add(group)
            return
        if taken:
            self._sent[group] = total

    def _on_puback(self, total: TotalKey, accepted: bool) -> None:
        group = total.group
        if self._sent.get(group) != total:
            return  # a newer one is on its way
        del self._sent[group]
        if accepted:
            self._unpublished.discard(group)
        else:
            self._refused.add(group)
        self.publish()
