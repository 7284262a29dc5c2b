"""Logging to stderr: text on a terminal, else one JSON object per line.

    log = logging.getLogger(__name__)
    log.info("committed", extra={"batches": 412, "group": "north/f1"})

The message is the event's name, the details are in `extra`. JSON lines have `ts` (UTC, ISO 8601), `level`,
`logger`, `event` and the extra fields. Never log secrets. As a second protection, bytes are logged as their
length, fields with names of secrets as `***`, and URLs without their password.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TextIO

from gridhe.base.output import printable
from gridhe.config.settings import LoggingSettings

__all__ = ["set_up_logging"]

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_SECRET = re.compile(
    r"(password|passphrase|secret|credential|private|(ingest|signing|secret|client)_key)", re.IGNORECASE
)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def set_up_logging(settings: LoggingSettings, stream: TextIO | None = None) -> None:
    """Send gridhe's records of `settings.level` and above, and libraries' warnings, to `stream` (or stderr).

    A second call replaces the first one's handler.
    """
    stream = sys.stderr if stream is None else stream
    text = settings.format == "text" or (settings.format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Text() if text else _JsonLines())
    handler.set_name("gridhe")
    root = logging.getLogger()
    for old in [each for each in root.handlers if each.get_name() == "gridhe"]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("gridhe").setLevel(settings.level.upper())
    logging.captureWarnings(True)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _clean(record.getMessage()),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = _clean(self.formatException(record.exc_info))
        return json.dumps(line, default=lambda value: _clean(str(value)))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        room = record.name.removeprefix("gridhe.")
        fields = "".join(f" {name}={_plain(str(value))}" for name, value in _fields(record).items())
        line = f"{at} {record.levelname.lower():7} {room}: {_plain(_clean(record.getMessage()))}{fields}"
        if record.exc_info:
            line += "\n" + printable(_clean(self.formatException(record.exc_info)))
        return line


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {
        name: "***" if _SECRET.search(name) else _shown(value)
        for name, value in record.__dict__.items()
        if name not in _STANDARD
    }


def _shown(value: object) -> object:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {
            str(name): "***" if _SECRET.search(str(name)) else _shown(inner) for name, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_shown(inner) for inner in value]
    return _clean(value) if isinstance(value, str) else value


def _plain(text: str) -> str:
    """`text` on one line and without terminal codes: a record may contain a peer's bytes."""
    return printable(text, keep="")


def _clean(text: str) -> str:
    return _USERINFO.sub("***", text)
