"""A file of readings on disk, which may grow: read once, and again when it has changed."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from gridhe.errors import SourceError
from gridhe.meter_agent.sources.files.plain import Choose
from gridhe.meter_agent.sources.files.read import read_file
from gridhe.meter_agent.sources.files.table import Table

__all__ = ["RecordedFile", "log_findings"]

_LOG = logging.getLogger(__name__)
_LOOK_S = 5.0
_SHOWN = 5


class RecordedFile:
    """The readings of a file, as it is now."""

    def __init__(
        self,
        path: Path,
        *,
        format_name: str,
        options: Mapping[str, str],
        choose: Choose | None,
        follow: bool,
        monotonic: Callable[[], float],
    ) -> None:
        """`follow`: look every few seconds whether it has changed. Raises SourceError and ConfigError."""
        self._path, self._format, self._options, self._choose = path, format_name, options, choose
        self.follow, self._monotonic = follow, monotonic
        self._looked_s = monotonic()
        self._seen = self._mark()
        self.table = self._read()

    def _read(self) -> Table:
        table = read_file(
            self._path,
            format_name=self._format,
            options=self._options,
            choose=self._choose,
            whole_lines=self.follow,
        )
        log_findings(table)
        return table

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            state = self._path.stat()
        except OSError:
            return None
        return state.st_size, state.st_mtime_ns, state.st_ino

    def changed(self) -> bool:
        """Read the file again if it has changed. Returns whether `table` is new.

        A file that cannot be read now, as while it is being written, is read after its next change.
        """
        now_s = self._monotonic()
        if not self.follow or now_s < self._looked_s + _LOOK_S:
            return False
        self._looked_s = now_s
        mark = self._mark()
        if mark is None or mark == self._seen:
            return False
        self._seen = mark
        try:
            self.table = self._read()
        except SourceError as error:
            _LOG.warning("the readings before its change are kept: %s", error)
            return False
        return True


def log_findings(table: Table) -> None:
    """Say how the file was read, and warn about all that was set aside. No cell's content is logged."""
    findings = table.findings
    _LOG.info("%s is read as %s: %s", table.path, table.format, table.decided)
    for reason, count in findings.open_counts.items():
        places = [str(each) for each in findings.kept if each.reason == reason and not each.settled]
        first = "" if not places else f" (first at {places[0].rpartition(':')[0]})"
        _LOG.warning("%s: set aside %d times: %s%s", table.path, count, reason, first)
    settled = {reason: n - findings.open_counts[reason] for reason, n in findings.counts.items()}
    told = ", ".join(f"{count} times: {reason}" for reason, count in settled.items() if count)
    if told:
        _LOG.info("%s: %s", table.path, told)
