"""The files of a home belong together: what must hold between them, checked before anything is released.

The ledger says what was decided, answers.db what was given out, inbox.db what arrived, enrolment.db whose
totals count. If one is restored from an older backup and the others are not, the policy decides without
knowing what was released, and two totals may then differ by a household. So each file remembers how far the
others were:

    answers.db  with each answer: the ledger's head, the inbox's transactions, the roster's version
    inbox.db    with each total's fate: the ledger's head
    ledger      with each `answered` record: the digest of the answer

    restored alone          noticed because
    ledger older            answers.db or inbox.db was written under a later head
    ledger and answers      inbox.db was written under a later head, or has released totals without a decision
    answers older           the ledger has an answer that answers.db lacks
    inbox older             it had more transactions when an answer was stored
    enrolment older         its roster was newer when an answer was stored (it may still trust a revoked
                            aggregator)
    one of them missing     the same, as of an empty file

A home restored as a whole is consistent. If the `--out` file is newer than the home, its lines show that
(gridhe.keyring.release.out_file).

An inbox may be lost for good: only totals that waited in it are lost then, no decision. An operator says so
by putting an empty file in its place.
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
    """`known`, or a new inbox where one may begin. Raises StateError: missing, or older than the answers."""
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
        _log.warning("%s is empty: totals that waited in the one before are lost", path)
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
        "or, if there is none, give up the totals that waited in it: move "
        f"{stem}.* away and run: install -m 600 /dev/null {path}"
    )


def check_released(inbox: Inbox, releaser: Releaser) -> None:
    """Every total that the inbox has as released was decided and answered. Raises StateError."""
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
    """The enrolment is no older than the answers. Raises StateError."""
    before = answers.version(ROSTER)
    if version < before:
        raise StateError(
            f"{path} is older than {answers.path.name}: its roster is version {version}, and was {before} "
            "when an answer was stored, so it may trust whom you have revoked; restore a newer copy"
        )
