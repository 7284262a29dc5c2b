"""Checks, before anything is released, that the files of a home belong together.

The ledger records decisions, answers.db the released integers, inbox.db the totals that arrived, enrolment.db
the trusted aggregators. If only one of them is restored from an older backup, the policy no longer knows all
released totals, and could release two totals that differ by one household. So each file records the state of
the others:

    answers.db  with each answer: the ledger's head, the inbox's transactions, the roster's version;
                with each decision's member lists: the ledger's head
    inbox.db    with each total's new state: the ledger's head
    ledger      with each `answered` record: the digest of the answer; with each `decided` record: the
                digests of its member lists

    restored alone          noticed because
    ledger older            answers.db or inbox.db was written under a later head
    ledger and answers      inbox.db was written under a later head, or has released totals without a decision
    answers older           the ledger has an answer or a member list that answers.db lacks
    inbox older             it had more transactions when an answer was stored
    enrolment older         its roster was newer when an answer was stored (it may still trust a revoked
                            aggregator)
    one of them missing     the same, as of an empty file

A home restored as a whole is consistent. An `--out` file that is newer than the home is detected by its lines
(gridhe.keyring.release.released_lines).

If the inbox is lost and has no backup, only the totals that waited in it are lost, no decisions. The operator
accepts the loss by putting an empty file in its place.
"""

import logging
from pathlib import Path

from gridhe.errors import StateError
from gridhe.keyring.release.answers import Answers
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.ledger import START
from gridhe.keyring.release.releaser import Releaser

__all__ = ["INBOX", "ROSTER", "check_released", "check_roster", "open_inbox"]

_log = logging.getLogger(__name__)
INBOX, ROSTER = "inbox", "roster"  # the names of versions in answers.db


def open_inbox(path: Path, known: Inbox | None, releaser: Releaser) -> Inbox:
    """`known`, or a new inbox for a new home. Raises StateError: missing, or older than the answers."""
    answers, ledger = releaser.answers, releaser.ledger
    if known is None:
        if ledger.head != START:
            raise StateError(
                f"{path} is missing, and {ledger.path} has {ledger.head.count} records; restore it, "
                f"{_or_give_it_up(path)}"
            )
        return Inbox(path)
    before = answers.version(INBOX)
    if known.commits == 0 and ledger.head != START:
        _log.warning("%s is empty: totals that waited in the previous inbox are lost", path)
        known.begin_after(before)
    elif known.commits < before:
        raise StateError(
            f"{path} is older than {answers.path.name}: it has {known.commits} transactions, and had "
            f"{before} when an answer was stored; restore a newer copy, {_or_give_it_up(path)}"
        )
    return known


def _or_give_it_up(path: Path) -> str:
    stem = path.with_suffix("")
    return (
        "or, if there is no copy, give up the totals that waited in it: move "
        f"{stem}.* away and run: install -m 600 /dev/null {path}"
    )


def check_released(inbox: Inbox, releaser: Releaser) -> None:
    """Raise StateError unless every total marked as released in the inbox was decided and answered."""
    for total in inbox.released():
        if releaser.policy.decided(total) is None:
            raise StateError(
                f"{inbox.path.name} has {total} as released, and {releaser.ledger.path} never decided "
                "it: the ledger is older than the inbox; restore newer copies of ledger and answers"
            )
        if not releaser.answered(total):
            raise StateError(
                f"{inbox.path.name} has {total} as released, and {releaser.answers.path} has no "
                "answer: it is older than the inbox; restore a newer copy of it"
            )


def check_roster(path: Path, version: int, answers: Answers) -> None:
    """Raise StateError if the enrolment is older than the answers."""
    before = answers.version(ROSTER)
    if version < before:
        raise StateError(
            f"{path} is older than {answers.path.name}: its roster is version {version}, and was {before} "
            "when an answer was stored, so it may trust a revoked aggregator; restore a newer copy"
        )
