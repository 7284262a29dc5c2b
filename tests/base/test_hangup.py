"""SIGHUP and commands that run for long."""

import logging
import signal

import pytest

from gridhe.base.hangup import ignore_hangups


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_hangup_is_a_line_in_the_log_and_under_nohup_nothing(
    before: signal.Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    found = signal.signal(signal.SIGHUP, before)
    try:
        with caplog.at_level(logging.INFO):
            ignore_hangups()
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, found)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (before is signal.SIG_DFL)
    assert all(line.startswith("SIGHUP is ignored") for line in said)
