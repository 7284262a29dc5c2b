"""Real meters' telegrams, frames, payloads and exports with the right reading of each, if they are at hand.

They are not the project's: a folder beside the repository, or the one in GRIDHE_DEVICE_DATA, holds them.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["DeviceFile", "device_files", "needs_device_data"]

_ROOM = Path(__file__).resolve().parents[3]
_FOLDER = Path(os.environ.get("GRIDHE_DEVICE_DATA") or _ROOM.parent / "shared" / "data" / "devices")

needs_device_data = pytest.mark.skipif(
    not (_FOLDER / "expected.json").is_file(),
    reason="no folder of device data: name it in GRIDHE_DEVICE_DATA",
)


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """One file, its verdict ("ok", "reject", ...) and its right readings, as expected.json gives them."""

    path: Path
    kind: str
    verdict: str
    readings: Any
    entry: dict[str, Any]

    def __str__(self) -> str:
        return self.path.stem

    @property
    def data(self) -> bytes:
        """The file's bytes."""
        return self.path.read_bytes()


def device_files(folder: str) -> list[DeviceFile]:
    """The files of one folder, such as "p1" or "han-dlms"; an empty list without the data."""
    listing = _FOLDER / "expected.json"
    if not listing.is_file():
        return []
    return [
        DeviceFile(_FOLDER / entry["file"], entry["kind"], entry["verdict"], entry["readings"], entry)
        for entry in json.loads(listing.read_text(encoding="utf-8"))["files"]
        if entry["file"].startswith(f"{folder}/")
    ]
