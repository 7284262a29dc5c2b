"""Tables of records: which figures are shown, and the notes under them."""

from collections.abc import Callable

from gridhe.bench.record import Record
from gridhe.bench.record_table import HEADINGS, aligned_records, markdown_records, noted_rows, rows_of

MakeRecord = Callable[..., Record]


def test_notes_stand_under_the_table_each_once(make_record: MakeRecord) -> None:
    scaled, sample = "measured on 16 numbers, times 128", "a sample of 9"
    records = [
        make_record(case="a", metric="load+add", note=scaled),
        make_record(case="b", metric="load+add"),
        make_record(case="c", metric="fold", note=sample),
        make_record(case="a", metric="size", note=scaled),
    ]
    lines = aligned_records(records).splitlines()
    assert lines[-2:] == [f"[1] {scaled}", f"[2] {sample}"]
    assert [line.count("[1]") for line in lines] == [0, 1, 0, 0, 1, 1, 0]
    text = markdown_records(records, suite=True)
    assert text.startswith("| suite | case |")
    assert "| load+add [1] |" in text
    assert text.endswith(f"|\n\n[1] {scaled}\n\n[2] {sample}")


def test_what_is_only_a_note_has_it_in_its_row(make_record: MakeRecord) -> None:
    rows, notes = noted_rows([make_record((1.0,), unit="note", note="phe does not import")])
    assert rows[0][HEADINGS.index("median")] == "phe does not import"
    assert notes == []


def test_tails_of_few_repeats_are_not_shown(make_record: MakeRecord) -> None:
    for count, shown in ((1, False), (4, False), (5, True)):
        row = dict(
            zip(HEADINGS, rows_of([make_record(tuple(float(i) for i in range(count)))])[0], strict=True)
        )
        assert (row["p95"] != "", row["p99"] != "") == (shown, shown)
        assert (row["spread"] != "") == (count > 1)
