"""Lists of the members of a leaf part: in the form of a total's header, and by strand."""

from collections.abc import Mapping, Sequence

from gridhe.aggregator.fold.rows import Member
from gridhe.aggregator.state.enrolment import RosterTable
from gridhe.aggregator.state.members import Members
from gridhe.aggregator.state.strands import Strands
from gridhe.errors import EnvelopeError
from gridhe.wire.strands import STRANDS
from gridhe.wire.total import MemberList, TotalKey, bitmap_of

__all__ = ["MemberLists"]


class MemberLists:
    """Makes member lists by the stored roster. Raises StateError."""

    def __init__(self, members: Members, roster: RosterTable, strands: Strands) -> None:
        self._members = members
        self._strands = strands
        self._roster = roster

    @property
    def version(self) -> int:
        """The version of the roster that bitmaps refer to."""
        return self._roster.version

    def of(self, key: TotalKey) -> MemberList:
        """The list of a leaf part. The same part has the same list under the same roster.

        Raises EnvelopeError `members` if the roster does not name one of them, as no roster should.
        """
        names = self._roster.names(key.group)
        position = {name: at for at, name in enumerate(names.ordered)}
        proofs: dict[int, bytes] = {}
        for number, proof in self._members.of_part(key):
            name = names.by_number.get(number)
            at = None if name is None else position.get(name)
            if at is None:
                raise EnvelopeError(
                    "members", f"roster {self.version} does not name {name or number} in {key.group}"
                )
            proofs[at] = proof
        return MemberList(bitmap_of(proofs), b"".join(proofs[at] for at in sorted(proofs)))

    def by_strand(self, key: TotalKey, sizes: Sequence[int]) -> list[list[Member]]:
        """The members of a leaf part, by strand. Raises StateError unless they have these sizes."""
        by_number = self._roster.names(key.group).by_number
        strands: list[list[Member]] = [[] for _ in range(STRANDS)]
        for number, proof in self._members.of_part(key):
            name = by_number.get(number, "")
            strands[self._strands.of(name, key.window)].append((number, proof))
        if [len(each) for each in strands] != list(sizes):
            raise self._members.damaged(f"the members of {key} are not those of its strands")
        return strands

    def move(self, key: TotalKey, parts: Mapping[TotalKey, Sequence[Member]]) -> None:
        """Move all members of a part to these parts; inside a transaction."""
        self._members.move(key, parts)
