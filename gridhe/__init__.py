"""gridhe: smart metering in which group totals are exact and households stay unreadable.

This root holds the version, the error tree and the `gridhe` command. The rooms are packages of their own;
docs/rooms.md says what stands in which, and who may import whom.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

__version__ = "0.1.0"
__all__ = ["ROOMS", "__version__"]

ROOMS = ("config", "plan", "wire", "broker", "meter_agent", "aggregator", "keyring", "bench")


class _CheckoutFinder:
    """Finds the rooms of a source checkout, where they stand beside this folder instead of inside it.

    Without it, `python -m gridhe.cli` in the checkout's root would find this folder and no room. Only rooms
    are found: `gridhe.tests` is no package.
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
