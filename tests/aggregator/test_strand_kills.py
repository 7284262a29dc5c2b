"""SIGKILL while a refused part is sent again in strands; `make hostile` does it 200 times."""

import json
import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).resolve().parents[1] / "support"


def test_kills_leave_each_refused_part_whole_or_in_its_strands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gridhe_testing.strand_kills", "--kills", "15", "--seed", "3"],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["broken_rules"] == []
    assert figures["finished_before_the_kill"] < figures["killed"]
