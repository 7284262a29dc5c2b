"""One try: totals go through the release path of `gridhe-keyring release`, in a fresh copy of the home."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.release.ledger import verify_ledger
from gridhe.keyring.release.service import ReleaseService
from gridhe.wire.total import open_total
from gridhe_testing.forgeries.targets import Targets

__all__ = ["Verdict", "try_totals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one total: the released record, or the rule; and the ledger's lines of its try."""

    rule: str
    record: dict[str, Any] | None
    ledger: Sequence[dict[str, Any]]

    @property
    def check(self) -> str:
        """The check that the ledger's `unsound` line names; "" without such a line."""
        lines = [line for line in self.ledger if line["kind"] == "unsound"]
        return str(lines[-1]["check"]) if lines else ""


def try_totals(targets: Targets, folder: Path, *totals: bytes) -> list[Verdict]:
    """The verdicts on totals that arrive one after the other. `folder` is made, and removed afterwards."""
    shutil.copytree(targets.home.paths.home, folder)
    authority = AuthorityHome(folder, targets.home.vault)
    verdicts: list[Verdict] = []
    try:
        for total in totals:
            before = len(_ledger(authority.paths.ledger))
            with ReleaseService(authority, targets.settings, emit=lambda outcome: None) as service:
                service._inbox.store([(open_total(total, len(total)).header, total)], "2026-01-01T00:00:00Z")
                outcomes = {each.stored.digest: each for each in service.offline()}  # refused ones too
            outcome = outcomes[hashlib.sha256(total).digest()]
            lines = _ledger(authority.paths.ledger)[before:]
            verdicts.append(Verdict(rule=outcome.rule, record=outcome.record, ledger=lines))
    finally:
        authority.close()
        shutil.rmtree(folder)
    return verdicts


def _ledger(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    if path.exists():
        verify_ledger(path, on_record=records.append)
    return records
