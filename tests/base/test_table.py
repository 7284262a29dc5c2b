"""The one table printer."""

import io

from gridhe.base.table import aligned, markdown, print_table


def test_words_are_lined_up_left_and_numbers_right() -> None:
    rows = [["a", "1", "x"], ["longer", "1,000", "y"]]
    assert aligned(["what", "count", "of"], rows, right={1}) == (
        "what    count  of\na           1  x\nlonger  1,000  y"
    )


def test_a_printed_table_has_a_title_and_a_rule() -> None:
    text = io.StringIO()
    print_table("things", ["what", "count"], [["a", "1"], ["longer", "1,000"]], to=text)
    assert text.getvalue() == "things\nwhat    count\n------  -----\na           1\nlonger  1,000\n"


def test_markdown_marks_its_numbers_and_escapes_bars() -> None:
    assert markdown(["a|b", "n"], [["c|d", "1"]], right={1}) == "| a|b | n |\n| --- | ---: |\n| c\\|d | 1 |"


def test_a_table_without_rows_is_its_headings() -> None:
    assert aligned(["what", "count"], [], right={1}) == "what  count"
