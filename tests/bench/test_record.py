"""Records go to a line of JSON and back, and nothing else passes for one."""

import json
from collections.abc import Callable

import pytest

from gridhe.bench.record import Figures, Record, encode_line, records_from_lines
from gridhe.errors import StoreError


def test_figures_are_the_quantiles_of_the_values() -> None:
    figures = Figures.of([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (figures.count, figures.least, figures.median, figures.most) == (5, 1.0, 3.0, 5.0)
    assert (figures.q25, figures.q75, figures.p95) == (2.0, 4.0, 4.8)
    assert figures.spread == pytest.approx(2 / 3)


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_figures_of_nothing_or_of_no_number_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        Figures.of(values)


def test_a_record_comes_back_from_its_line(make_record: Callable[..., Record]) -> None:
    records = [make_record(), make_record((1 / 3,), note='a "note"\nof two lines', better="higher")]
    assert records_from_lines([encode_line(record) for record in records], "here") == records


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "a record of format 2, this gridhe-bench reads format 1"),
        ({"median": "fast"}, "not a complete record"),
        ({"better": "bigger"}, "not a complete record"),
        ({"count": 0}, "not a complete record"),
        ({"suite": 7}, "not a complete record"),
        ({"machine": None}, "not a complete record"),
    ],
)
def test_a_line_that_is_no_record_is_named(
    make_record: Callable[..., Record], change: dict[str, object], said: str
) -> None:
    line = json.dumps({**json.loads(encode_line(make_record())), **change})
    with pytest.raises(StoreError, match=f"here, line 2: {said}"):
        records_from_lines([encode_line(make_record()), line], "here")


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '{"format": 1}'])
def test_junk_is_named(line: str) -> None:
    with pytest.raises(StoreError, match="here, line 1"):
        records_from_lines([line], "here")
