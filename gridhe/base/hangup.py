"""SIGHUP in long-running commands: it does not end them, and they have nothing to reload."""

import logging
import signal
from types import FrameType

__all__ = ["ignore_hangups"]

_LOG = logging.getLogger(__name__)


def ignore_hangups() -> None:
    """Log and ignore SIGHUP from now on. Under nohup it is already ignored, without a log line."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _note)


def _note(_number: int, _frame: FrameType | None) -> None:
    _LOG.info("SIGHUP is ignored: settings and credentials are read at a start; restart to change them")
