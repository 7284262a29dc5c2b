"""The oracle: decrypts every published total and determines which batches are in it.

For each total the marks name a set of meters, each counted once. It must be as large as the header says,
and equal the members that the header lists. `present` must be its size in every interval. Every guard slot
must be the sum of these members' guards, and every tag must fit. Parts of a (group, window) must not overlap;
the same (group, window, part) must always come with the same bytes.

A roll-up names a part that was opened without its list. Its members are those of that part's own total.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from faults.world import World
from gridhe.plan.guards import Guards
from gridhe.plan.plan import TAGS, Plan
from gridhe.wire.total import Piece, Total, TotalKey, open_total, positions_of

__all__ = ["Oracle"]

Proofs = dict[str, bytes]  # by meter


class Oracle:
    """The batches in the totals so far."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.totals: dict[TotalKey, frozenset[str]] = {}
        self._proofs: dict[TotalKey, Proofs] = {}
        self._guards: dict[str, Guards] = {}  # by plan
        self.content: dict[TotalKey, bytes] = {}  # SHA-256 of each total's bytes
        self.faults: list[str] = []  # observations that no run may have
        self.repeats = 0
        self.counted: dict[tuple[str, int], Counter[str]] = {}  # (group, window): meter -> times

    def resume(self, other: "Oracle") -> None:
        """Continue from what another oracle has seen."""
        self.totals.update(other.totals)
        self.content.update(other.content)
        self._proofs.update(other._proofs)
        self.counted.update({place: times.copy() for place, times in other.counted.items()})

    def take(self, payload: bytes) -> TotalKey:
        """Check a total's bytes. Raises EnvelopeError if the aggregator did not sign them."""
        total = open_total(payload, len(payload))
        total.check_signature(self.world.aggregator_key.verify_key)
        head = total.header
        place = TotalKey(head.plan, head.group, head.window, head.part)
        digest = hashlib.sha256(payload).digest()
        known = self.content.setdefault(place, digest)
        if known != digest:
            self.faults.append(f"{place}: published twice, with other content")
        elif place in self.totals:
            self.repeats += 1
        else:
            members = self._members(place, total)
            self.totals[place] = members
            self.counted.setdefault((head.group, head.window), Counter()).update(members)
        return place

    def _members(self, place: TotalKey, total: Total) -> frozenset[str]:
        """The meters in a total; a doubled one is a fault."""
        head, world = total.header, self.world
        key = world.keys[head.plan]
        where = f"{head.group}, window {head.window}, part {head.part}"
        slots = key.all_slots(total.ciphertext)
        layout = key.plan.layout
        name = key.plan.quantities[0].name
        readings, present = slots[layout.block(name, "reading")], slots[layout.block(name, "present")]
        marks = np.array([world.mark(i, head.window) for i in range(len(world.meters))])
        counts, rest = np.divmod(readings, marks)
        if rest.any() or (counts < 0).any():
            self.faults.append(f"{where}: slots {np.flatnonzero(rest)[:5].tolist()} are no sum of batches")
        found: Counter[str] = Counter()
        for number in np.flatnonzero(counts):
            found[world.meters[number]] = int(counts[number])
        doubled = [meter for meter, times in found.items() if times > 1]
        if doubled:
            self.faults.append(f"{where}: counted twice: {doubled[:5]}")
        if (present != found.total()).any() or head.meters != found.total():
            self.faults.append(f"{where}: header {head.meters}, present {present[:3]}, marks {found.total()}")
        listed: Proofs = {}
        for piece in head.pieces:
            proofs = self._listed(place, piece, key.plan)
            if len(proofs) != piece.meters or listed.keys() & proofs.keys():
                self.faults.append(f"{where}: piece {piece.group} {piece.part} lists {len(proofs)} meters")
            listed |= proofs
        self._proofs[place] = listed
        if listed.keys() != found.keys():
            odd = sorted(listed.keys() ^ found.keys())
            self.faults.append(f"{where}: the list differs from what is in the total: {odd[:5]}")
        elif not self._sound(place, slots, listed):
            self.faults.append(f"{where}: guards or tags are not those of its members")
        strangers = [m for m in found if m not in world.members(head.group)]
        if strangers:
            self.faults.append(f"{where}: holds {strangers[:3]} of other groups")
        plan_start = key.plan.first_window
        if head.window < plan_start:
            self.faults.append(f"{where}: before its plan starts ({plan_start})")
        return frozenset(found)

    def _listed(self, place: TotalKey, piece: Piece, plan: Plan) -> Proofs:
        """The members of a piece with their proofs; none if the list does not fit, or is not known."""
        if piece.members is None:
            return self._proofs.get(place._replace(group=piece.group, part=piece.part), {})
        meters = sorted(meter for meter, group in self.world.group.items() if group == piece.group)
        positions, size = positions_of(piece.members.bitmap), plan.proof_bytes
        if len(piece.members.proofs) != size * len(positions) or max(positions, default=-1) >= len(meters):
            return {}
        proofs = piece.members.proofs
        return {meters[at]: proofs[i * size : (i + 1) * size] for i, at in enumerate(positions)}

    def _sound(self, place: TotalKey, slots: NDArray[np.int64], proofs: Proofs) -> bool:
        """Whether the guard slots are the sums of these members' guards, and the tags fit."""
        plan = self.world.keys[place.plan].plan
        guards = self._guards.setdefault(place.plan, Guards(plan))
        devices = {meter: self.world.device(meter) for meter in proofs}
        expected = guards.sums(
            place.window, [(devices[meter].guard_key, proof) for meter, proof in proofs.items()]
        ).guards
        home_key = next(iter(devices.values())).home_key
        return np.array_equal(slots[plan.layout.used : -TAGS], expected[:-TAGS]) and not bool(
            guards.tag_faults(place.window, slots, expected, home_key).any()
        )

    # -- the sums --------------------------------------------------------------------------------

    def held(self, group: str = "grid") -> int:
        """Batches in a group's published totals, each once."""
        return sum(len(times) for (name, _), times in self.counted.items() if name == group)

    def missing(self, group: str, windows: Iterable[int]) -> list[tuple[str, int]]:
        """Each (meter, window) that is in no published total of the group."""
        members = self.world.members(group)
        return [
            (meter, window)
            for window in windows
            for meter in members
            if not self.counted.get((group, window), Counter())[meter]
        ]

    def doubled(self, group: str) -> list[tuple[str, int]]:
        """Each (meter, window) that is in more than one part of the group."""
        return [
            (meter, window)
            for (name, window), times in self.counted.items()
            if name == group
            for meter, count in times.items()
            if count > 1
        ]

    @property
    def groups(self) -> list[str]:
        """Leaves, regions and `grid`."""
        leaves = set(self.world.group.values())
        return [*sorted(leaves), *sorted({leaf.split("/")[0] for leaf in leaves}), "grid"]

    def lost(self) -> list[tuple[str, str, int]]:
        """(group, meter, window) missing at any level, over all windows."""
        windows = self.world.all_windows
        return [(g, m, w) for g in self.groups for m, w in self.missing(g, windows)]

    def duplicated(self) -> list[tuple[str, str, int]]:
        """(group, meter, window) counted more than once at any level."""
        return [(g, m, w) for g in self.groups for m, w in self.doubled(g)]
