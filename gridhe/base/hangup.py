"""SIGHUP and commands that run for long: it must not end them, and there is nothing to reload."""

import logging
import signal
from types import FrameType

__all__ = ["ignore_hangups"]

_LOG = logging.getLogger(__name__)


def ignore_hangups() -> None:
    """Let SIGHUP be a line in the log from now on. Under nohup it stays ignored without one."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _note)


def _note(_number: int, _frame: FrameType | None) -> None:
    _LOG.info("SIGHUP is ignored: settings and credentials are read at a start; restart to change them")
