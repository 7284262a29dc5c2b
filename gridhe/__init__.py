"""gridhe: smart metering with exact group totals and unreadable households.

This package has the version, the error tree and the `gridhe` command. The rooms are separate packages;
docs/rooms.md describes them and their allowed imports.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

__version__ = "0.1.0"
__all__ = ["ROOMS", "__version__"]

ROOMS = ("config", "plan", "wire", "broker", "custody", "meter_agent", "aggregator", "keyring", "bench")


class _CheckoutFinder:
    """Finds the rooms of a source checkout, where they are beside this folder instead of inside it.

    Without it, `python -m gridhe.cli` in the checkout's root would find this folder and no room. It finds
    only rooms: `gridhe.tests` is not a package.
    """

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent, _, room = fullname.rpartition(".")
        folder = Path(__file__).resolve().parent.parent / room
        if parent != __name__ or room not in ROOMS or not (folder / "__init__.py").is_file():
            return None
        return spec_from_file_location(
            fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


if not (Path(__file__).parent / ROOMS[0]).is_dir():
    sys.meta_path.append(_CheckoutFinder)
