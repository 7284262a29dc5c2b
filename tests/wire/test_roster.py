"""The roster: who is enrolled where, and nothing an aggregator could not hold."""

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import BundleError, ConfigError
from gridhe.wire.roster import FormerPlace, Roster, RosterEntry, RosterPlan, RosterReader
from gridhe.wire.signing import SigningKey, sign_record

KEY = SigningKey.from_private_bytes(bytes(range(32)))
ENTRIES = (
    RosterEntry("m2", "north/f1", 7_200),
    RosterEntry("m1", "north/f1"),
    RosterEntry("m3", "south", 2**40),
)


PLANS = (RosterPlan("p" + "0" * 16, 0, retired=True), RosterPlan("p" + "1" * 16, 7_200))
FORMER = (FormerPlace("m0", "south"), FormerPlace("m1", "east/f9"), FormerPlace("m1", "south"))


def signed(content: object) -> bytes:
    return sign_record(KEY, "roster", msgpack.packb(content))


def test_a_roster_survives_its_bytes() -> None:
    roster = Roster(version=7, entries=ENTRIES, plans=PLANS, former=FORMER)
    assert Roster.decode(roster.encode(KEY), KEY.verify_key) == roster
    empty = Roster(version=0, entries=())
    assert Roster.decode(empty.encode(KEY), KEY.verify_key) == empty


names = st.from_regex(r"m[a-z0-9_-]{0,8}", fullmatch=True)
leaves = st.sampled_from(["north/f1", "north/f2", "south"])


@given(
    st.dictionaries(names, st.tuples(leaves, st.integers(0, 2**48 - 1)), max_size=12),
    st.sets(st.tuples(names, st.sampled_from(["north", "north/f1", "gone"])), max_size=12),
)
def test_any_roster_survives_its_bytes_and_lists_its_former_meters_in_order(
    entries: dict[str, tuple[str, int]], former: set[tuple[str, str]]
) -> None:
    roster = Roster.of(
        1,
        [RosterEntry(meter, group, from_s) for meter, (group, from_s) in entries.items()],
        former=[FormerPlace(*place) for place in former],
    )
    data = roster.encode(KEY)
    assert Roster.decode(data, KEY.verify_key) == roster
    reader = RosterReader(data, KEY.verify_key)
    assert [(place.meter, place.group) for place in reader.former()] == sorted(former)
    assert tuple(reader.former()) == roster.former  # and again


def test_a_roster_made_of_entries_has_them_by_name() -> None:
    assert [entry.meter for entry in Roster.of(1, ENTRIES).entries] == ["m1", "m2", "m3"]
    assert Roster.of(1, ENTRIES).encode(KEY) == Roster.of(1, reversed(ENTRIES)).encode(KEY)


def test_groups_stand_once_and_rows_point_at_them() -> None:
    data = Roster(version=7, entries=ENTRIES, plans=PLANS, former=FORMER[::-1]).encode(KEY)
    _, body, _ = msgpack.unpackb(data)
    plans = [["p" + "0" * 16, 0, True], ["p" + "1" * 16, 7_200, False]]
    rows = [["m2", 1, 7_200], ["m1", 1, 0], ["m3", 2, 2**40]]
    former = [["m0", 2], ["m1", 0], ["m1", 2]]
    assert msgpack.unpackb(body) == [7, ["east/f9", "north/f1", "south"], plans, rows, former]
    reader = RosterReader(data, KEY.verify_key)
    assert (reader.version, reader.plans) == (7, PLANS)  # before any entry is read


@pytest.mark.parametrize("body", [[7, ["a"], [["m1", 0, 0]]], [7, ["a"], [], [["m1", 0, 0]]]])
def test_a_roster_of_version_1_says_so(body: object) -> None:
    with pytest.raises(BundleError, match="of wire version 1, this is version 2"):
        RosterReader(signed(body), KEY.verify_key)


@pytest.mark.parametrize(
    "rows",
    [
        5,
        None,
        ["m1"],
        [["m1"]],
        [["m1", 0, 0]],
        [["M", 0]],
        [["m1", 1]],
        [["m1", -1]],
        [["m1", False]],
        [["m1", 0.0]],
        [[5, 0]],
        [["m2", 0], ["m1", 0]],
        [["m1", 0], ["m1", 0]],
    ],
)
def test_former_meters_that_are_none_are_refused(rows: object) -> None:
    data = signed([1, ["a"], [], [["m1", 0, 0]], rows])
    with pytest.raises(BundleError, match="not valid"):
        Roster.decode(data, KEY.verify_key)
    with pytest.raises(BundleError, match="not valid"):
        list(RosterReader(data, KEY.verify_key).former())


def test_a_former_meter_that_stands_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        Roster(version=1, entries=(), former=(FORMER[0], FORMER[0]))


@pytest.mark.parametrize(
    "plans",
    [
        {},
        None,
        [["p" + "0" * 16, 0]],
        [["p" + "0" * 16, 0, 0]],
        [["p" + "0" * 16, 0.0, False]],
        [["p" + "0" * 16, -1, False]],
        [["p" + "0" * 16, 2**62, False]],
        [["k" + "0" * 16, 0, False]],
        [["p" + "0" * 16, 0, False]] * 2,
    ],
)
def test_plans_that_are_none_are_refused_before_anything_else_is_read(plans: object) -> None:
    with pytest.raises(BundleError, match="not valid"):
        RosterReader(signed([1, ["a"], plans, [["m1", 0, 0]], []]), KEY.verify_key)


