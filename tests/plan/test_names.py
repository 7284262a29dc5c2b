"""Names: what is legal in a topic, an ACL and a file name, and nothing else."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import ConfigError
from gridhe.plan.names import ancestors, check_group, check_meter, check_name, parent_group

FIRST = string.ascii_lowercase + string.digits
REST = FIRST + "-_"
ILLEGAL = [
    "",
    "-a",
    "_a",
    "A",
    "aB",
    "a b",
    "a/b",
    "a+",
    "#",
    "a\n",
    "a\x00",
    "é",
    "٣",
    "a.b",
    "a" * 65,
    "a:b",
]

names = st.builds(str.__add__, st.sampled_from(FIRST), st.text(REST, max_size=63))


@given(names)
def test_every_name_of_the_pattern_is_legal(name: str) -> None:
    assert check_name(name) is name


@given(st.text(max_size=70))
def test_any_other_text_is_refused(text: str) -> None:
    legal = 1 <= len(text) <= 64 and text[0] in FIRST and set(text) <= set(REST)
    if legal:
        assert check_name(text) == text
    else:
        with pytest.raises(ConfigError):
            check_name(text)


@pytest.mark.parametrize("name", ILLEGAL)
def test_what_a_topic_or_a_file_name_cannot_hold_is_refused_everywhere(name: str) -> None:
    for check in (check_name, check_meter, check_group):
        if check is check_group and name == "a/b":
            continue
        with pytest.raises(ConfigError):
            check(name)


@pytest.mark.parametrize("value", [None, 3, b"abc", ["a"]])
def test_what_is_no_text_is_refused(value: object) -> None:
    for check in (check_name, check_meter, check_group):
        with pytest.raises(ConfigError):
            check(value)  # type: ignore[arg-type]


def test_the_message_says_which_name_and_is_one_short_line() -> None:
    with pytest.raises(ConfigError, match=r"^quantity 'Xy' is not a legal name") as caught:
        check_name("Xy", "quantity")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        check_name("X" * 10_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["authority", "aggregator", "fleet", "aggregator-main", "aggregator-"])
def test_no_meter_is_called_like_a_role(name: str) -> None:
    assert check_name(name) == name
    with pytest.raises(ConfigError, match="role"):
        check_meter(name)


@pytest.mark.parametrize("name", ["aggregators", "my-aggregator", "authority1", "grid", "m"])
def test_meters_may_have_names_close_to_a_roles(name: str) -> None:
    assert check_meter(name) == name


@given(st.lists(names, min_size=1, max_size=8))
def test_a_group_is_a_path_of_one_to_eight_names(levels: list[str]) -> None:
    group = "/".join(levels)
    if levels[0] == "grid":
        with pytest.raises(ConfigError, match="roll-up"):
            check_group(group)
    else:
        assert check_group(group) == group


@pytest.mark.parametrize(
    "group", ["/".join("abcdefghi"), "", "/", "a/", "/a", "a//b", "grid", "grid/a", "a/B"]
)
def test_a_path_with_nine_levels_an_empty_one_or_under_grid_is_refused(group: str) -> None:
    with pytest.raises(ConfigError):
        check_group(group)


def test_grid_is_a_legal_name_below_the_first_level() -> None:
    assert check_group("north/grid") == "north/grid"


@given(st.lists(names, min_size=1, max_size=8).filter(lambda levels: levels[0] != "grid"))
def test_the_ancestors_of_a_group_are_its_prefixes_and_grid(levels: list[str]) -> None:
    group = "/".join(levels)
    expected = ["/".join(levels[:i]) for i in range(len(levels) - 1, 0, -1)] + ["grid"]
    assert list(ancestors(group)) == expected
    assert parent_group(group) == expected[0]


def test_grid_has_no_parent() -> None:
    assert parent_group("grid") is None
    assert ancestors("grid") == ()
