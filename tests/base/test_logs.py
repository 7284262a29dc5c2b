"""Logs: JSON lines for programs, text for people, and no secret in either."""

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from gridhe.base.logs import set_up_logging
from gridhe.config.settings import LoggingSettings

LOG = logging.getLogger("gridhe.room.module")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def start() -> Iterator[Callable[..., io.StringIO]]:
    def start(stream: io.StringIO | None = None, **settings: Any) -> io.StringIO:
        stream = io.StringIO() if stream is None else stream
        set_up_logging(LoggingSettings(**settings), stream)
        return stream

    yield start
    logging.captureWarnings(False)
    root = logging.getLogger()
    for handler in [each for each in root.handlers if each.get_name() == "gridhe"]:
        root.removeHandler(handler)
    logging.getLogger("gridhe").setLevel(logging.NOTSET)


def test_behind_a_pipe_each_record_is_one_json_line(start: Callable[..., io.StringIO]) -> None:
    stream = start()
    LOG.info("committed %d", 4, extra={"group": "north/f1", "batches": 4, "windows": (1, 2)})
    LOG.warning("two\nlines")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert datetime.fromisoformat(first.pop("ts")).utcoffset() is not None
    assert first == {
        "level": "info",
        "logger": "gridhe.room.module",
        "event": "committed 4",
        "group": "north/f1",
        "batches": 4,
        "windows": [1, 2],
    }
    assert (second["level"], second["event"]) == ("warning", "two\nlines")


def test_on_a_terminal_it_is_text(start: Callable[..., io.StringIO]) -> None:
    stream = start(Terminal())
    LOG.info("committed", extra={"group": "north/f1", "batches": 4})
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d info    room\.module: committed group=north/f1 batches=4\n", stream.getvalue()
    )


def test_the_format_can_be_forced(start: Callable[..., io.StringIO]) -> None:
    json_stream = start(Terminal(), format="json")
    LOG.info("one")
    assert json.loads(json_stream.getvalue())["event"] == "one"
    text_stream = start(format="text")
    LOG.info("two")
    assert text_stream.getvalue().endswith("room.module: two\n")
    assert "two" not in json_stream.getvalue()  # set up again: the last set-up alone holds


def test_only_the_level_and_above_is_logged(start: Callable[..., io.StringIO]) -> None:
    stream = start(level="warning")
    LOG.info("no")
    LOG.warning("yes")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes"]


def test_libraries_are_heard_from_warning_up(start: Callable[..., io.StringIO]) -> None:
    stream = start(level="debug")
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("deprecated", UserWarning, stacklevel=1)
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events[0] == "trouble"
    assert "deprecated" in events[1]


def test_an_exception_is_part_of_its_line(start: Callable[..., io.StringIO]) -> None:
    stream = start()
    try:
        raise ValueError("broken")
    except ValueError:
        LOG.exception("failed")
    line = json.loads(stream.getvalue())
    assert line["event"] == "failed"
    assert line["exception"].endswith("ValueError: broken")


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_gets_into_a_log(start: Callable[..., io.StringIO], form: str) -> None:
    stream = start(format=form)
    fields = {
        "password": "hunter2",
        "ingest_key": "hunter2",
        "settings": {"passphrase": "hunter2", "url": "mqtts://user:hunter2@broker:8883"},
        "tags": [b"hunter2"],
        "raw": b"hunter2",
    }
    LOG.info("cannot connect to mqtt://m1:hunter2@broker:1883", extra=fields)
    assert "hunter2" not in stream.getvalue()
    assert "mqtt://***@broker:1883" in stream.getvalue()
    assert "<7 bytes>" in stream.getvalue()


def test_the_ids_of_keys_and_meters_are_no_secrets(start: Callable[..., io.StringIO]) -> None:
    stream = start()
    LOG.info("refused", extra={"key": "k12", "meter": "m1", "reason": "tag"})
    line = json.loads(stream.getvalue())
    assert (line["key"], line["meter"], line["reason"]) == ("k12", "m1", "tag")


def test_a_peers_bytes_cannot_forge_a_line_of_text_or_move_the_cursor(
    start: Callable[..., io.StringIO],
) -> None:
    stream = start(format="text")
    LOG.warning("from topic a\n12:00:00 info x: forged", extra={"meter": "m1\x1b[2J\r\nforged"})
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_a_field_cannot_take_the_place_of_the_event(start: Callable[..., io.StringIO]) -> None:
    stream = start()
    LOG.info("real", extra={"event": "other", "level": "none"})
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"]) == ("real", "info")