def test_a_hundred_thousand_meters_take_at_most_twenty_bytes_each() -> None:
    entries = (RosterEntry(f"m{i}", f"r{i % 10}/f{i % 1_000}", 1_700_000_000) for i in range(100_000))
    roster = Roster.of(1, entries)
    data = roster.encode(KEY)
    assert len(data) < 20 * 100_000
    assert Roster.decode(data, KEY.verify_key) == roster


def test_a_meter_that_stands_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        Roster(version=1, entries=(RosterEntry("m1", "a"), RosterEntry("m1", "b")))
    for names in (["m1", "m1"], ["m1", "m2", "m1"], ["m2", "m1", "m2"], ["m3", "m1", "m1"]):
        with pytest.raises(BundleError, match="twice"):
            Roster.decode(signed([1, ["a"], [], [[name, 0, 0] for name in names], []]), KEY.verify_key)


def test_a_reader_gives_the_version_before_any_entry_and_entries_as_often_as_asked() -> None:
    roster = Roster(version=7, entries=ENTRIES)
    reader = RosterReader(roster.encode(KEY), KEY.verify_key)
    assert reader.version == 7
    assert tuple(reader.entries()) == tuple(reader.entries()) == ENTRIES


@pytest.mark.parametrize(
    "change", [lambda body: body + b"\x00", lambda body: body[:-1], lambda body: body[:3]]
)
def test_bytes_too_many_or_too_few_are_refused(change: Callable[[bytes], bytes]) -> None:
    body = msgpack.packb([7, ["a"], [], [["m1", 0, 0], ["m2", 0, 0]], []])
    assert len(Roster.decode(sign_record(KEY, "roster", body), KEY.verify_key).entries) == 2
    with pytest.raises(BundleError, match="not valid"):
        Roster.decode(sign_record(KEY, "roster", change(body)), KEY.verify_key)


@pytest.mark.parametrize(("outer", "inner"), [("north", "north/f1"), ("a", "a/b/c"), ("a/b", "a/b/c")])
def test_a_group_of_meters_that_also_holds_groups_is_refused(outer: str, inner: str) -> None:
    with pytest.raises(ConfigError, match=f"group '{outer}' cannot contain both"):
        Roster(version=1, entries=(RosterEntry("m1", outer), RosterEntry("m2", inner)))
    with pytest.raises(BundleError):
        Roster.decode(signed([1, [outer, inner], [], [["m1", 0, 0], ["m2", 1, 0]], []]), KEY.verify_key)


def test_groups_whose_names_merely_begin_alike_are_fine() -> None:
    Roster(version=1, entries=(RosterEntry("m1", "north"), RosterEntry("m2", "north2/f1")))


GOOD: list[Any] = [1, ["north/f1"], [], [["m1", 0, 0]], []]


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        [1, ["north/f1"]],
        GOOD[:4],
        [*GOOD, 0],
        ["1", *GOOD[1:]],
        [True, *GOOD[1:]],
        [1.0, *GOOD[1:]],
        [1, ["North"], [], [], []],
        [1, ["grid"], [], [], []],
        [1, [5], [], [], []],
        [1, "ab", [], [], []],
        [1, {"a": 1}, [], [["m1", "a", 0]], []],
        [1, ["a"], [], {"m1a": 0}, []],
        [1, ["a"], [], [["m1", 0]], []],
        [1, ["a"], [], [["m1", 0, 0, 0]], []],
        [1, ["a"], [], [5], []],
        [1, ["a"], [], [["m1", 1, 0]], []],
        [1, ["a"], [], [["m1", -1, 0]], []],
        [1, ["a"], [], [["m1", False, 0]], []],
        [1, ["a"], [], [["m1", 0.0, 0]], []],
        [1, ["a"], [], [["m1", 0, "12"]], []],
        [1, ["a"], [], [["m1", 0, 1.5]], []],
        [1, ["a"], [], [["m1", 0, float("inf")]], []],
        [1, ["a"], [], [["m1", 0, -1]], []],
        [1, ["a"], [], [["m1", 0, 2**48]], []],
        [1, ["a"], [], [["M1", 0, 0]], []],
        [1, ["a"], [], [["authority", 0, 0]], []],
        [1, ["a"], [], [[None, 0, 0]], []],
    ],
)
def test_repro_signed_content_of_the_wrong_types_is_a_bundle_error(content: object) -> None:
    with pytest.raises(BundleError):
        Roster.decode(signed(content), KEY.verify_key)


def test_the_content_those_are_variations_of_is_fine() -> None:
    assert Roster.decode(signed(GOOD), KEY.verify_key).entries == (RosterEntry("m1", "north/f1"),)


def test_a_roster_of_another_authority_is_refused() -> None:
    with pytest.raises(BundleError, match="not signed by"):
        Roster.decode(signed(GOOD), SigningKey.generate().verify_key)


@given(
    st.one_of(
        st.binary(max_size=200), st.binary(max_size=200).map(lambda body: sign_record(KEY, "roster", body))
    )
)
def test_junk_signed_or_not_is_a_bundle_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        Roster.decode(data, KEY.verify_key)
