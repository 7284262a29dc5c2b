"""Topics: spelt in one place, parsed back, filtered as MQTT does."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import ConfigError, EnvelopeError
from gridhe.plan.names import check_meter
from gridhe.wire import topics

names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}", fullmatch=True)
groups = st.lists(names, min_size=1, max_size=8).filter(lambda levels: levels[0] != "grid").map("/".join)


def is_meter(name: str) -> bool:
    try:
        return bool(check_meter(name))
    except ConfigError:
        return False


def test_topics_are_spelt_as_documented() -> None:
    assert topics.batch("north/f1", "m1") == "gridhe/v1/batch/north/f1/m1"
    assert topics.receipt("m1") == "gridhe/v1/receipt/m1"
    assert topics.status_meter("m1") == "gridhe/v1/status/m1"
    assert topics.status_aggregator("main") == "gridhe/v1/status/aggregator/main"
    assert topics.STATUS_AUTHORITY == "gridhe/v1/status/authority"
    assert topics.plan("p0123456789abcdef") == "gridhe/v1/plan/p0123456789abcdef"
    assert topics.PLAN_CURRENT == "gridhe/v1/plan/current"
    assert topics.ROSTER_CURRENT == "gridhe/v1/roster/current"
    assert topics.total("north/f1") == "gridhe/v1/total/north/f1"
    assert topics.release("grid") == "gridhe/v1/release/grid"


@given(groups, names.filter(is_meter))
def test_a_batch_topic_is_parsed_back(group: str, meter: str) -> None:
    assert topics.parse_batch(topics.batch(group, meter)) == (group, meter)


@given(st.one_of(groups, st.just("grid")))
def test_a_total_topic_is_parsed_back(group: str) -> None:
    assert topics.parse_total(topics.total(group)) == group


WRONG = [
    "",
    "/",
    "gridhe/v1/",
    "gridhe/v2/batch/a/m",
    "x/gridhe/v1/batch/a/m",
    "gridhe/v1/batch",
    "gridhe/v1/batch/",
]


@pytest.mark.parametrize(
    "topic",
    [
        *WRONG,
        "gridhe/v1/batch/m1",
        "gridhe/v1/batch/a/",
        "gridhe/v1/batch//m",
        "gridhe/v1/batch/A/m",
        "gridhe/v1/batch/a/M",
        "gridhe/v1/batch/grid/m",
        "gridhe/v1/batch/a/authority",
        "gridhe/v1/batch/a/+",
        "gridhe/v1/batch/a/m\n",
        "gridhe/v1/batch/" + "a/" * 9 + "m",
        "gridhe/v1/total/a/m",
    ],
)
def test_what_is_no_batch_topic_is_an_envelope_error_named_topic(topic: str) -> None:
    with pytest.raises(EnvelopeError) as caught:
        topics.parse_batch(topic)
    assert caught.value.reason == "topic"


@pytest.mark.parametrize(
    "topic",
    [*WRONG, "gridhe/v1/total", *(f"gridhe/v1/{rest}" for rest in ("total/", "total/grid/a", "batch/a"))],
)
def test_what_is_no_total_topic_is_an_envelope_error_named_topic(topic: str) -> None:
    with pytest.raises(EnvelopeError) as caught:
        topics.parse_total(topic)
    assert caught.value.reason == "topic"


def parsed(parse: Callable[[str], object], topic: str) -> object:
    """What the topic is parsed to, or the reason of the EnvelopeError."""
    try:
        return parse(topic)
    except EnvelopeError as error:
        return error.reason


@given(st.text(max_size=40), st.sampled_from(["", "gridhe/v1/batch/", "gridhe/v1/total/"]))
def test_any_text_is_parsed_or_an_envelope_error(text: str, prefix: str) -> None:
    topic = prefix + text
    found = parsed(topics.parse_batch, topic)
    assert found == "topic" or (isinstance(found, tuple) and topics.batch(*found) == topic)
    group = parsed(topics.parse_total, topic)
    assert group == "topic" or (isinstance(group, str) and topics.total(group) == topic)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "taken"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/b", "a", False),
        ("a/b", "a/b/c", False),
        ("a", "a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a/+", "a/b/c", False),
        ("+/b", "a/b", True),
        ("a/+/c", "a/b/c", True),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "ab", False),
        ("a/b/#", "a", False),
        ("#", "a/b", True),
        ("+/+", "/a", True),
        ("+", "/a", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("$SYS/+", "$SYS/x", True),
        ("a/+", "a/$b", True),
    ],
)
def test_filters_take_topics_as_mqtt_says(topic_filter: str, topic: str, taken: bool) -> None:
    assert topics.matches(topic_filter, topic) is taken


@pytest.mark.parametrize(
    "topic_filter",
    [f"gridhe/v1/batch/{rest}" for rest in ("#", "+/+", "north/+/m1", "north/f1/#", "+/#")],
)  # fmt: skip
def test_a_legal_filter_is_given_back(topic_filter: str) -> None:
    assert topics.check_filter(topic_filter) == topic_filter


@pytest.mark.parametrize(
    "topic_filter",
    ["#", "$share/x/gridhe/v1/batch/#"]
    + [f"gridhe/v1/{rest}" for rest in ("#", "total/#", "batch/", "batch/#/a", "batch/a#", "batch/a+/b")],
)  # fmt: skip
def test_a_filter_that_is_illegal_or_takes_more_than_batches_is_refused(topic_filter: str) -> None:
    with pytest.raises(ConfigError):
        topics.check_filter(topic_filter)
