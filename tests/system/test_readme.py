"""README's walkthrough, run line by line as a newcomer would: separate processes, a real Mosquitto, ACLs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

README = Path(__file__).parents[2] / "README.md"


def walkthrough() -> str:
    found = re.search(r"<!-- walkthrough.*?-->\n```bash\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, "README has lost its walkthrough"
    return found.group(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_walkthrough_ends_with_released_totals_of_every_group(tmp_path: Path, mosquitto: Path) -> None:
    script = walkthrough()
    assert "18830" in script
    port = free_port()
    # The only changes: a free port, and `set -e`, so that no failure passes unseen. Ends what it started.
    script = "set -euo pipefail\ntrap 'kill $(jobs -p)' EXIT\n" + script.replace("18830", str(port))
    path = os.pathsep.join((str(Path(sys.executable).parent), str(mosquitto.parent), os.environ["PATH"]))
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            said, _ = shell.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            said, _ = shell.communicate()
            pytest.fail(f"the walkthrough hangs:\n{said[-4000:]}")
    assert shell.returncode == 0, said[-4000:]
    released = [json.loads(line) for line in (tmp_path / "released.jsonl").read_text().splitlines()]
    assert {one["group"] for one in released} == {"grid", "north", "south", "north/f1", "south/f1"}
    assert len(released) == 15
    assert {one["meters"] for one in released if one["group"] == "grid"} == {20}
    by_key = {(one["group"], one["window"]): one for one in released}
    for (group, window), one in by_key.items():
        if group == "grid":
            for i, interval in enumerate(one["intervals"]):
                parts = [
                    by_key[region, window]["intervals"][i]["import_wh"]["sum"]
                    for region in ("north", "south")
                ]
                assert interval["import_wh"]["sum"] == sum(parts)
                assert interval["import_wh"]["present"] == 20
    assert "ledger      whole" in said
