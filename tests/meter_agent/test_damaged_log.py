"""The outbox's write-ahead log, damaged between a kill and the next start."""

import shutil
from pathlib import Path

import pytest

from gridhe.config.settings import MeterSettings
from gridhe.errors import StateError
from gridhe.meter_agent.outbox import Outbox, SealedBatch

_AUTHORITY = "a0123456789abcdef"


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """What is left after three commits and a kill."""
    left = tmp_path / "left"
    with Outbox(tmp_path / "live", authority=_AUTHORITY, settings=MeterSettings()) as outbox:
        for window in range(3):
            batch = SealedBatch(
                meter="m", plan="p", window=window, until_s=window + 1, payload=bytes([window]) * 9_000
            )
            outbox.commit(sealed=[batch])
        shutil.copytree(tmp_path / "live", left)
    return left


def test_an_undamaged_log_is_taken_up(killed: Path) -> None:
    with Outbox(killed, authority=_AUTHORITY, settings=MeterSettings()) as outbox:
        assert [each.window for each in outbox.waiting("m")] == [0, 1, 2]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_repro_a_flipped_byte_in_the_log_silently_forgot_sealed_batches(killed: Path, share: float) -> None:
    log = killed / "outbox.sqlite-wal"
    data = bytearray(log.read_bytes())
    data[int(len(data) * share)] ^= 0x40
    log.write_bytes(data)
    with pytest.raises(StateError, match="is damaged"):
        Outbox(killed, authority=_AUTHORITY, settings=MeterSettings())
