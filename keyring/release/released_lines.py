"""The lines of the `--out` file: every released total has one line, over all runs and all files.

    give    append the line to the file, on the disk
    mark    store in answers.db that the file has the line (`given`)

A crash before `give` leaves a released total without a line, which the next start writes. A crash between the
two leaves a line without a mark: it is the last line of the file, and the next start only marks it. The marks
are in the home, not in the file: after a move (logrotate) the new file gets the totals released from then on.
(If a crash comes between the two *and* the file is moved before the next start, both files get that line.)

`complete` is for a separate file (`--all`, or a run that asks for certain groups or windows): it gets each
total that it lacks, independent of other files, and nothing is marked.

A refusal has a line too, one for each new reason. The inbox's state serves as its mark.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gridhe.base.failpoints import failpoint
from gridhe.errors import StateError
from gridhe.keyring.release.out_file import OutFile
from gridhe.keyring.release.queue import ReleaseOutcome
from gridhe.keyring.release.releaser import Releaser
from gridhe.wire.total import TotalKey

__all__ = ["ReleasedLines"]

_log = logging.getLogger(__name__)
_Line = tuple[TotalKey, str]  # the total, and the reason of a refusal ("" if released)


class ReleasedLines:
    """The lines of one `--out` file."""

    def __init__(
        self,
        path: Path,
        releaser: Releaser,
        *,
        complete: bool,
        wanted: Callable[[TotalKey], bool],
        record_of: Callable[[TotalKey], dict[str, Any]],
    ) -> None:
        """Open the file and write the lines that are missing in it.

        `record_of` returns an answered total's record. Raises ConfigError and StateError as OutFile does;
        StateError also if the file has a released total that is not in answers.db.
        """
        self._answers, self._complete = releaser.answers, complete
        self._file = OutFile(path)
        try:
            missing: list[TotalKey] = []
            if not complete:
                unmarked = self._answers.not_given()
                missing = [each for each in unmarked if releaser.knows_plan(each.plan) and wanted(each)]
            if complete or missing:
                self._held = self._lines_of(self._file.lines(), releaser)
            else:
                last = self._file.last()
                self._held = self._lines_of([] if last is None else [last], releaser)
            self._catch_up(missing, record_of)
        except BaseException:
            self._file.close()
            raise

    def _lines_of(self, records: Iterable[Mapping[str, Any]], releaser: Releaser) -> set[_Line]:
        held: set[_Line] = set()
        for record in records:
            line = _line_of(record)
            if line is None:
                continue
            total, refused = line
            if not refused and releaser.knows_plan(total.plan) and not releaser.answered(total):
                raise StateError(
                    f"{self._file.path} holds {total}, and "
                    f"{self._answers.path} does not know it: the home is older than the file; restore a "
                    "newer copy of the whole home"
                )
            held.add(line)
        return held

    def _catch_up(self, missing: list[TotalKey], record_of: Callable[[TotalKey], dict[str, Any]]) -> None:
        written = 0
        for total in missing:
            if (total, "") not in self._held:
                self._file.append(record_of(total))
                written += 1
            self._answers.mark_given(total)
        if written:
            _log.warning("%s lacked %d released totals: written", self._file.path, written)

    def give(self, outcome: ReleaseOutcome) -> None:
        """Steps 7 and 8 of a release (gridhe.keyring.release.releaser). Raises StateError."""
        stored, total = outcome.stored, outcome.stored.total
        released = outcome.record is not None
        line = (total, "" if released else outcome.message)
        if released and not self._complete and self._answers.given(total):
            return
        repeated = not released and not self._complete and stored.message == outcome.message
        if line not in self._held and not repeated:
            self._file.append(outcome.to_json())
            if self._complete:
                self._held.add(line)
        failpoint("release.7.given")
        if released and not self._complete:
            self._answers.mark_given(total)
        failpoint("release.8.marked")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line_of(record: Mapping[str, Any]) -> _Line | None:
    try:
        total = TotalKey(
            str(record["plan"]), str(record["group"]), int(record["window"]), int(record["part"])
        )
        return total, str(record["message"]) if "refused" in record else ""
    except (KeyError, TypeError, ValueError):
        return None
