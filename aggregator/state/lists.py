"""Member lists: which meters of a group a leaf part holds, in the form of a total's header."""

from gridhe.aggregator.state.enrolment import RosterTable
from gridhe.aggregator.state.members import Members
from gridhe.errors import EnvelopeError
from gridhe.wire.total import MemberList, TotalKey, bitmap_of

__all__ = ["MemberLists"]


class MemberLists:
    """Makes member lists by the stored roster. Raises StateError."""

    def __init__(self, members: Members, roster: RosterTable) -> None:
        self._members = members
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
