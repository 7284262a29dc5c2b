"""Member lists, before anything is decrypted: each rule, and the register against brute force."""

import tracemalloc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe.errors import ReleaseRefused
from gridhe.keyring.release import register as module
from gridhe.keyring.release.family import PieceKey
from gridhe.keyring.release.policy import Claim
from gridhe.keyring.release.register import Members, Period, Register, read_members
from gridhe.wire.total import MemberList, Piece, TotalKey, bitmap_of


@pytest.fixture(autouse=True, scope="module")
def strands_of_few_meters() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STRANDED_METERS", 1)
        yield


METERS = [f"m{number:02}" for number in range(12)]
PROOF = 11


def read(bitmap: bytes, meters: int, proofs: bytes | None = None) -> tuple[str, ...]:
    listed = MemberList(bitmap, bytes(PROOF * meters) if proofs is None else proofs)
    return read_members(Piece("f1", 0, meters, listed), METERS, PROOF).names


def test_a_list_names_the_meters_of_its_bits() -> None:
    assert read(bitmap_of([0, 3, 11]), 3) == ("m00", "m03", "m11")


@pytest.mark.parametrize(
    ("bitmap", "meters", "proofs", "text"),
    [
        (bitmap_of([0, 12]), 2, None, "bit 12, and the roster 12 meters"),
        (bitmap_of([0, 3]), 3, None, "2 members, not 3"),
        (bitmap_of([0, 3]), 2, bytes(21), "21 bytes of proofs, not 2 x 11"),
    ],
)
def test_a_list_that_contradicts_roster_or_header_is_refused(
    bitmap: bytes, meters: int, proofs: bytes | None, text: str
) -> None:
    with pytest.raises(ReleaseRefused, match=text) as refused:
        read(bitmap, meters, proofs)
    assert refused.value.rule == "members"


