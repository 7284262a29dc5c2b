"""Counts what happens, and logs it rarely: the first of a kind, then at most one line an hour."""

import logging
from collections import Counter
from collections.abc import Callable

__all__ = ["Tally"]

_LOG = logging.getLogger(__name__)
_EVERY_S = 3_600.0
_KINDS_MAX = 64  # reasons are short fixed words; a device cannot make more of them


class Tally:
    """Counts by reason."""

    def __init__(self, prefix: str, monotonic: Callable[[], float]) -> None:
        """`prefix` begins each log line."""
        self._prefix, self._monotonic = prefix, monotonic
        self.counts: Counter[str] = Counter()
        self._logged: dict[str, tuple[float, int]] = {}  # when, and the count then

    def add(self, reason: str, text: str, count: int = 1, *, level: int = logging.WARNING) -> None:
        """Count `reason`, and log `text` if a line is due."""
        if reason not in self.counts and len(self.counts) >= _KINDS_MAX:
            reason = "other"
        self.counts[reason] += count
        now_s = self._monotonic()
        logged_s, before = self._logged.get(reason, (None, 0))
        if logged_s is not None and now_s - logged_s < _EVERY_S:
            return
        since = self.counts[reason] - before
        _LOG.log(level, "%s: %s%s", self._prefix, text, f" ({since} times)" if since > 1 else "")
        self._logged[reason] = now_s, self.counts[reason]
