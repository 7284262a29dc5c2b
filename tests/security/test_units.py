"""The systemd unit in docs/operations.md: what a reader copies runs without privileges."""

import configparser
import re
from pathlib import Path

OPERATIONS = Path(__file__).resolve().parents[2] / "docs/operations.md"


def test_every_unit_runs_as_a_user_of_its_own_and_can_gain_nothing() -> None:
    blocks = re.findall(r"```ini\n(.*?)```", OPERATIONS.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        unit = configparser.ConfigParser(interpolation=None, strict=False)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(block)
        service = unit["Service"]
        assert service["User"] not in ("root", "")
        assert service["NoNewPrivileges"] == "yes"
        assert service["ProtectSystem"] == "strict"
        assert service["StateDirectoryMode"] == "0700"
        assert "passphrase" not in service["ExecStart"]
