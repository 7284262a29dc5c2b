"""Simulated meters on faulty lines, read by running agents: no released reading is wrong.

`make hostile` does it with ten thousand telegrams of each kind.
"""

from pathlib import Path

import pytest

from gridhe_testing.devices.kinds import KINDS
from gridhe_testing.devices.run import DeviceRun

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_faults_pulled_cables_and_killed_agents_never_change_a_reading(
    tmp_path: Path, mosquitto: Path
) -> None:
    assert mosquitto.exists()
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    found = DeviceRun(
        folder,
        KINDS,
        telegrams=250,
        per_second=15,
        interval_s=3,
        intervals=4,
        interrupted_every_s=8.0,
        seed=7,
    ).run()
    assert [figures.kind for figures in found] == ["p1", "sml", "han", "modbus"]
    for figures in found:
        assert figures.wrong == [], figures.kind
        assert figures.telegrams >= 250
        assert figures.faults.total() > 5
        assert figures.interruptions.total() > 0
        assert figures.exact > 0
        assert len(figures.stalled) <= 1
