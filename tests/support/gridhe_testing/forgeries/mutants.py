"""Mutants of the authority: the release path with some of its checks left out.

    python -m gridhe_testing.forgeries.mutants "guards tags" gridhe.keyring.cli release ...

The programs themselves have no such switch.

    off_grid, guards, tags, presence, range   a check of decrypted slots
    inconsistent                              intervals whose numbers contradict each other are withheld
    lists                                     what member lists must not say
"""

import runpy
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from gridhe.keyring.release import releaser
from gridhe.keyring.release.decrypt import Decryptor
from gridhe.keyring.release.register import Register
from gridhe.plan.plan import Plan
from gridhe_testing.forgeries.table import CHECKS

__all__ = ["unchecked"]


def _none_inconsistent(plan: Plan, blocks: Any) -> dict[str, list[bool]]:
    return {quantity.name: [False] * plan.intervals for quantity in plan.quantities}


@contextmanager
def unchecked(*names: str) -> Iterator[None]:
    """Leave these out in this process."""
    original = Decryptor._checks

    def fewer(self: Decryptor, *arguments: Any) -> Iterator[tuple[str, bool]]:
        return ((name, failed and name not in names) for name, failed in original(self, *arguments))

    assert set(names) <= {*CHECKS, "inconsistent", "lists"}, names
    with ExitStack() as stack:
        stack.enter_context(patch.object(Decryptor, "_checks", fewer))
        if "inconsistent" in names:
            stack.enter_context(patch.object(releaser, "inconsistent", _none_inconsistent))
        if "lists" in names:
            stack.enter_context(patch.object(Register, "check", lambda *arguments, **options: None))
        yield


if __name__ == "__main__":
    left_out, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    with unchecked(*left_out.split()):
        runpy.run_module(module, run_name="__main__")
