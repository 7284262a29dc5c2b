"""Status: who is online, in one small map."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import EnvelopeError
from gridhe.wire.status import Status

RECORD: dict[str, Any] = {"v": 1, "online": True, "version": "1.2", "incarnation": "abc", "backlog": 3}


counts = st.integers(0, 2**63)


events = st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,31}", fullmatch=True), counts, max_size=16)


@given(st.booleans(), st.text(max_size=64), st.text(max_size=64), counts, counts, counts, events)
def test_a_status_survives_its_bytes(
    online: bool,
    version: str,
    incarnation: str,
    backlog: int,
    failed: int,
    stopped: int,
    events: dict[str, int],
) -> None:
    status = Status(
        online=online,
        version=version,
        incarnation=incarnation,
        backlog=backlog,
        failed=failed,
        stopped=stopped,
        events=events,
    )
    assert Status.decode(status.encode()) == status


def test_the_bytes_are_the_documented_map() -> None:
    status = Status(online=True, version="1.2", incarnation="abc", backlog=3)
    assert msgpack.unpackb(status.encode()) == RECORD
    assert Status.decode(msgpack.packb(RECORD)) == status
    alarmed = Status(online=True, version="1.2", incarnation="abc", backlog=3, failed=4, stopped=1)
    assert msgpack.unpackb(alarmed.encode()) == {**RECORD, "failed": 4, "stopped": 1}
    swapped = Status(online=True, version="1.2", incarnation="abc", backlog=3, events={"swap": 1})
    assert msgpack.unpackb(swapped.encode()) == {**RECORD, "events": {"swap": 1}}


def test_fields_of_a_later_version_of_gridhe_are_ignored_and_long_texts_cut() -> None:
    found = Status.decode(
        msgpack.packb({**RECORD, "more": [1], "version": "x" * 200, "incarnation": "y" * 200})
    )
    assert (found.version, found.incarnation) == ("x" * 64, "y" * 64)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, "version"),
        ({"v": None}, "malformed"),
        ({"online": 1}, "malformed"),
        ({"version": 1}, "malformed"),
        ({"incarnation": b"abc"}, "malformed"),
        ({"backlog": True}, "malformed"),
        ({"backlog": 1.5}, "malformed"),
        ({"backlog": -1}, "malformed"),
        ({"failed": -1}, "malformed"),
        ({"stopped": "1"}, "malformed"),
        ({"more": "x" * 1_024}, "size"),
        ({"events": ["swap"]}, "malformed"),
        ({"events": {"swap": -1}}, "malformed"),
        ({"events": {"swap": True}}, "malformed"),
        ({"events": {"swap": "register 4711"}}, "malformed"),
        ({"events": {"4711 Wh": 1}}, "malformed"),
        ({"events": {1: 1}}, "malformed"),
        ({"events": {"x" * 33: 1}}, "malformed"),
        ({"events": {f"x{'y' * at}": 1 for at in range(17)}}, "malformed"),
    ],
)
def test_any_other_map_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(EnvelopeError) as caught:
        Status.decode(msgpack.packb({**RECORD, **change}))
    assert caught.value.reason == reason


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x80", b"\xa4text", b"\x91" * 1_000])
def test_bytes_that_are_no_map_are_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        Status.decode(data)


def test_every_missing_field_is_noticed() -> None:
    for name in RECORD:
        with pytest.raises(EnvelopeError):
            Status.decode(msgpack.packb({key: value for key, value in RECORD.items() if key != name}))