def test_repro_a_bitmap_of_megabytes_is_refused_before_it_is_expanded() -> None:
    bitmap = b"\xff" * (1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ReleaseRefused, match="bit 8388607"):
            read(bitmap, 3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20  # expanded, it takes 377 MB


# -- the register ---------------------------------------------------------------------------------

PLAN, OTHER = "p" + "0" * 16, "p" + "1" * 16
Lists = Mapping[PieceKey, Mapping[str, bytes]]  # proofs by name


def members_of(proofs: Mapping[str, bytes]) -> Members:
    return Members(names=tuple(sorted(proofs)), proofs=b"".join(proofs[name] for name in sorted(proofs)))


def proofs(names: str, mark: int = 0) -> dict[str, bytes]:
    """One-letter meters, each with a proof of its own."""
    return {name: name.encode() + bytes([mark]) for name in names}


def total_of(
    lists: Lists,
    *,
    group: str = "g",
    part: int = 0,
    window: int = 7,
    plan: str = PLAN,
    named: Iterable[PieceKey] = (),
) -> tuple[Claim, dict[PieceKey, Members]]:
    listed = {piece: members_of(each) for piece, each in lists.items()}
    pieces = [(*piece, len(each.names), each.digest) for piece, each in listed.items()]
    pieces += [(*piece, 5, b"") for piece in named]
    claim = Claim(
        plan=plan,
        key="k" + "0" * 16,
        aggregator="agg",
        group=group,
        window=window,
        part=part,
        meters=sum(piece[2] for piece in pieces),
        members=tuple(piece[3] for piece in pieces),
        pieces=tuple(piece[:3] for piece in pieces),
        content=b"",
    )
    return claim, listed


@dataclass
class Book:
    """A register with its ledger and its stored lists, which can be opened again."""

    ledger: list[tuple[str, Claim]] = field(default_factory=list)
    stored: dict[Period, dict[PieceKey, Members]] = field(default_factory=dict)
    opened: set[TotalKey] = field(default_factory=set)
    loads: int = 0

    def __post_init__(self) -> None:
        self.open_again()

    def open_again(self) -> None:
        # Strands of two letters: ab, cd, ...
        self.register = Register(self.load, lambda name, window: (ord(name[-1]) - 97) // 2)
        for kind, claim in self.ledger:
            if kind == "decided":
                self.register.record(claim)
            else:
                self.register.fail(claim)

    def load(self, period: Period, digests: Mapping[PieceKey, bytes]) -> dict[PieceKey, Members]:
        self.loads += 1
        found = self.stored[period]
        assert {piece: found[piece].digest for piece in digests} == digests
        return {piece: found[piece] for piece in digests}

    def decide(
        self,
        claim: Claim,
        lists: dict[PieceKey, Members],
        *,
        sound: bool = True,
        overlapping: Iterable[Period] = (),
    ) -> str:
        """The rule that refuses the total, or "" if it was decided."""
        try:
            self.register.check(claim, lists, opened=self.opened.__contains__, overlapping=overlapping)
        except ReleaseRefused as refused:
            return refused.rule
        self.stored.setdefault((claim.plan, claim.window), {}).update(lists)
        self.ledger.append(("decided", claim))
        self.register.add(claim, lists)
        if sound:
            self.opened.add(claim.total)
        else:
            self.ledger.append(("unsound", claim))
            self.register.fail(claim)
        return ""


@pytest.fixture(params=["the same process", "after a restart"])
def book(request: pytest.FixtureRequest) -> Book:
    made = Book()
    if request.param == "after a restart":
        decide = made.decide

        def again(*args: object, **more: object) -> str:
            made.open_again()
            return decide(*args, **more)  # type: ignore[arg-type]  # passed on as it came

        made.decide = again  # type: ignore[method-assign]  # every decision is of another process
    return made


def own(
    names: str, part: int = 0, mark: int = 0, group: str = "g", **more: object
) -> tuple[Claim, dict[PieceKey, Members]]:
    return total_of({(group, part): proofs(names, mark)}, group=group, part=part, **more)  # type: ignore[arg-type]


def test_repro_a_meter_stands_in_one_part_of_a_window(book: Book) -> None:
    assert book.decide(*own("abcde")) == ""
    assert book.decide(*own("fghij", 1)) == ""
    assert book.decide(*own("eklmn", 2)) == "members_twice"
    assert book.decide(*own("eklmn", group="h")) == "members_twice"  # it was moved in between
    assert book.decide(*own("eklmn", 2, window=8)) == ""
    assert (
        book.decide(*total_of({("g", 3): proofs("klm"), ("g", 4): proofs("mno")}, group="grid"))
        == "members_twice"
    )


def test_repro_a_part_has_one_list_for_ever(book: Book) -> None:
    assert book.decide(*total_of({("g", 3): proofs("abc"), ("h", 0): proofs("def")}, group="grid")) == ""
    changed = [proofs("abd"), proofs("ab"), {**proofs("ab"), **proofs("c", 1)}]
    for lists in changed:
        assert book.decide(*total_of({("g", 3): lists}, group="north")) == "changed_members"
    assert book.decide(*total_of({("g", 3): proofs("abc")}, group="north")) == ""


def test_repro_a_piece_without_a_list_must_have_been_opened(book: Book) -> None:
    assert book.decide(*total_of({}, named=[("g", 0)])) == "members"  # its own total brings no list
    assert book.decide(*total_of({("h", 0): proofs("xyz")}, named=[("g", 0)], group="grid")) == "members"
    assert book.decide(*own("abcde"), sound=False) == ""
    assert book.decide(*total_of({("h", 0): proofs("xyz")}, named=[("g", 0)], group="grid")) == "members"
    assert book.decide(*own("fghij", 1)) == ""
    assert book.decide(*total_of({("h", 0): proofs("xyz")}, named=[("g", 1)], group="grid")) == ""


def test_repro_members_of_a_failed_total_are_spent(book: Book) -> None:
    wider = total_of({("g", 3): proofs("abc"), ("h", 0): proofs("def")}, group="grid")
    assert book.decide(*wider, sound=False) == ""
    assert book.decide(*total_of({("g", 3): proofs("abc")}, group="north")) == "members_twice"
    assert book.decide(*own("abc", 5)) == "members_twice"  # only a leaf group's own total has strands


def test_repro_a_failed_part_may_be_split_once_and_only_into_its_own_members(book: Book) -> None:
    assert book.decide(*own("abcdefgh"), sound=False) == ""
    assert book.decide(*own("abz", 1)) == "members_twice"  # z is a stranger
    assert book.decide(*own("ab", 1, mark=1)) == "members_twice"  # other proofs
    assert book.decide(*own("ab", 1, group="h")) == "members_twice"
    assert book.decide(*own("abc", 1)) == "members_twice"  # c is half of a strand
    assert book.decide(*own("abcdefgh", 1)) == "members_twice"  # all of it again
    strand = own("abcd", 1)
    book.register.check(*strand, opened=lambda total: False)
    assert book.register.failed_part(*strand) == 0
    assert book.decide(*strand, sound=False) == ""
    assert book.register.failed_part(*strand) == 0
    assert book.decide(*own("cdef", 2)) == "members_twice"  # c and d had their second chance
    assert book.decide(*own("ab", 3)) == "members_twice"  # a strand is not split again
    good = own("efgh", 4)
    assert book.decide(*good) == ""
    assert book.register.failed_part(*good) == 0
    assert book.register.failed_part(*own("abcdefgh")) is None


def test_repro_a_small_failed_part_is_not_split(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRANDED_METERS", 9)
    assert book.decide(*own("abcdefgh"), sound=False) == ""
    assert book.decide(*own("abcd", 1)) == "members_twice"


def test_repro_a_meter_stands_in_one_part_of_a_time_of_whatever_plan(book: Book) -> None:
    assert book.decide(*own("abcde")) == ""
    other = own("efghi", plan=OTHER, window=14)
    assert book.decide(*other, overlapping=[(PLAN, 7)]) == "members_twice"
    assert book.decide(*own("fghij", plan=OTHER, window=14), overlapping=[(PLAN, 7)]) == ""


def test_windows_beyond_the_bound_are_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WINDOWS_MAX", 2)
    book = Book()
    for window in range(4):
        assert book.decide(*own("abcde", window=window)) == ""
    assert (len(book.register._windows), book.loads) == (2, 0)
    assert book.decide(*own("efghi", 1, window=0)) == "members_twice"
    assert book.decide(*own("efghi", 1, window=3)) == "members_twice"
    assert book.loads == 1
    monkeypatch.setattr(module, "_LOADED_MAX", 9)
    assert book.decide(*own("vwxyz", 1, window=3)) == ""
    assert len(book.register._windows) == 1


names = st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=8).map(sorted).map("".join)
pieces = st.dictionaries(
    st.tuples(st.sampled_from("gh"), st.integers(0, 3)),
    st.tuples(names, st.integers(0, 1)),
    min_size=1,
    max_size=2,
)


@settings(max_examples=300)
@given(st.lists(st.tuples(pieces, st.booleans(), st.booleans(), st.booleans()), max_size=14))
def test_the_register_decides_as_brute_force_over_all_decided_lists(
    steps: list[tuple[dict[PieceKey, tuple[str, int]], bool, bool, bool]],
) -> None:
    """Also if the program is restarted anywhere."""
    book = Book()
    decided: dict[PieceKey, dict[str, bytes]] = {}
    spent: set[PieceKey] = set()
    split: set[PieceKey] = set()

    def rule(lists: dict[PieceKey, dict[str, bytes]]) -> str:
        for at, (piece, found) in enumerate(lists.items()):
            if decided.get(piece, found) != found:
                return "changed_members"
            if piece in spent:
                return "members_twice"
            if piece in decided:
                continue
            beside = dict(list(lists.items())[:at])
            elsewhere = {name: {other for other, each in decided.items() if name in each} for name in found}
            strand = any(
                failed[0] == piece[0]
                and found.items() < decided[failed].items()
                and all(
                    chr(97 + (ord(name) - 97 ^ 1)) in found
                    for name in found
                    if chr(97 + (ord(name) - 97 ^ 1)) in decided[failed]
                )
                and all(places == {failed} for places in elsewhere.values())
                for failed in split
            )
            if any(name in each for name in found for each in beside.values()) or (
                any(elsewhere.values()) and not strand
            ):
                return "members_twice"
        return ""

    for chosen, alone, sound, restarted in steps:
        lists = {piece: proofs(*each) for piece, each in chosen.items()}
        if alone:
            lists = dict([next(iter(lists.items()))])
        group, part = next(iter(lists)) if len(lists) == 1 and alone else ("grid", len(book.ledger))
        if restarted:
            book.open_again()
        expected = rule(lists)
        assert book.decide(*total_of(lists, group=group, part=part), sound=sound) == expected
        if not expected:
            decided.update(lists)
            if not sound:
                spent.update(lists)
                split.update({(group, part)} & lists.keys())
