"""Answers to batches, collected until the commit that makes them true."""

from dataclasses import dataclass, field

from gridhe.wire.envelope import Header
from gridhe.wire.receipt import Receipt

__all__ = ["Answers"]


@dataclass(slots=True)
class _Answer:
    """The content of a meter's next receipt."""

    committed: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)


class Answers:
    """The next receipt of each (plan, meter)."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], _Answer] = {}

    def committed(self, header: Header) -> None:
        """The batch will be counted by the next commit, or is counted already."""
        self._of(header).committed.add(header.window)

    def refused(self, header: Header, reason: str) -> None:
        """The batch is refused. A batch of the same window that counts takes precedence."""
        self._of(header).refused[header.window] = reason

    def _of(self, header: Header) -> _Answer:
        return self._answers.setdefault((header.plan, header.meter), _Answer())

    def take(self) -> list[Receipt]:
        """All receipts; call it after the commit."""
        receipts = [
            Receipt(
                plan=plan,
                meter=meter,
                committed=tuple(sorted(answer.committed)),
                refused=tuple(each for each in answer.refused.items() if each[0] not in answer.committed),
            )
            for (plan, meter), answer in self._answers.items()
        ]
        self._answers.clear()
        return receipts
