"""Resuming what failed totals have stopped, and keeping the roster as the ledger says.

    ask        `gridhe-keyring resume NAME` reads the ledger and, if NAME is stopped, notes it in the
               enrolment
    take up    (1) the release service, which has the ledger locked, writes `resumed`; (2) the inbox sets
               the totals that were refused as `suspended` back to waiting; (3) the note is deleted; (4) the
               enrolment excludes exactly the meters that the ledger excludes

A crash after (1) or (2) leaves the note; the next start finds that nothing is stopped under this name, writes
no second record, and continues. A start tries all refused totals again, so (2) is never missed. A crash
before (4), also one after a failed total's record, is made up for at the next start.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from gridhe.keyring.home.enrolment import Enrolment
from gridhe.keyring.home.paths import HomePaths
from gridhe.keyring.release.ledger import verify_ledger
from gridhe.keyring.release.stops import Stops, check_resumable

__all__ = ["ask_resume", "read_stops", "take_up_exclusions", "take_up_resumes"]

_log = logging.getLogger(__name__)


def read_stops(paths: HomePaths) -> Stops:
    """The stops of a home, also while another process writes its ledger. Raises StateError."""
    stops = Stops()
    verify_ledger(paths.ledger, on_record=stops.record)
    return stops


def ask_resume(paths: HomePaths, names: Iterable[str]) -> list[tuple[str, str]]:
    """Note names to be resumed, all or none; return (kind, name) pairs.

    Raises ConfigError (not stopped, or a key), StateError.
    """
    wanted, stops = list(names), read_stops(paths)
    keys = [plan.key_id for plan in paths.read_plans().values()]
    pairs = [(kind, name) for name in wanted for kind in check_resumable(stops, name, keys=keys)]
    enrolment = Enrolment(paths.enrolment)
    try:
        enrolment.ask_resume(wanted)
    finally:
        enrolment.close()
    return pairs


def take_up_resumes(
    enrolment: Enrolment, *, resume: Callable[[str], None], retry: Callable[[], None]
) -> bool:
    """Do steps 1 to 3; return whether there was a note. Raises StateError.

    `resume(name)` writes the ledger; `retry()` sets the suspended totals back to waiting.
    """
    names = enrolment.resumes()
    if not names:
        return False
    for name in names:
        resume(name)
    retry()
    enrolment.forget_resumes(names)
    _log.warning("resumed", extra={"names": names})
    return True


def take_up_exclusions(enrolment: Enrolment, stops: Stops) -> bool:
    """Do step 4; return whether the roster changed. Raises StateError."""
    returned = {meter: int(datetime.fromisoformat(at).timestamp()) for meter, at in stops.resumed.items()}
    if not enrolment.exclude(stops.excluded, returned=returned):
        return False
    _log.warning("excluded meters changed", extra={"excluded": sorted(stops.excluded)})
    return True
